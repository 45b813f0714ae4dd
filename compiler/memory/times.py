"""When something is there: runs of instructions or actions, each from its first to behind its last, in order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

Times = tuple[tuple[int, int], ...]
"""Runs that do not touch, first to last."""


def union(*times: Iterable[tuple[int, int]]) -> Times:
    """When any of them is there."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(chain(*times)):
        if found and start <= found[-1][1]:
            if stop > found[-1][1]:
                found[-1] = found[-1][0], stop
        elif stop > start:
            found.append((start, stop))
    return tuple(found)


def later(times: Times, by: int) -> Times:
    """The same, so much later."""
    return tuple([(start + by, stop + by) for start, stop in times])


def length(times: Times) -> int:
    """For how long it is there."""
    return sum([stop - start for start, stop in times])
