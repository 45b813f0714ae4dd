"""Layers as loops: what comes again and again is written once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from dsl.data import dataclass

K = TypeVar("K", bound=Hashable)

LONGEST = 16
"""How many layers a period has at most."""


@dataclass(frozen=True, slots=True)
class LayerRun(Generic[K]):
    """`count` times these kinds of layers, one behind the other."""

    count: int
    kinds: tuple[K, ...]


def rolled(kinds: Sequence[K]) -> list[LayerRun[K]]:
    """Runs that give the layers, with as few layers written out as can be (those alike in a row are written once); of
    these with as few runs.

    Quadratic in the layers at most.
    """
    # up to each layer: layers written, runs, period and count of the last run
    best: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]
    for end in range(1, len(kinds) + 1):
        found = []
        for period in range(1, min(LONGEST, end) + 1):
            last = kinds[end - period : end]
            texts, count = len(counted(last)), 1
            while True:
                start = end - period * count
                written, before, *_ = best[start]
                if period == 1 or count > 1:
                    found.append((written + texts, before + 1, period, count))
                if start < period or kinds[start - period : start] != last:
                    break
                count += 1
        best.append(min(found))
    runs: list[LayerRun[K]] = []
    end = len(kinds)
    while end:
        _, _, period, count = best[end]
        runs.append(LayerRun(count, tuple(kinds[end - period : end])))
        end -= period * count
    return runs[::-1]


def counted(kinds: Sequence[K]) -> list[tuple[K, int]]:
    """Each kind with how often it stands there in a row."""
    found: list[tuple[K, int]] = []
    for kind in kinds:
        if found and found[-1][0] == kind:
            found[-1] = kind, found[-1][1] + 1
        else:
            found.append((kind, 1))
    return found
