"""Schedules: each action on each micro-batch once, in order, and no group waits forever.

That every micro-batch comes once is checked on the rolled form, exactly, for any number of micro-batches. So are order
and hangs, where moments are found at which all could run (`schedules.moments`). Else they are checked by simulation,
for many micro-batches on the same schedules with fewer (`_shrunk`). This is enough:
away from its ends each list repeats itself with the micro-batch number going up, and what waits for what depends on
differences of micro-batches only, so that a circle of waiting actions in the middle would also be there with fewer. A
property test holds the shortened schedules against simulation of the whole ones. Irregular schedules are not shortened,
and refused (E0931) where they are long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from compiler.layout import TIME
from compiler.limits import CHECKED
from compiler.origin import Role
from compiler.program import ALL_CHUNKS, Affine, DeviceClass, For, FunctionPhase, Program, Run, Schedule, Update
from compiler.schedules import Action, ActionLoop, Edge, Turn, find_hang, loops, out_of_turn
from compiler.schedules.hang import DoneActions
from compiler.schedules.moments import in_time
from compiler.text.locations import Site
from compiler.verify.report import Report


def check_order(program: Program, report: Report, edges: Sequence[Edge]) -> None:
    """All groups' schedules, alone and together."""
    m, v = program.microbatches, program.homes.chunks
    fixed: dict[int, Schedule] = {}
    homes: dict[int, tuple[int, DeviceClass]] = {}
    for c, cls in enumerate(program.classes):
        for g in cls.groups:
            fixed[g], homes[g] = _at(cls.schedule, g), (c, cls)
            problem = _uncovered(fixed[g], cls, m, v, _spans_of(program, g))
            if problem is not None:
                report.error("E0640", Site(c, "schedule"), problem)
                break
    if report.failed:
        return
    if _in_order(fixed, homes, program, edges):
        return
    short, count = _shorten(fixed, homes, program, m, v)
    too_long = CHECKED.exceeded(program.groups, m, sum(_length(schedule) for schedule in short.values()))
    if too_long is not None:
        report.found.add(too_long)
        return
    turn = Turn(program.groups, v, count)
    lists = [_Actions(loops(short[g], 0, turn)) for g in range(program.groups)]
    for g, mine in enumerate(lists):
        problem = _disorder(mine, homes[g][1])
        if problem is not None:
            report.error("E0641", Site(homes[g][0], "schedule"), problem)
    if not report.failed:
        hang = find_hang(lists, edges, homes=program.homes)
        if hang is not None:
            stuck = homes[hang.waiting[0][0]][0]
            report.error("E0642", Site(stuck, "schedule"), f"the schedules hang: {hang}")


def _length(schedule: Schedule) -> int:
    """How many actions a group's schedule has."""
    return sum(
        e.high.base - e.low.base if isinstance(e, Run) else e.count.base * len(e.steps) if isinstance(e, For) else 1
        for e in schedule
    )


def _in_order(
    fixed: dict[int, Schedule], homes: dict[int, tuple[int, DeviceClass]], program: Program, edges: Sequence[Edge]
) -> bool:
    """Whether it is seen at once that nothing is out of order, and nothing hangs."""
    if any(ALL_CHUNKS in _chunks(e) for schedule in fixed.values() for e in schedule):
        return False  # as loops they may be as long as there are micro-batches
    turn = Turn.of(program)
    rows = [loops(fixed[g], 0, turn) for g in range(program.groups)]
    orderly = all(_orderly(row, _shared(homes[g][1])) for g, row in enumerate(rows))
    return orderly and in_time(rows, edges, program.homes)


def _chunks(e: Run | For | Update) -> tuple[int, ...]:
    return (e.chunk,) if isinstance(e, Run) else tuple(chunk for _, chunk, _ in e.steps) if isinstance(e, For) else ()


def _orderly(row: Sequence[ActionLoop], shared: Collection[int]) -> bool:
    """Whether a group's actions come by their ranks, and those of chunks that share a state by their micro-batches."""
    ranks = [action.kind.rank(action.chunk) for loop in row for action in loop.steps]
    if ranks != sorted(ranks) or any(
        loop.count > 1 and len({a.kind.rank(a.chunk) for a in loop.steps}) > 1 for loop in row
    ):
        return False
    return all(out_of_turn(row, chunk) is None for chunk in shared)


def _shared(cls: DeviceClass) -> dict[int, str]:
    """By chunk a state of the model without a part for each micro-batch: the last renews what all of them read."""
    return {s.chunk: s.name for s in cls.states if s.role is Role.STATE and TIME not in s.layout.split_axes}


