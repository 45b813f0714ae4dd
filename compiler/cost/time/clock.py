"""When everything happens: a pass over a plan, with the durations of a machine.

When the classes of a group end a segment is linear over (max, +) in when they begin it: each ends at the maximum, over
the classes, of a beginning plus a constant, since all that happens inside are sums and maxima (`Row`). With one class
that is its duration.

Of the repetitions of a stretch no more are played than it takes until the devices repeat themselves in time, too
(`steady`); the others are left out, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from compiler.cost.time.order import Plan
from compiler.cost.time.stretch import PlanStep
from compiler.limits import PRICED
from dsl.data import dataclass
from dsl.diagnostics import ParcError

Row = tuple[tuple[int, int], ...]
"""Pairs (class, picoseconds): something happens at the maximum of the class's beginning plus that."""


class Timing(NamedTuple):
    """Of a segment on the devices of a class: when it ends, when its messages are ready, and how long it works."""

    end: Row
    posts: tuple[Row, ...]
    busy: int


class Durations(NamedTuple):
    """Picoseconds. timings: of a plan's lines; posts: of its routes, how long each message takes; meets: how long each
    all-reduce between groups takes; blocking: a device goes on when what it sends has gone."""

    timings: Sequence[Timing]
    posts: Sequence[int]
    meets: Sequence[int]
    blocking: bool


class Moments(NamedTuple):
    """Picoseconds, of steps that were played: when each starts and ends, and when each of their messages has gone."""

    starts: list[int]
    stops: list[int]
    gone: list[int]


class Watch(Protocol):
    """Whoever wants to know what happens in between."""

    def round(self, steps: Sequence[PlanStep], by: int, played: Moments, came: Sequence[int]) -> None:
        """Steps were played, on micro-batches that come `by` later than they say; came: as of `Result`."""

    def mark(self) -> Sequence[int]:
        """What it has added up."""

    def repeat(self, mark: Sequence[int], times: int) -> None:
        """What it has added up since then comes `times` more."""


@dataclass(slots=True)
class Result:
    """Picoseconds. ends: of the classes; came, over: when the last one comes to each all-reduce between groups, and
    when it is over."""

    ends: list[int]
    came: list[int]
    over: list[int]


class Clock:
    """Plays steps. now, link: of each class, when it goes on, and when its link is free; arrived: when messages have,
    those of the last `window` micro-batches.

    bound, ready: the last repetition in which somebody waited for a message, and in which the link of a class waited
    for what it had to send.
    """

    def __init__(self, plan: Plan, durations: Durations) -> None:
        self.plan, self.durations = plan, durations
        self.now, self.link = [0] * plan.classes, [0] * plan.classes
        self.arrived = [0] * (plan.lanes * plan.window)
        self.came = [0] * len(durations.meets)
        self.bound: dict[int, int] = {}
        self.ready: dict[int, int] = {}

    def play(self, steps: Sequence[PlanStep], later: int = 0, number: int = 0) -> Moments:
        """later: by how much numbers of messages are higher; number: of the repetition."""
        timings, posts, meets, blocking = self.durations
        now, link, arrived, came, size = self.now, self.link, self.arrived, self.came, len(self.arrived)
        bound, ready_at = self.bound, self.ready
        starts: list[int] = []
        stops: list[int] = []
        gone: list[int] = []
        first = 0
        for at, (cls, line, waits, outgoing, after, meet, others, _) in enumerate(steps):
            start = now[cls] if after < 0 else came[after] + meets[after]
            for message in waits:
                then = arrived[(message + later) % size]
                if then > start:
                    start = then
                    bound[message] = number
            starts.append(start)
            if others:
                continue
            for mine in range(first, at + 1):  # the classes of a group end together what they have begun
                if first < at:
                    cls, line, _, outgoing, _, meet, _, _ = steps[mine]
                row, ready, _ = timings[line]
                end = 0
                for o, ps in row:
                    then = starts[first + o] + ps
                    if then > end:
                        end = then
                stops.append(end)
                for (message, route), row in zip(outgoing, ready) if outgoing else ():
                    begin = link[cls]
                    for o, ps in row:
                        then = starts[first + o] + ps
                        if then > begin:
                            begin = then
                            ready_at[cls] = number
                    link[cls] = arrived[(message + later) % size] = begin = begin + posts[route]
                    gone.append(begin)
                    if blocking and begin > end:
                        end = begin
                if meet >= 0 and end > came[meet]:
                    came[meet] = end
                now[cls] = end
            first = at + 1
        return Moments(starts, stops, gone)


def evaluate(plan: Plan, durations: Durations, watch: Watch | None = None, whole: bool = False) -> Result:
    """One pass. whole: every repetition is played. Raises ParcError (E0931) where much is played before it repeats."""
    from compiler.cost.time.steady import Steady

    clock, length = Clock(plan, durations), 0
    for stretch in plan.stretches:
        steady = Steady(clock, stretch, watch) if stretch.times > 1 and not whole else None
        number = 0
        while number < stretch.times:
            by = number * stretch.by
            played = clock.play(stretch.steps, by * plan.lanes, number)
            if watch is not None:
                watch.round(stretch.steps, by, played, clock.came)
            number += 1
            length += len(stretch.steps)
            if steady is not None:
                if length > PRICED.most and (found := PRICED.exceeded(plan.groups, stretch.times * stretch.by, length)):
                    raise ParcError(found)
                number += steady.left_out(number)
    plan.played = length
    return Result(clock.now, clock.came, [c + d for c, d in zip(clock.came, durations.meets)])
