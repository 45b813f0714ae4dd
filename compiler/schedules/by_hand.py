"""Schedules that somebody wrote: whether every action is there once, in order, and nobody waits forever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from compiler.homes import Homes
from compiler.limits import WRITTEN
from compiler.program import Affine, For, FunctionKey, FunctionPhase, Run, Schedule, Update
from compiler.schedules.actions import BACKWARD, FORWARD, WEIGHTS, Action
from compiler.schedules.hang import Edge, Hang, find_hang
from compiler.schedules.loops import ActionLoop
from compiler.schedules.moments import in_time
from compiler.strategy import ActionRow
from dsl.diagnostics import Diagnostic, ParcError


def action_loops(rows: Iterable[ActionRow]) -> tuple[ActionLoop, ...]:
    """The rows as loops of actions."""
    return tuple(
        ActionLoop(tuple(Action(FunctionPhase(kind), chunk, mb) for kind, chunk, mb in row.steps), row.count, row.by)
        for row in rows
    )


def written(rows: Iterable[ActionRow]) -> Schedule:
    """The rows as a program's schedule, with the update at its end."""
    found: list[Run | For | Update] = []
    for row in rows:
        steps = [(FunctionPhase(kind), chunk, mb) for kind, chunk, mb in row.steps]
        if len(steps) == 1 and row.by == 1:
            kind, chunk, mb = steps[0]
            found.append(Run(kind, chunk, Affine(mb), Affine(mb + row.count)))
        else:
            found.append(For(Affine(row.count), row.by, tuple((k, c, Affine(mb)) for k, c, mb in steps)))
    return (*found, Update())


def kinds_of(orders: Iterable[Sequence[ActionRow]]) -> tuple[FunctionPhase, ...]:
    """The passes of which a schedule consists: with the gradients of weights apart, if any group has them so."""
    late = any(kind == WEIGHTS for rows in orders for row in rows for kind, _, _ in row.steps)
    return (FORWARD, BACKWARD, WEIGHTS) if late else (FORWARD, BACKWARD)


def uncovered(
    rows: Sequence[ActionRow], kinds: Sequence[FunctionPhase], spans: Sequence[range], refusal: Diagnostic | None = None
) -> tuple[Action, int] | None:
    """What is wrong with the set of actions of one group: an action that comes not at all (0) or twice (2), or that
    there is not (-1); None if nothing is. spans: of each chunk its micro-batches; refusal: what is raised if the orders
    are long, and these have to be counted one by one."""
    there: dict[FunctionKey, list[tuple[int, int]]] = {(k, c): [] for k in kinds for c in range(len(spans))}
    for loop in action_loops(rows):
        of: dict[FunctionKey, list[int]] = {}
        for kind, chunk, mb in loop.steps:
            if (kind, chunk) not in there:
                return Action(kind, chunk, mb), -1
            of.setdefault((kind, chunk), []).append(mb)
        for key, steps in of.items():
            there[key] += _runs(sorted(steps), loop, refusal)
    for (kind, chunk), found in there.items():
        at, end = spans[chunk].start, spans[chunk].stop
        for low, high in sorted(found):
            if low < at:
                return Action(kind, chunk, low), 2 if low >= spans[chunk].start else -1
            if low > at:
                return Action(kind, chunk, at), 0
            at = high
        if at != end:
            return (Action(kind, chunk, at), 0) if at < end else (Action(kind, chunk, end), -1)
    return None


def _runs(steps: Sequence[int], loop: ActionLoop, refusal: Diagnostic | None) -> Iterable[tuple[int, int]]:
    """On which micro-batches the steps of one function are, from the first to behind the last of each run of them."""
    first = steps[0]
    if loop.count > 1 and list(steps) == [*range(first, first + loop.by)]:  # each time goes on where the last ended
        return [(first, first + loop.by * loop.count)]
    if refusal is not None and loop.count * len(steps) > WRITTEN.most:
        raise ParcError(refusal)
    return ((mb + i * loop.by, mb + i * loop.by + 1) for i in range(loop.count) for mb in steps)


def stuck(
    orders: Sequence[Sequence[ActionRow]],
    kinds: Sequence[FunctionPhase],
    homes: Homes,
    refusal: Diagnostic | None = None,
) -> Hang | None:
    """How the groups get stuck, if they do: each pass waits for that of the stage before, or behind, and for what comes
    first on its own stage. Linear in the actions only where no moments are found for all of them at once. refusal: what
    is raised if the orders are long, and nobody is stuck before as many have been as can be gone through."""
    loops = [action_loops(rows) for rows in orders]
    edges = [e for e in _edges(len(homes), kinds) if e.stage // homes.way == e.to // homes.way]
    if in_time(loops, edges, homes):
        return None
    played = count()
    return find_hang([_Actions(row, played, refusal) for row in loops], edges, homes=homes)


class _Actions:
    """The actions of a group, made when they are gone through."""

    def __init__(self, row: Sequence[ActionLoop], played: Iterator[int], refusal: Diagnostic | None) -> None:
        """played: counts those of all groups."""
        self.row = row
        self.played = played
        self.refusal = refusal

    def __iter__(self) -> Iterator[Action]:
        for loop in self.row:
            for action in loop.actions():
                if next(self.played) >= WRITTEN.most and self.refusal is not None:
                    raise ParcError(self.refusal)
                yield action


def _edges(stages: int, kinds: Sequence[FunctionPhase]) -> Iterator[Edge]:
    for s in range(stages):
        if s:
            yield Edge(s - 1, FORWARD, s, FORWARD)
            yield Edge(s, BACKWARD, s - 1, BACKWARD)
        yield Edge(s, FORWARD, s, BACKWARD)
        if WEIGHTS in kinds:
            yield Edge(s, BACKWARD, s, WEIGHTS)


def circle(hang: Hang) -> list[tuple[int, Action, int, Action]]:
    """Of groups that are stuck those that wait for one another, each with the action before which it waits, for whom
    and for what."""
    waits = {g: (g, action, other, wanted) for g, action, other, wanted in hang.waiting}
    path: list[int] = []
    at = hang.waiting[0][0]
    while at not in path:
        path.append(at)
        at = waits[at][2]
    return [waits[g] for g in path[path.index(at) :]]
