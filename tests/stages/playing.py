"""Schedules on the clock, by rules of their own: passes of so many moments, messages that take none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.homes import Homes
from compiler.schedules import Action


def played(lists: Sequence[Sequence[Action]], homes: Homes, times: Mapping[str, int]) -> int:
    """When the last pass ends of stages in a row (of each way) that wait for each other."""
    done: dict[tuple[str, int, int], int] = {}
    at, clock = [0] * len(lists), [0] * len(lists)
    while any(k < len(mine) for k, mine in zip(at, lists)):
        before = sum(at)
        for g, mine in enumerate(lists):
            for kind, chunk, mb in mine[at[g] :]:
                s = homes.stage(g, chunk) if kind in times else -1
                needs = {"F": [("F", s - 1)], "B": [("B", s + 1), ("F", s)], "W": [("B", s)]}.get(kind, [])
                waits = [(k, v, mb) for k, v in needs if v // homes.way == s // homes.way]
                if any(key not in done for key in waits):
                    break
                clock[g] = max([clock[g], *(done[key] for key in waits)]) + times.get(kind, 0)
                done[kind, s, mb] = clock[g]
                at[g] += 1
        assert sum(at) > before
    return max(clock)
