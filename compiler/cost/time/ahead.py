"""Which message goes first where one layer's gradients are reduced while the next layer's weights are gathered.

In the order of the program a layer's gather stands behind the reduction of the layer before, on the same links, and
that waits for what the layer before computes. Systems issue the gather first (`BackwardPrefetch.BACKWARD_PRE` of
PyTorch), or of both messages a share changes places (G: the next layer's gather, R: this layer's reduction):

    share 0     R  G
    share s     s·G  (1-s)·R  (1-s)·G  s·R
    share 1     G  R
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from compiler.cost.kernels.work import Collective
from compiler.cost.time.task import HERE, Rolled, Task, Tasks


def gathers_first(loop: Rolled, share: float) -> Rolled:
    """The loop, with the gathers of the next iteration's weights in the iteration before: so much of them ahead of the
    reductions that use the same links. The first iteration gathers its own weights as a whole, the last one none."""
    tasks = loop.tasks
    reductions = [i for i, t in enumerate(tasks) if _beside(t, "gradients")]
    first: dict[int, list[int]] = {}  # reduction -> gathers that go before it
    last: dict[int, list[int]] = {}  # reduction -> gathers whose rest goes between the parts of it
    for g, task in enumerate(tasks):
        found = [
            r for r in reductions if task.prefetch and _beside(task, "weights") and _links(tasks[r]) & _links(task)
        ]
        if found:
            first.setdefault(found[0], []).append(g)
            last.setdefault(found[-1], []).append(g)
    if not first or loop.rounds < 2:
        return loop
    place, size = [], 0  # where in the new list what was at an index ends
    for i in range(len(tasks)):
        size += len(first.get(i, ())) + (1 + len(last[i]) if i in last and share < 1 else 0)
        place.append(size)
        size += 1
    always: list[Tasks] = []
    begins: list[Tasks] = []  # the first iteration
    ends: list[Tasks] = []
    parts: dict[int, list[int]] = {}  # gather -> where those of the next iteration are

    def put(task: Tasks, begin: Tasks | None = None, end: Tasks | None = None) -> None:
        always.append(task)
        begins.append(begin or task)
        ends.append(end or task)

    def gather(g: int, begin: float, end: float) -> None:
        parts.setdefault(g, []).append(len(always))
        put(_part(tasks[g], begin, end)._replace(prefetch=HERE), None, _join((), tasks[g]))

    def at(of: Iterable[int]) -> tuple[int, ...]:
        return tuple([place[x] for x in of])

    for i, task in enumerate(tasks):
        for g in first.get(i, ()):
            gather(g, 0.0, share)
        moved: Tasks = task._replace(deps=at(task.deps), carried=at(task.carried))
        if i in last and share < 1:
            put(_part(moved, 0.0, 1 - share))
            for g in last[i]:
                gather(g, share, 1.0)
            moved = _part(moved, 1 - share, 1.0)
        put(moved)
    for g, mine in parts.items():
        always[place[g]] = ends[place[g]] = _join(tuple(mine), tasks[g])
    needed = {*at(loop.needed), *(x for mine in parts.values() for x in mine)}
    return loop._replace(tasks=tuple(always), needed=tuple(sorted(needed)), first=tuple(begins), last=tuple(ends))


def _beside(task: Tasks, role: str) -> bool:
    """Whether it is a message of this role that goes beside computation."""
    work = task.node.work if isinstance(task, Task) and not task.blocking else None
    return isinstance(work, Collective) and work.role == role


def _links(task: Tasks) -> set[int]:
    return {task.stream, *(s for s, _ in task.also)} if isinstance(task, Task) else set()


def _part(task: Tasks, begin: float, end: float) -> Task:
    """Of a message what lies between two shares of it."""
    assert isinstance(task, Task)

    def of(whole: int) -> int:
        return round(end * whole) - round(begin * whole)

    ps = of(task.ps)
    also = tuple([(s, min(ps, of(share))) for s, share in task.also])
    return task._replace(ps=ps, also=also, priced=replace(task.priced, sent=(end - begin) * task.priced.sent))


def _join(carried: tuple[int, ...], of: Tasks) -> Rolled:
    """In the place of a message: what takes no time and no link, and has ended as soon as what it waits for has."""
    return Rolled((), 0, (), carried, (), (), frozenset(), of.axes)
