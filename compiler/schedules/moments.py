"""Moments for all actions of all groups: where there are such that nothing comes before what it needs, nothing hangs.

An action on micro-batch i has the moment `rate` · i + b, with a number b for each step of a loop of a schedule. Along a
schedule moments get later, and what an action waits for has an earlier one: so the action of those left that has the
earliest could always run. What is asked of the numbers are least differences, as many as there are steps of loops and
edges between them, however many micro-batches there are. Schedules of names have such moments; where none are found,
simulation tells (`find_hang`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from compiler.homes import Homes
from compiler.program import FunctionPhase
from compiler.schedules.actions import Action
from compiler.schedules.hang import Edge
from compiler.schedules.loops import ActionLoop
from dsl.data import dataclass

SWEEPS = 40
"""How often all differences are gone through: moments that are found at all are found in a few."""

MOST = 400_000
"""Steps of loops that are gone through."""


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One step of a loop. number: counted through all groups; action: the first that it runs."""

    number: int
    action: Action
    loop: ActionLoop

    @property
    def end(self) -> int:
        """The last micro-batch."""
        return self.action.mb + self.loop.by * (self.loop.count - 1)

    def meets(self, other: _Step) -> bool:
        """Whether both may run on one micro-batch."""
        apart, by = self.action.mb - other.action.mb, self.loop.by
        never = by == other.loop.by and by > 0 and apart % by != 0
        return not never and self.action.mb <= other.end and other.action.mb <= self.end


Least = tuple[int, int, int]
"""(a, b, n): the number of step b is larger than that of step a by n at least."""


def in_time(rows: Sequence[Sequence[ActionLoop]], edges: Iterable[Edge], homes: Homes) -> bool:
    """Whether there are moments. rows: each group's loops, that have each action once; edges: as `find_hang` has them.

    Of a chunk and a micro-batch, what comes first (`FunctionPhase.before`) is asked to come first, too.
    """
    if sum(len(loop.steps) for row in rows for loop in row) > MOST:
        return False
    steps: dict[tuple[int, FunctionPhase, int], list[_Step]] = {}
    placed: list[list[list[_Step]]] = []
    number = 0
    for g, row in enumerate(rows):
        placed.append([])
        for loop in row:
            own = [_Step(number + i, action, loop) for i, action in enumerate(loop.steps)]
            number += len(own)
            placed[-1].append(own)
            for s in own:
                steps.setdefault((g, s.action.kind, s.action.chunk), []).append(s)
    rate = max(1, number)  # as slow as if all did one after another: a larger one allows no more
    found = [d for row in placed for d in _along(row, rate)]
    for (g, kind, chunk), mine in steps.items():
        if kind.before is not None and (g, kind.before, chunk) in steps:
            found += _between(steps[g, kind.before, chunk], mine)
    for e in edges:
        first = steps.get((homes.group(e.stage), e.kind, homes.chunk(e.stage)), [])
        to = (homes.group(e.to), homes.chunk(e.to)) if e.to_kind.of_chunk else (e.to, None)
        chunks = [to[1]] if to[1] is not None else [c for g, kind, c in steps if (g, kind) == (to[0], e.to_kind)]
        for chunk in chunks:
            then = steps.get((to[0], e.to_kind, chunk), [])
            if _count(first) < _count(then):
                return False  # it would wait for what never comes
            found += _between(first, then)
    return _solved(number, found)


def _along(row: Sequence[Sequence[_Step]], rate: int) -> Iterator[Least]:
    """Each action of a group comes later than the one before it."""

    def later(a: _Step, b: _Step, after: int = 0, before: int = 0) -> Least:
        """after, before: by how many micro-batches the two are behind the first that their steps run."""
        return a.number, b.number, 1 + rate * (a.action.mb + after - b.action.mb - before)

    for steps in row:
        yield from (later(a, b) for a, b in pairwise(steps))
        if steps[0].loop.count > 1:
            yield later(steps[-1], steps[0], 0, steps[0].loop.by)
    for one, two in pairwise(row):
        yield later(one[-1], two[0], one[-1].end - one[-1].action.mb)


def _between(first: Sequence[_Step], then: Sequence[_Step]) -> Iterator[Least]:
    """Of the same micro-batch, the one action comes before the other."""
    return ((a.number, b.number, 1) for b in then for a in first if a.meets(b))


def _count(steps: Sequence[_Step]) -> int:
    return sum(s.loop.count for s in steps)


def _solved(number: int, least: Sequence[Least]) -> bool:
    """Whether numbers with such differences are found: the smallest, there and back through all groups in turn."""
    found = [0] * number
    for sweep in range(SWEEPS):
        still = True
        for a, b, n in least if sweep % 2 == 0 else reversed(least):
            if found[a] + n > found[b]:
                found[b] = found[a] + n
                still = False
        if still:
            return True
    return False
