"""Which stage has which layers of a model's one loop."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from compiler.passes.cuts import divided
from compiler.strategy import PipelineRule
from dsl.data import dataclass


class StageEnd(NamedTuple):
    """A stage that may end last. before: layers of the stages before, of their first chunks; own: all of its own;
    first: of its first chunk."""

    stage: int
    before: int
    own: int
    first: int


@dataclass(frozen=True, slots=True)
class StageCut:
    """A loop in stages, each of some chunks. first: layers of the first stage's first chunk; all: of all its chunks;
    longest: those that may end last, the last of all first."""

    first: int
    all: int
    longest: tuple[StageEnd, ...]


@lru_cache(4096)
def layer_counts(layers: int, parts: int) -> tuple[int, ...]:
    """How many layers each of so many parts has, as the compiler cuts a loop of so many iterations."""
    return tuple(divided(PipelineRule(("",), ""), {"": layers}, parts)[""])


@lru_cache(1024)
def stage_cut(layers: int, stages: int, chunks: int) -> StageCut:
    """As the compiler cuts a loop of so many iterations."""
    counts = layer_counts(layers, stages * chunks)
    own = [sum(counts[k::stages]) for k in range(stages)]
    before = list(accumulate(counts[: stages - 1], initial=0))
    found: list[StageEnd] = []
    for k in reversed(range(stages)):
        if len(found) < 2 or own[k] > found[-1].own:  # the last one sends less
            found.append(StageEnd(k, before[k], own[k], counts[k]))
    return StageCut(counts[0], own[0], tuple(found))
