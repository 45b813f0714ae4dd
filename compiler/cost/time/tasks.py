"""A function's work with its prices, still rolled: what each stream of a device does in order, and what it waits for.

A function is cut where it waits for other device groups. What the cut leaves together is a segment: computation, copies
and messages of each level of the cluster have a stream each, in the order of the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import log2
from typing import NamedTuple

from compiler.cost.kernels.work import Collective, Copy, Meet, Part, Post, Wait, WorkLoop, WorkNode
from compiler.cost.price.pricer import ABSENT, COMM, COMPUTE, COPY_IN, Pricer, picoseconds
from compiler.cost.time.ahead import gathers_first
from compiler.cost.time.task import BEFORE, HERE, Rolled, Task, Tasks
from dsl.data import dataclass


@dataclass(slots=True)
class Cut:
    """Of a function between two places where it waits for other device groups.

    waits: what must have come before it starts; posts: what it sends, each with the indices of the nodes that it waits
    for; meet: what stands at its end. nodes: with what they wait for, by index within the cut.
    """

    waits: list[Wait] = field(default_factory=list)
    posts: list[tuple[Post, tuple[int, ...]]] = field(default_factory=list)
    meet: Meet | None = None
    nodes: list[tuple[WorkNode, tuple[int, ...]]] = field(default_factory=list)


class Segment(NamedTuple):
    """A cut with prices. host: picoseconds in which the host dispatches its kernels; dispatched: of each message to
    another device group, picoseconds until the host has dispatched all that it waits for."""

    cut: Cut
    tasks: tuple[Tasks, ...]
    host: int
    dispatched: tuple[int, ...] = ()


def cuts(part: Part) -> tuple[Cut, ...]:
    """The cuts of a function, in order; they depend on no price."""
    found = [Cut()]
    at: list[tuple[int, ...]] = []  # node -> tasks of this cut whose ends are its end

    def close() -> None:
        found.append(Cut())
        at[:] = [()] * len(at)

    for node in part.nodes:
        now, work = found[-1], node.work
        deps = tuple(sorted({x for d in node.deps for x in at[d]}))
        if isinstance(work, Wait):
            if any(not _arrives(node) for node, _ in now.nodes):
                close()
            found[-1].waits.append(work)
            at.append(())
        elif isinstance(work, Post):
            now.posts.append((work, deps))
            at.append(deps)
        elif isinstance(work, Meet):
            now.meet = work
            close()
            at.append(())
        else:
            at.append((len(now.nodes),))
            now.nodes.append((node, deps))
    return tuple(found)


def _arrives(node: WorkNode) -> bool:
    """Whether it gathers what has come from another stage."""
    return isinstance(node.work, Collective) and node.work.role == "stages"


class Totals(NamedTuple):
    """Of a part: picoseconds of kernels and of messages beside them, and kernels that the host dispatches."""

    compute: int
    beside: int
    launches: float


NOTHING = Totals(0, 0, 0.0)


def totals(part: Part, pricer: Pricer, update: bool, times: int = 1) -> Totals:
    """Sums over all work."""
    compute = beside = 0
    launches = 0.0
    for _, priced, n in pricer.prices(part, update, times):
        launches += n * priced.launches
        if priced.stream == COMPUTE:
            compute += n * priced.ps
        elif not priced.blocking and priced.stream >= COMM:
            beside += n * priced.ps
    return Totals(compute, beside, launches)


def stretch(total: Totals, pricer: Pricer) -> float:
    """By how much kernels take longer: because messages run beside them, in proportion to the time that is shared, and
    because all servers wait for the one whose host is late, E[max] of n of which grows with log n (`jitter`).

    Sources: docs/costs.md (Calculon, Isaev et al. 2023: 15% inside a node, 2% between; Galvatron, Miao et
    al. 2022: 1.3).
    """
    beside = pricer.cal.slowdown * min(1.0, total.beside / total.compute) if total.compute else 0.0
    late = pricer.cal.jitter * log2(pricer.machine.servers) if pricer.cal.jitter else 0.0
    return (1.0 + beside) * (1.0 + late)


def tasks(
    part: Part,
    pricer: Pricer,
    update: bool = False,
    relief: Mapping[str, int] | None = None,
    shape: Sequence[Cut] | None = None,
) -> list[Segment]:
    """A function's segments. relief: picoseconds of its collectives that run before it begins or after it has ended, by
    their role; shape: its `cuts`, if they are known."""
    left = dict(relief or {})
    slower = stretch(totals(part, pricer, update) if pricer.cal.slowdown else NOTHING, pricer)
    found = []
    for cut in cuts(part) if shape is None else shape:
        launches = 0.0
        until: list[float] = []  # node -> kernels up to it, in the order in which the host dispatches them
        made: list[Tasks] = []
        for node, deps in cut.nodes:
            work = node.work
            if isinstance(work, WorkLoop):
                launches += totals(work.body, pricer, update, work.count).launches
                until.append(launches)
                made.append(_rolled(work, deps, (), pricer, update, slower))
                continue
            less = 0
            if isinstance(work, Collective) and left.get(work.role):
                less = min(left[work.role], pricer.price(work, update).ps)
                left[work.role] -= less
            task = _task(node, deps, (), pricer, update, slower, less)
            launches += task.priced.launches
            until.append(launches)
            made.append(task)
        host = pricer.cal.host
        posts = [picoseconds(max([until[d] for d in deps], default=0.0) * host) for _, deps in cut.posts]
        found.append(Segment(cut, tuple(made), picoseconds(launches * host), tuple(posts)))
    return found


def _task(
    node: WorkNode,
    deps: tuple[int, ...],
    carried: tuple[int, ...],
    pricer: Pricer,
    update: bool,
    slower: float,
    less: int = 0,
    inside: bool = False,
) -> Task:
    work = node.work
    priced = pricer.price(work, update) if not node.again or pricer.cal.reentrant > 0 else ABSENT
    if priced.stream == COMPUTE:
        ps = priced.ps if slower == 1.0 else round(priced.ps * slower)
        return Task(node, priced, COMPUTE, ps, deps, carried)
    ps = priced.ps - less
    also = tuple([(s, min(share, ps)) for s, share in priced.also])
    if not isinstance(work, Collective):
        early = HERE + work.ahead if isinstance(work, Copy) and priced.stream == COPY_IN else 0
        prefetch = early if inside else 0
        return Task(node, priced, priced.stream, ps, deps, carried, priced.blocking, priced.axes, also, (), prefetch)
    ahead = BEFORE if inside and work.role == "weights" and not node.deps and not node.carried else 0
    over = work.axes if work.role != "stages" else pricer.scattered(work.axes)
    return Task(node, priced, priced.stream, ps, deps, carried, priced.blocking, priced.axes, also, over, ahead)


def _rolled(
    loop: WorkLoop, deps: tuple[int, ...], carried: tuple[int, ...], pricer: Pricer, update: bool, slower: float
) -> Rolled:
    made: list[Tasks] = []
    streams, over = {COMPUTE}, set[tuple[str, ...]]()
    for node in loop.body.nodes:
        task: Tasks
        if isinstance(node.work, WorkLoop):
            task = _rolled(node.work, node.deps, node.carried, pricer, update, slower)
            streams.update(task.streams)
            over |= task.over
        else:
            task = _task(node, node.deps, node.carried, pricer, update, slower, inside=True)
            streams.update((task.stream, *(s for s, _ in task.also)))
            if task.over:
                over.add(task.over)
        made.append(task)
    needed = tuple(sorted({c for node in loop.body.nodes for c in node.carried}))
    rolled = Rolled(tuple(made), loop.count, deps, carried, tuple(sorted(streams)), needed, frozenset(over))
    return rolled if update or not pricer.cal.ahead else gathers_first(rolled, pricer.cal.ahead)
