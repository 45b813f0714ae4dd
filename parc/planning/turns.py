"""How long iterations of a loop last, for all numbers of them at once: what playing the loop so often gives for each
(`compiler.cost.time.step`), of devices that are alike and of a loop with none inside.

After each iteration it is known when all streams have ended. Once an iteration is the one before, shifted in time, so
are all that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compiler.cost.price.pricer import COMPUTE
from compiler.cost.time.task import HERE, Rolled, Task, Tasks


def durations(loop: Rolled, streams: int, most: int) -> list[int]:
    """Picoseconds of 1, 2, … `most` iterations, until all streams have ended. Where the last iteration does something
    else (`Rolled.last`), there are two at least: the first number is of one iteration as others are."""
    device = _Iterating(streams, loop)
    every, first, last = _plain(loop.tasks), _plain(loop.first), _plain(loop.last)
    if not last:
        return device.through(first or every, every, most)
    found = _Iterating(streams, loop).through(every, every, 1)
    device.turn(first or every)
    while len(found) < most:
        at_end = device.copy()
        at_end.turn(last)
        found.append(max(at_end.free))
        _go_on(found, device.by, most)
        device.turn(every)
    return found[:most]


def _go_on(found: list[int], by: int | None, most: int) -> None:
    """As many as there are to be, where each is the one before and so much time."""
    if by is not None:
        found += [found[-1] + by * k for k in range(1, most - len(found) + 1)]


class _Plain(NamedTuple):
    """A task. stream: -1 for none; since: how many iterations before it may begin, -1 as soon as the loop does."""

    stream: int
    ps: int
    deps: tuple[int, ...]
    carried: tuple[int, ...]
    blocking: bool
    also: tuple[tuple[int, int], ...]
    since: int


def _plain(tasks: Sequence[Tasks]) -> list[_Plain]:
    return [
        _Plain(t.stream, t.ps, t.deps, t.carried, t.blocking, t.also, t.prefetch - HERE)
        if isinstance(t, Task)
        else _Plain(-1, 0, t.deps, t.carried, False, (), t.prefetch - HERE)
        for t in tasks
    ]


class _Iterating:
    """A device that goes through iterations. free: when each stream ends; by: by how much time all that follow are
    shifted, if they are as the last one."""

    def __init__(self, streams: int, loop: Rolled) -> None:
        self.loop = loop
        self.free = [0] * streams
        self.before: list[int] | None = None
        self.began: list[int] = []
        every = (*loop.tasks, *loop.first, *loop.last)
        self.deep = max((t.prefetch for t in every), default=0)
        self.shape: tuple[int, ...] = ()
        self.by: int | None = None

    def copy(self) -> _Iterating:
        """As it is now."""
        found = _Iterating.__new__(_Iterating)
        found.__dict__.update(self.__dict__)
        found.free = self.free.copy()
        return found

    def turn(self, tasks: Sequence[_Plain]) -> None:
        """One iteration."""
        free, before = self.free, self.before
        now = free[COMPUTE]
        began = self.began = [now, *self.began[: max(0, self.deep - HERE)]]
        ends: list[int] = []
        for stream, ps, deps, carried, blocking, also, since in tasks:
            at = began[since] if 0 <= since < len(began) else 0
            for d in deps:
                if ends[d] > at:
                    at = ends[d]
            if before is not None:
                for d in carried:
                    if before[d] > at:
                        at = before[d]
            if stream < 0:
                ends.append(at)
                continue
            if free[stream] > at:
                at = free[stream]
            if stream != COMPUTE:
                for s, _ in also:
                    if free[s] > at:
                        at = free[s]
                if blocking and free[COMPUTE] > at:
                    at = free[COMPUTE]
                for s, share in also:
                    free[s] = at + share
                if blocking:
                    free[COMPUTE] = at + ps
            free[stream] = at + ps
            ends.append(at + ps)
        self.before = ends
        zero = free[COMPUTE]
        times = [*began, *(free[s] for s in self.loop.streams), *(ends[d] for d in self.loop.needed)]
        shape = tuple([t - zero for t in times])
        self.by = zero - now if shape == self.shape else None
        self.shape = shape

    def through(self, first: Sequence[_Plain], every: Sequence[_Plain], most: int) -> list[int]:
        """When all streams have ended, after each of so many iterations."""
        found: list[int] = []
        while len(found) < most:
            self.turn(every if found else first)
            found.append(max(self.free))
            _go_on(found, self.by, most)
        return found
