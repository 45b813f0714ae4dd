"""A strategy for a model and a cluster: its rules, put together and looked at as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from math import prod
from typing import TYPE_CHECKING, Any

from compiler.evaluate.axes import check_axes, idle_axes
from compiler.evaluate.index import ModelIndex
from compiler.evaluate.inner_loops import beside_places
from compiler.evaluate.layers import LoopCuts
from compiler.evaluate.modules import Module
from compiler.evaluate.orders import with_orders
from compiler.evaluate.pipelines import Microbatches, check_microbatches
from compiler.evaluate.session import Session
from compiler.evaluate.statics import static_scope
from compiler.evaluate.strategy import Expander
from compiler.evaluate.strategy_rules import StrategyRules
from compiler.evaluate.values import Defined, Skip
from compiler.evaluate.zigzags import check_microbatch_order
from compiler.model import Cluster
from compiler.strategy import Strategy
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail, plural

if TYPE_CHECKING:
    from compiler.implement.replacing import Implementation


def build_strategy(
    session: Session, module: Module, name: ast.Name, index: ModelIndex | None, cluster: Cluster | None
) -> Strategy:
    """The strategy of this name for a model and a cluster (each may be unknown). Raises ParcError or Skip."""
    return build_plan(session, module, name, index, cluster).strategy


@dataclass(frozen=True, slots=True)
class PlannedStrategy:
    """A strategy, and what it says by hand. cuts: loops that are to be cut before it can be told for the model: there
    it is not what counts."""

    strategy: Strategy
    by_hand: tuple[Implementation, ...] = ()
    cuts: Mapping[str, LoopCuts] = field(default_factory=dict)


def build_plan(
    session: Session, module: Module, name: ast.Name, index: ModelIndex | None, cluster: Cluster | None
) -> PlannedStrategy:
    """As `build_strategy`, and what else it says."""
    entry = module.find("strategy", name)
    item = entry.item
    assert isinstance(item, ast.Strategy)
    if item.model is not None and index is not None and item.model.id != index.model.name:
        message = f"the strategy `{entry.name}` is for `{item.model.id}`, not for `{index.model.name}`"
        raise fail("E0414", message, name.span, notes=[("it is declared here", item.model.span)])
    expander = Expander(session, entry, index, cluster)
    before = session.failures
    expander.run(item.body, static_scope(entry.module))
    rules = expander.rules
    if index is not None and session.failures == before:
        try:
            beside_places(expander.whole, (*rules.places, *rules.pipelines), rules.axes, index, expander.cuts)
        except ParcError as error:
            session.failed(error)
    by_hand: tuple[Implementation, ...] = ()
    if expander.cuts and session.failures == before:
        return PlannedStrategy(Strategy(entry.name, tuple(rules.axes), span=item.span), cuts=expander.cuts)
    micro = rules.microbatches or Microbatches(1, None, False, item.span)
    if session.failures == before:
        rules.pipelines = with_orders(rules.pipelines, rules.by_stage, micro.count, rules.axes)
    if index is not None:
        try:
            check_microbatches(rules.microbatches, rules.splits, rules.axes, index)
            if rules.microbatches is not None and rules.microbatches.count > 1:
                first = next((i.value.type.names[0] for i in index.model.inputs if i.value.type.dims), "")
                dim = rules.microbatches.dim or first
                check_microbatch_order(dim, rules.splits, rules.microbatches.span)
            by_hand = _by_hand(rules, index) if rules.by_hand else ()
        except ParcError as error:
            session.failed(error)
    if session.failures > before:
        raise Skip
    collected = {f.name: getattr(rules, f.name, None) for f in fields(Strategy)}
    by_kind: dict[str, Any] = {kind: tuple(found) for kind, found in collected.items() if isinstance(found, list)}
    found = Strategy(
        entry.name,
        tuple(rules.axes),
        **by_kind,
        microbatches=micro.count,
        microbatch_dim=micro.dim,
        two_passes=rules.two_passes,
        pages=rules.pages,
        fuses=rules.fuses,
        span=item.span,
        microbatch_span=micro.span,
        microbatch_pad=micro.pad,
    )
    check_axes(found)
    _check_cluster(rules, entry, cluster)
    for warning in idle_axes(found):
        session.diagnostics.add(warning)
    return PlannedStrategy(found, by_hand)


def _by_hand(rules: StrategyRules, index: ModelIndex) -> tuple[Implementation, ...]:
    """All implementations, with their device dims; what later passes know of them follows. Raises E0420."""
    from compiler.evaluate.implement import named, rule

    found = named(rules.by_hand, index)
    rules.implementations = [rule(i, r.by, r.span) for i, r in zip(found, rules.implementations)]
    return found


def _check_cluster(rules: StrategyRules, entry: Defined, cluster: Cluster | None) -> None:
    if cluster is None:
        return
    count = prod(axis.size for axis in rules.axes)
    if count != cluster.devices:
        product = " x ".join(f"{a.name}={a.size}" for a in rules.axes) or "1"
        levels = " x ".join(f"{level.name}: {level.count}" for level in reversed(cluster.levels))
        there = f"the cluster `{cluster.name}` {cluster.devices} ({levels})"
        message = f"the mesh has {plural(count, 'device')} ({product}), {there}"
        help = "each device of the cluster must have its place in the mesh: change a size or add an axis"
        raise fail("E0406", message, rules.mesh or entry.item.name.span, help=help)
