"""Rolled schedules: closed forms of a few elements, whatever the number of micro-batches; and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from compiler.program import ALL_CHUNKS, Affine, For, FunctionPhase, Run, Schedule, Update
from compiler.schedules.actions import (
    BACKWARD,
    FORWARD,
    UPDATE,
    WEIGHTS,
    Action,
    Turn,
    chain,
    interleaved_action,
    interleaved_ahead,
)

Element = Run | For | Update


def rolled(
    name: str, groups: int, chunks: int, microbatches: int, depth: Sequence[int] | None = None
) -> tuple[Schedule, ...]:
    """The rolled schedule of each group; arguments as in `actions`.

    All groups' schedules have the same elements (some of them empty), so that `families` can join them.
    """
    depths = chain(groups) if depth is None else tuple(depth)
    deepest = max(depths)
    return tuple(_one(name, groups, chunks, microbatches, d, deepest - d) for d in depths)


def _one(name: str, groups: int, chunks: int, m: int, depth: int, delay: int) -> Schedule:
    if name == "forward":
        return (_run(FORWARD, 0, m * chunks, ALL_CHUNKS if chunks > 1 else 0),)
    if name == "sequential":
        return (_loop(m, (FORWARD, 0), (BACKWARD, 0)), Update())
    if name == "gpipe":
        return (_run(FORWARD, 0, m), _run(BACKWARD, 0, m), Update())
    if name == "zero_bubble":
        return _zero_bubble(m, min(m, depth), min(m, delay))
    if name == "interleaved" and chunks > 1:
        return _one_f_one_b(m * chunks, interleaved_ahead(Turn(groups, chunks, m), depth), ALL_CHUNKS)
    return _one_f_one_b(m, min(m, depth), 0)


def _one_f_one_b(m: int, ahead: int, chunk: int) -> Schedule:
    return (
        _run(FORWARD, 0, ahead, chunk),
        _loop(m - ahead, (FORWARD, ahead), (BACKWARD, 0), chunk=chunk),
        _run(BACKWARD, m - ahead, m, chunk),
        Update(),
    )


def _zero_bubble(m: int, ahead: int, delay: int) -> Schedule:
    both = m - ahead  # iterations with a forward; `mid`: the first backward that has neither F before nor W after it
    mid = max(both, delay)
    return (
        _run(FORWARD, 0, ahead),
        _loop(min(delay, both), (FORWARD, ahead), (BACKWARD, 0)),
        _loop(max(both - delay, 0), (FORWARD, ahead + delay), (BACKWARD, delay), (WEIGHTS, 0)),
        _run(BACKWARD, both, mid),
        _loop(m - mid, (BACKWARD, mid), (WEIGHTS, mid - delay)),
        _run(WEIGHTS, m - delay, m),
        Update(),
    )


def _run(kind: FunctionPhase, low: int, high: int, chunk: int = 0) -> Run:
    return Run(kind, chunk, Affine(low), Affine(high))


def _loop(count: int, *steps: tuple[FunctionPhase, int], chunk: int = 0) -> For:
    return For(Affine(count), 1, tuple((kind, chunk, Affine(offset)) for kind, offset in steps))


# --- sharing -------------------------------------------------------------------------------------


def unify(groups: Sequence[int], schedules: Sequence[Schedule]) -> Schedule | None:
    """One schedule that is `schedules[i]` for `groups[i]`, with numbers affine in the group; None if there is none.

    Elements that are empty for all of the groups are left out.
    """
    first = schedules[0]
    skeletons = [_skeleton(s) for s in schedules]
    if any(k != skeletons[0] for k in skeletons):
        return None
    columns = list(zip(*(_numbers(s, g) for s, g in zip(schedules, groups, strict=True)), strict=True))
    fitted: list[Affine] = []
    for column in columns:
        slope, rest = (0, 0) if len(groups) == 1 else divmod(column[1] - column[0], groups[1] - groups[0])
        line = Affine(column[0] - slope * groups[0], slope)
        if rest or any(line.at(g) != x for g, x in zip(groups, column, strict=True)):
            return None
        fitted.append(line)
    numbers = iter(fitted)
    return tuple(e for e in (_refill(e, numbers) for e in first) if not _is_empty(e))


def families(
    schedules: Sequence[Schedule], groups: Sequence[int] | None = None
) -> list[tuple[tuple[int, ...], Schedule]]:
    """Groups that can share one schedule, neighbours joined as far as it goes. `groups`: default 0, 1, 2, …"""
    numbers = list(range(len(schedules)) if groups is None else groups)
    found: list[tuple[tuple[int, ...], Schedule]] = []
    start = 0
    while start < len(numbers):
        end, shared = _longest(numbers, schedules, start)
        found.append((tuple(numbers[start:end]), shared))
        start = end
    return found


def _longest(groups: Sequence[int], schedules: Sequence[Schedule], start: int) -> tuple[int, Schedule]:
    """Where the longest family that begins at `start` ends, and its schedule.

    What can be shared by some groups can be shared by the first of them, so doubling and halving finds it.
    """
    shared = unify(groups[start : start + 1], schedules[start : start + 1])
    assert shared is not None
    end, step, growing = start + 1, 1, True
    while step and end < len(groups):
        further = min(end + step, len(groups))
        more = unify(groups[start:further], schedules[start:further])
        if more is not None:
            end, shared = further, more
        growing = growing and more is not None
        step = 2 * step if growing else step // 2
    return end, shared


def _skeleton(schedule: Schedule) -> tuple[object, ...]:
    return tuple(
        ("run", e.action, e.chunk)
        if isinstance(e, Run)
        else ("for", e.stride, tuple((kind, chunk) for kind, chunk, _ in e.steps))
        if isinstance(e, For)
        else ("update",)
        for e in schedule
    )


def _affines(e: Element) -> tuple[Affine, ...]:
    if isinstance(e, Run):
        return (e.low, e.high)
    return (e.count, *(offset for _, _, offset in e.steps)) if isinstance(e, For) else ()


def _numbers(schedule: Schedule, group: int) -> list[int]:
    return [a.at(group) for e in schedule for a in _affines(e)]


def _refill(e: Element, it: Iterator[Affine]) -> Element:
    if isinstance(e, Run):
        return replace(e, low=next(it), high=next(it))
    if isinstance(e, For):
        count = next(it)
        return replace(e, count=count, steps=tuple((kind, chunk, next(it)) for kind, chunk, _ in e.steps))
    return e


def _is_empty(e: Element) -> bool:
    if isinstance(e, Run):
        return e.low == e.high
    return isinstance(e, For) and e.count == Affine(0)


# --- and back ------------------------------------------------------------------------------------


def unroll(schedule: Schedule, group: int, turn: Turn | None = None) -> list[Action]:
    """The actions of one group. turn: of the program, where its schedules interleave chunks."""
    found: list[Action] = []
    for e in schedule:
        if isinstance(e, Run):
            span = range(e.low.at(group), e.high.at(group))
            found += [_action(e.action, e.chunk, i, turn) for i in span]
        elif isinstance(e, For):
            steps = [(kind, chunk, offset.at(group)) for kind, chunk, offset in e.steps]
            found += [
                _action(kind, chunk, i * e.stride + offset, turn)
                for i in range(e.count.at(group))
                for kind, chunk, offset in steps
            ]
        else:
            found.append(UPDATE)
    return found


def _action(kind: FunctionPhase, chunk: int, i: int, turn: Turn | None) -> Action:
    if chunk != ALL_CHUNKS:
        return Action(kind, chunk, i)
    assert turn is not None, "the order of interleaved chunks is that of a program"
    return interleaved_action(kind, i, turn)
