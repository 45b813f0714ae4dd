"""A group's schedule as plain loops, as long for any number of micro-batches: what repeats, and by how much it shifts.

In a rolled schedule elements may count (chunk, micro-batch) pairs (`ALL_CHUNKS`); here every action has its chunk. What
an interleaved schedule repeats is a round of micro-batches through all chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import gcd

from compiler.program import ALL_CHUNKS, For, FunctionKey, FunctionPhase, Run, Schedule
from compiler.schedules.actions import UPDATE, Action, Turn, interleaved_action
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class ActionLoop:
    """`count` times the same actions, each time on micro-batches that come `by` later; `steps`: those of the first."""

    steps: tuple[Action, ...]
    count: int = 1
    by: int = 0

    @property
    def keys(self) -> tuple[FunctionKey, ...]:
        """The functions of its actions, in order."""
        return tuple(a[:2] for a in self.steps)

    def runs(self, step: Action, mb: int) -> bool:
        """Whether one of its steps comes to a micro-batch."""
        times, rest = divmod(mb - step.mb, self.by) if self.by else (0, mb - step.mb)
        return rest == 0 and 0 <= times < self.count

    def actions(self) -> Iterator[Action]:
        """All of them."""
        for i in range(self.count):
            by = i * self.by
            for kind, chunk, mb in self.steps:
                yield Action(kind, chunk, mb + by)


def out_of_turn(row: Sequence[ActionLoop], chunk: int) -> int | None:
    """Which of a group's loops is the first with a forward pass of the chunk on a micro-batch behind a later one.

    Linear in what is written, not in micro-batches."""
    most = 0
    for i, loop in enumerate(row):
        of = [a.mb for a in loop.steps if a[:2] == (FunctionPhase.FORWARD, chunk)]
        if of != sorted(of) or (of and (of[0] < most or (loop.count > 1 and of[0] + loop.by < of[-1]))):
            return i
        most = of[-1] + loop.by * (loop.count - 1) if of else most
    return None


def loops(schedule: Schedule, group: int, turn: Turn) -> tuple[ActionLoop, ...]:
    """The loops of one group, none of them empty. turn: of the program. Their actions are those of `unroll`."""
    found: list[ActionLoop] = []
    for e in schedule:
        if isinstance(e, Run):
            low, count = e.low.at(group), e.high.at(group) - e.low.at(group)
            found += _loops(count, 1, [(e.action, e.chunk, low)], turn)
        elif isinstance(e, For):
            found += _loops(e.count.at(group), e.stride, [(k, c, o.at(group)) for k, c, o in e.steps], turn)
        else:
            found.append(ActionLoop((UPDATE,)))
    return tuple(loop for loop in found if loop.count > 0 and loop.steps)


def _loops(
    count: int, stride: int, steps: Sequence[tuple[FunctionPhase, int, int]], turn: Turn
) -> Iterator[ActionLoop]:
    """`count` iterations of (action, chunk, number in the first iteration), numbers `stride` apart."""
    interleaved = [number for _, chunk, number in steps if chunk == ALL_CHUNKS]
    if not interleaved:
        yield ActionLoop(tuple(Action(*step) for step in steps), count, stride)
        return
    size, longer = turn.rounds
    start = (size + 1) * longer * turn.chunks  # where the longer rounds end
    crossed = {min(max(-((number - start) // stride), 0), count) for number in interleaved}
    for low, high in pairwise(sorted({0, count, *crossed})):
        lengths = {size + (low * stride + number < start) for number in interleaved}
        if len(lengths) == 1 and len(interleaved) == len(steps):
            length = lengths.pop()
            period = length * turn.chunks // gcd(length * turn.chunks, stride)
            times = (high - low) // period
            if times > 1:
                first = tuple(_actions(low, low + period, stride, steps, turn))
                yield ActionLoop(first, times, period * stride // turn.chunks)
                low += times * period
        if low < high:
            yield ActionLoop(tuple(_actions(low, high, stride, steps, turn)))


def _actions(
    low: int, high: int, stride: int, steps: Sequence[tuple[FunctionPhase, int, int]], turn: Turn
) -> Iterator[Action]:
    for i in range(low, high):
        for kind, chunk, number in steps:
            at = i * stride + number
            yield interleaved_action(kind, at, turn) if chunk == ALL_CHUNKS else Action(kind, chunk, at)
