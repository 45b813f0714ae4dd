"""Whether devices repeat in time what they repeat in their schedules; then the rest of it need not be played.

Between two repetitions all that counts is when each class of devices goes on (`now`), when its link is free, and when
the messages come that are on their way. The last two only as far as they are later than who waits for them goes on.

1. All of that is as it was `period` repetitions ago, but later by one and the same time. Then what follows is what
   followed then, shifted.
2. Classes (and links) go on at speeds of their own, as where the first stage of a pipeline is faster than the second
   and nothing holds it back. What each has before it is as it was `period` repetitions ago, relative to itself. Whoever
   is slower than one that it waits for never had to wait for it in that time, and will not: the other comes sooner and
   sooner; and nobody waits for one that is slower, for then both have one speed. Among those of one speed
   distances stay, so that each repeats itself by its own time.

Both are conditions on whole picoseconds, so that nothing is an approximation. Where neither comes about, all is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compiler.cost.time.clock import Clock, Watch
from compiler.cost.time.stretch import Stretch


class _State(NamedTuple):
    """After a repetition. now, link: of the classes that take part; link is no earlier than now. ahead: by how much
    messages on their way come after who waits for them goes on. mark: of whoever watches."""

    number: int
    now: list[int]
    link: list[int]
    ahead: list[int]
    mark: Sequence[int]


class Steady:
    """Of one stretch, while it is played."""

    def __init__(self, clock: Clock, stretch: Stretch, watch: Watch | None) -> None:
        self.clock, self.stretch, self.watch = clock, stretch, watch
        self.lanes, self.by = clock.plan.lanes, stretch.by * clock.plan.lanes
        self.classes = sorted({step.cls for step in stretch.steps})
        self.sender, self.flying, self.edges = stretch.messages(self.lanes)
        self.together = self._together()
        clock.bound.clear()
        clock.ready.clear()
        self.seen: dict[int, int] = {}
        """What repetitions left (its hash) -> the last of them."""
        self.anchor: _State | None = None
        """A repetition after which all is compared `period` repetitions later; uniform: because of 1, not of 2."""
        self.period, self.uniform = 0, True
        self.last: _State | None = self._state(0)
        self.patience = 0
        """The repetition before which 2 is not looked for again."""

    def _together(self) -> set[tuple[int, int]]:
        """Pairs of classes of a group of which one waits within segments for the other."""
        found: set[tuple[int, int]] = set()
        group: list[int] = []
        timings = self.clock.durations.timings
        if not any(step.others for step in self.stretch.steps):
            return found
        for at, step in enumerate(self.stretch.steps):
            group.append(at)
            if step.others:
                continue
            classes = [self.stretch.steps[i].cls for i in group]
            for i in group:
                timing, cls = timings[self.stretch.steps[i].line], self.stretch.steps[i].cls
                for row in (timing.end, *timing.posts):
                    found.update((classes[o], cls) for o, _ in row if classes[o] != cls)
            group = []
        return found

    def left_out(self, number: int) -> int:
        """After so many repetitions: how many more of them need not be played. The clock goes on to behind them."""
        left = self.stretch.times - number
        if left <= 0:
            return 0
        state = self._state(number)
        if self.anchor is not None and number == self.anchor.number + self.period:
            periods = left // self.period
            if periods and self._repeats(self.anchor, state):
                self._shift(self.anchor, state, periods)
                self.anchor, self.last = None, None
                return periods * self.period
            if not self.uniform:
                self.patience = 2 * number
            self.anchor = None
        if self.last is not None and self.last.number == number - 1 and _later(self.last, state):
            self.period = 1
            self._shift(self.last, state, left)
            return left
        if self.anchor is None or not self.uniform:
            self._look(state)
        self.last = state
        return 0

    def _state(self, number: int) -> _State:
        clock, shift = self.clock, (number - 1) * self.by
        mine, size, arrived = clock.now, len(clock.arrived), clock.arrived
        now = [mine[c] for c in self.classes]
        link = [max(clock.link[c], mine[c]) for c in self.classes]
        ahead = [max(arrived[(m + shift) % size] - mine[c], 0) for m, c in self.flying]
        return _State(number, now, link, ahead, self.watch.mark() if self.watch is not None else ())

    def _look(self, state: _State) -> None:
        """Whether it is as after an earlier repetition, as far as a hash tells; when as many more have been played, all
        of it is compared."""
        base, before = state.now[0], self.last
        keys = [(True, hash((*[t - base for t in (*state.now, *state.link)], *state.ahead)))]
        if before is not None and state.number >= self.patience:
            later = zip((*state.now, *state.link), (*before.now, *before.link))
            keys.append((False, hash((*[b - a for b, a in later], *state.ahead, "speeds"))))
        for uniform, key in keys:
            earlier = self.seen.get(key)
            self.seen[key] = state.number
            if earlier is not None and (self.anchor is None or (uniform and not self.uniform)):
                self.anchor, self.period, self.uniform = state, state.number - earlier, uniform

    def _repeats(self, then: _State, now: _State) -> bool:
        """Whether what happened since then goes on and on."""
        if then.ahead != now.ahead:
            return False
        if _later(then, now):
            return True
        speed = {c: b - a for c, a, b in zip(self.classes, then.now, now.now)}
        link = {c: b - a for c, a, b in zip(self.classes, then.link, now.link)}
        since, clock = then.number, self.clock
        if any(speed[a] != speed[b] for a, b in self.together):
            return False
        for c in self.classes:  # a link waits for what it sends
            if link[c] < speed[c] or (link[c] > speed[c] and clock.ready.get(c, -1) >= since):
                return False
        for sender, message, c in self.edges:
            if link[sender] > speed[c] or (link[sender] < speed[c] and clock.bound.get(message, -1) >= since):
                return False
        return not any(
            ahead and link[self.sender[m % self.lanes]] != speed[c] for (m, c), ahead in zip(self.flying, now.ahead)
        )

    def _shift(self, then: _State, state: _State, periods: int) -> None:
        """The clock goes on by so many periods, as the last one went."""
        clock, by = self.clock, (state.number - 1 + periods * self.period) * self.by
        for c, a, b, sent, now in zip(self.classes, then.now, state.now, then.link, state.link):
            clock.now[c] = b + periods * (b - a)
            clock.link[c] = now + periods * (now - sent)
        for (message, c), ahead in zip(self.flying, state.ahead):
            clock.arrived[(message + by) % len(clock.arrived)] = clock.now[c] + ahead
        if self.watch is not None:
            self.watch.repeat(then.mark, periods)


def _later(then: _State, now: _State) -> bool:
    """Whether all is as it was then, but later by one and the same time."""
    by = now.now[0] - then.now[0]
    return then.ahead == now.ahead and all(b - a == by for a, b in zip(_clocks(then), _clocks(now)))


def _clocks(state: _State) -> list[int]:
    return [*state.now, *state.link]
