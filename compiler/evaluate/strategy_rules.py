"""The rules of a strategy while it is evaluated."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from compiler.evaluate.orders import Orders
from compiler.evaluate.pipelines import Microbatches
from compiler.strategy import (
    ImplementRule,
    LayoutRule,
    MeshAxis,
    OffloadRule,
    PageRule,
    PipelineRule,
    PlaceRule,
    RecomputeRule,
    ReduceRule,
    RunRule,
    ShardRule,
    SplitRule,
    StoreRule,
)
from dsl.data import dataclass
from dsl.source import Span

if TYPE_CHECKING:
    from compiler.implement.replacing import Implementation


@dataclass
class StrategyRules:
    """The rules found so far. A list is a field of `Strategy`, of the same name."""

    axes: list[MeshAxis] = field(default_factory=list)
    mesh: Span | None = None
    splits: list[SplitRule] = field(default_factory=list)
    shards: list[ShardRule] = field(default_factory=list)
    reductions: list[ReduceRule] = field(default_factory=list)
    layouts: list[LayoutRule] = field(default_factory=list)
    laid_out: dict[str, Span] = field(default_factory=dict)
    pipelines: list[PipelineRule] = field(default_factory=list)
    places: list[PlaceRule] = field(default_factory=list)
    recomputes: list[RecomputeRule] = field(default_factory=list)
    offloads: list[OffloadRule] = field(default_factory=list)
    runs: list[RunRule] = field(default_factory=list)
    stores: list[StoreRule] = field(default_factory=list)
    caches: list[StoreRule] = field(default_factory=list)
    activations: list[StoreRule] = field(default_factory=list)
    pages: PageRule | None = None
    implementations: list[ImplementRule] = field(default_factory=list)
    by_hand: list[Implementation] = field(default_factory=list)
    by_stage: Orders | None = None
    microbatches: Microbatches | None = None
    two_passes: bool = False
    fuses: bool = True