class _Actions:
    """The actions of a group's loops, made when they are gone through."""

    def __init__(self, row: Sequence[ActionLoop]) -> None:
        self.row = row

    def __iter__(self) -> Iterator[Action]:
        return (action for loop in self.row for action in loop.actions())


def _at(schedule: Schedule, group: int) -> Schedule:
    """The schedule of one group, with numbers in place of affine expressions."""

    def number(a: Affine) -> Affine:
        return Affine(a.at(group))

    return tuple(
        replace(e, low=number(e.low), high=number(e.high))
        if isinstance(e, Run)
        else replace(e, count=number(e.count), steps=tuple((k, c, number(o)) for k, c, o in e.steps))
        if isinstance(e, For)
        else e
        for e in schedule
    )


# --- each micro-batch once -----------------------------------------------------------------------


def _spans_of(program: Program, group: int) -> list[range] | None:
    """Of each chunk of a group the micro-batches that go through it, where not all do."""
    homes = program.homes
    return [homes.span(s, program.microbatches) for s in homes.of(group)] if homes.ways > 1 else None


def _uncovered(
    schedule: Schedule, cls: DeviceClass, m: int, v: int, given: Sequence[range] | None = None
) -> str | None:
    """What is wrong with the set of actions of one group. given: of each chunk its micro-batches (None: all)."""
    updates = [i for i, e in enumerate(schedule) if isinstance(e, Update)]
    wanted = any(f.phase is FunctionPhase.UPDATE for f in cls.functions)
    if updates != ([len(schedule) - 1] if wanted else []):
        return "U comes once, at the end" if wanted else "U is scheduled, but there is no such function"
    spans: dict[tuple[FunctionPhase, int], list[tuple[int, int]]] = defaultdict(list)
    for e in schedule:
        if isinstance(e, Run):
            if e.low.base > e.high.base:
                return f"{e.action}[{e.low.base}..{e.high.base}] runs backwards"
            spans[e.action, e.chunk].append((e.low.base, e.high.base))
        elif isinstance(e, For):
            if e.count.base < 0 or e.stride < 1:
                return f"a loop of {e.count.base} iterations, {e.stride} micro-batches each"
            for key, found in _loop_spans(e).items():
                spans[key] += found
    functions = {(f.phase, f.chunk) for f in cls.functions if f.phase is not FunctionPhase.UPDATE}
    for kind, chunk in spans:
        known = all((kind, c) in functions for c in range(v)) if chunk == ALL_CHUNKS else (kind, chunk) in functions
        if not known and any(low < high for low, high in spans[kind, chunk]):
            return f"{kind} is scheduled for chunk {chunk}, but there is no such function"
    for kind, chunk in sorted(functions):
        both = (kind, ALL_CHUNKS) in spans
        if both and (kind, chunk) in spans:
            return f"{kind} is scheduled by chunk and for all chunks"
        wanted_of = range(m * v if both else m if kind.per_microbatch else 1)
        if given is not None and kind.of_chunk:
            wanted_of = range(0) if both else given[chunk]
        problem = _gap(sorted(spans[kind, ALL_CHUNKS if both else chunk]), wanted_of)
        if problem is not None:
            return f"{kind}{'.*' if both else f'.{chunk}' if chunk else ''}: {problem}"
    return None


