"""Candidates as columns of numbers, for all of them are looked at at once (`estimates`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from dsl.data import dataclass
from parc.planning.space import AxisRole, FieldWays, PlanRules

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AxesBlock:
    """Candidates of the same axes: bunches, numbers of micro-batches, and the ways of ordering and sharding them."""

    axes: tuple[tuple[AxisRole, int], ...]
    microbatches: tuple[int, ...]
    bunches: tuple[PlanRules, ...]
    ways: FieldWays
    kinds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """Of each candidate that is kept. at: its block, and its place in it; kind, saver: of the layers that its time and
    its memory are reckoned with; waits: which share of what goes beside passes makes them longer all the same; what:
    its properties, by which what is learned of one is believed of others (`scouting`)."""

    at: Ints
    kind: Ints
    saver: Ints
    coef: Floats
    beside: Floats
    waits: Floats
    more: Floats
    states: Floats
    kept: Floats
    rest: Floats
    what: Ints

    def some(self, places: Ints) -> Columns:
        """Those at some places."""
        return Columns(**{f.name: getattr(self, f.name)[places] for f in fields(self)})


def joined(every: Sequence[Columns]) -> Columns:
    """All of them, one after the other."""
    return Columns(**{f.name: np.concatenate([getattr(of, f.name) for of in every]) for f in fields(Columns)})
