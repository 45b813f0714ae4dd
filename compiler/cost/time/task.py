"""What a stream of a device does: tasks, and loops of them that stay rolled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

from compiler.cost.kernels.work import WorkNode
from compiler.cost.price.kinds import NOTHING, Over
from compiler.cost.price.pricer import Priced

HERE, BEFORE = 1, 2
"""A task with a `prefetch` starts no sooner than the iteration in which it stands, or than the one before it; with
n + 1, than n iterations before."""


class Task(NamedTuple):
    """A kernel, message or copy: `ps` picoseconds of a stream, and of those of links of inner levels that it needs as
    well, from its start (`also`).

    deps: tasks of the same list that must have ended; carried: of the loop's iteration before. blocking: computation
    waits for it. axes: of a message, for people; over: the mesh axes of the devices that it is done with. prefetch: it
    gathers what a loop's iteration needs of weights, and nothing that the iteration computes (`BEFORE`); or what the
    next iteration needs (`HERE`); or fetches from another memory what is needed so many iterations later.
    """

    node: WorkNode
    priced: Priced
    stream: int
    ps: int
    deps: tuple[int, ...]
    carried: tuple[int, ...] = ()
    blocking: bool = False
    axes: Over = NOTHING
    also: tuple[tuple[int, int], ...] = ()
    over: tuple[str, ...] = ()
    prefetch: int = 0


class Rolled(NamedTuple):
    """`rounds` iterations of the same tasks. streams: those that they use; needed: tasks whose ends the next iteration
    waits for; over: the mesh axes of all its messages. first, last: what the first iteration and the last do in place
    of some of the tasks, where they do."""

    tasks: tuple[Tasks, ...]
    rounds: int
    deps: tuple[int, ...]
    carried: tuple[int, ...]
    streams: tuple[int, ...]
    needed: tuple[int, ...]
    over: frozenset[tuple[str, ...]]
    axes: Over = NOTHING
    prefetch: int = 0
    first: tuple[Tasks, ...] = ()
    last: tuple[Tasks, ...] = ()

    def of(self, i: int) -> tuple[Tasks, ...]:
        """The tasks of an iteration."""
        return self.first if self.first and i == 0 else self.last if self.last and i == self.rounds - 1 else self.tasks


Tasks = Union[Task, Rolled]  # noqa: UP007 (recursive)


def longest(tasks: Sequence[Tasks]) -> int:
    """Picoseconds of all tasks one after the other: no order of them takes longer."""
    return sum(t.rounds * longest(t.tasks) if isinstance(t, Rolled) else t.ps for t in tasks)