def _loop_spans(e: For) -> dict[tuple[FunctionPhase, int], list[tuple[int, int]]]:
    """What each action of a loop covers: one range where its steps follow each other, else piece by piece."""
    offsets: dict[tuple[FunctionPhase, int], list[int]] = defaultdict(list)
    for kind, chunk, offset in e.steps:
        offsets[kind, chunk].append(offset.base)
    spans: dict[tuple[FunctionPhase, int], list[tuple[int, int]]] = {}
    for key, found in offsets.items():
        first, count = min(found), e.count.base
        if e.stride == len(found) and sorted(found) == list(range(first, first + e.stride)):
            spans[key] = [(first, first + e.stride * count)]
        else:
            rounds = min(count, CHECKED.most // len(found))
            spans[key] = [(i * e.stride + o, i * e.stride + o + 1) for i in range(rounds) for o in found]
    return spans


def _gap(spans: Sequence[tuple[int, int]], wanted: range) -> str | None:
    at, total = wanted.start, wanted.stop
    for low, high in spans:
        if low >= high:
            continue
        if low < at:
            return f"micro-batch {low} comes twice" if low >= wanted.start else f"there is no micro-batch {low}"
        if low > at:
            return f"micro-batch {at} is left out"
        at = high
    if at > total:
        return f"there is no micro-batch {total}"
    return f"micro-batch {at} is left out" if at < total else None


# --- fewer micro-batches -------------------------------------------------------------------------


def _shorten(
    fixed: dict[int, Schedule], homes: dict[int, tuple[int, DeviceClass]], program: Program, m: int, v: int
) -> tuple[dict[int, Schedule], int]:
    """The schedules with fewer micro-batches where there are many, as they are where there are few; how many."""
    near = program.stages + 4
    few = 3 * near
    if v > 1:
        few, near = _fewer_rounds(Turn.of(program), 3 * (2 * program.groups + 4))
    if m > 2 * few and program.homes.ways == 1:
        short = {g: _shrunk(s, m, few, v, near) for g, s in fixed.items()}
        good = {g: s for g, s in short.items() if s is not None and _uncovered(s, homes[g][1], few, v) is None}
        if len(good) == len(fixed):
            return good, few
    return fixed, m


def _fewer_rounds(turn: Turn, few: int) -> tuple[int, int]:
    """At least so many micro-batches in rounds of the same lengths, and how near to an end a number has to be. At one
    place rounds get shorter: both of its sides need as much, and what is near an end is far from there.

    A group begins with no more than 2 (groups - 1) actions and those of a round, of all chunks but one: however many
    chunks there are, less than of twice as many micro-batches as there are groups. Of those that wait for each other in
    a circle each group has one action.
    """
    size, longer = turn.rounds
    rounds = turn.microbatches // size
    most = -(-few // (2 * size))
    long = min(longer, max(most, -(-few // size) - (rounds - longer)))
    short = min(rounds - longer, max(most, -(-few // size) - long))
    few = long * (size + 1) + short * size
    sides = [n * size // 2 for n, of in ((long, longer), (short, rounds - longer)) if n < of]
    return few, min(few // 3, *sides) if sides else few // 3


def _shrunk(schedule: Schedule, m: int, few: int, v: int, near: int) -> Schedule | None:
    """The same schedule for `few` micro-batches: numbers near the end move, the long loops get shorter.

    None where a number is near neither end (`near` micro-batches): there is no telling what it would be with
    fewer. What is near one end stays well apart from what is near the other.
    """
    regular = True

    def cut(number: Affine, chunk: int, stride: int = 1) -> Affine:
        nonlocal regular
        scale = v if chunk == ALL_CHUNKS else 1
        at = number.base * stride
        if at <= near * scale:
            return number
        regular = regular and m * scale - at <= near * scale
        return Affine(number.base - (m - few) * scale // stride)

    found: list[Run | For | Update] = []
    for e in schedule:
        if isinstance(e, Run):
            found.append(replace(e, low=cut(e.low, e.chunk), high=cut(e.high, e.chunk)))
        elif isinstance(e, For):
            scales = {v if chunk == ALL_CHUNKS else 1 for _, chunk, _ in e.steps}
            if len(scales) != 1 or (m - few) * max(scales) % e.stride:
                return None
            chunk = e.steps[0][1]
            steps = tuple((kind, c, cut(offset, c)) for kind, c, offset in e.steps)
            found.append(replace(e, count=cut(e.count, chunk, e.stride), steps=steps))
        else:
            found.append(e)
    return tuple(found) if regular else None


# --- order within a group ------------------------------------------------------------------------


def _disorder(mine: Iterable[Action], cls: DeviceClass) -> str | None:
    functions = {(f.phase, f.chunk) for f in cls.functions}
    shared = _shared(cls)
    most: dict[int, int] = {}
    done = DoneActions()
    last: Action | None = None
    known: dict[tuple[FunctionPhase, int], tuple[tuple[int, int], FunctionPhase | None]] = {}
    """Of a function its rank, and the phase that goes before it, if the class has that: actions are many."""
    highest = (0, 0)
    for action in mine:
        key = action.kind, action.chunk
        if key not in known:
            before = action.kind.before
            known[key] = action.kind.rank(action.chunk), before if (before, action.chunk) in functions else None
        rank, before = known[key]
        if last is not None and rank < highest:
            return f"{last} comes before {action}"
        last, highest = action, rank
        if action.kind is FunctionPhase.FORWARD and action.chunk in shared:
            if action.mb < most.get(action.chunk, -1):
                return f"{action} comes behind later micro-batches, which share the state {shared[action.chunk]}"
            most[action.chunk] = action.mb
        if before is not None:
            needed = Action(before, action.chunk, action.mb)
            if needed not in done:
                return f"{action} comes before {needed}"
        done.add(action)
    return None
