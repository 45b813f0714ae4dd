"""What players of the oracle do, item by item, with messages between them:

    Work     occupies the player
    Post     sends: occupies the player's link, which sends in order, and not the player unless it is `blocking`
    Wait     until a posted message has arrived
    Meet     until all `members` players have come, then `duration` longer
    Step     a piece on one of the player's streams, which are in order: it starts when its stream is free, what it
             needs (earlier items of the player) has ended, and all `members` that it is done with are ready as well;
             if `blocking`, stream 0 waits for it; it keeps streams of `also` busy for part of its time
    Barrier  until all streams of the player have ended

Times depend on the order within each player only (sums and maxima), so the order of playing does not matter.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    duration: int


@dataclass(frozen=True, slots=True)
class Post:
    """early: it was ready so long before its place in the order. deps: or, behind a barrier, when these items of the
    player had ended."""

    key: Hashable
    duration: int
    early: int = 0
    blocking: bool = False
    deps: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    key: Hashable


@dataclass(frozen=True, slots=True)
class Meet:
    key: Hashable
    members: int
    duration: int


@dataclass(frozen=True, slots=True)
class Step:
    stream: int
    duration: int
    deps: tuple[int, ...] = ()
    blocking: bool = False
    key: Hashable = None
    members: int = 1
    also: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Barrier:
    pass


Item = Work | Post | Wait | Meet | Step | Barrier


@dataclass(frozen=True, slots=True)
class Played:
    """Per player, in picoseconds: when it ended, and how much of that it worked."""

    ends: tuple[int, ...]
    busy: tuple[int, ...]

    @property
    def bubble(self) -> float:
        """Share of the players' time, up to the last end, in which they do not work."""
        total = max(self.ends, default=0) * len(self.ends)
        return 1 - sum(self.busy) / total if total else 0.0


class _State:
    """Of one player: time, when it was at the barrier before, its link, its streams, and when its items ended."""

    __slots__ = ("now", "began", "link", "busy", "at", "streams", "ends")

    def __init__(self, streams: int) -> None:
        self.now = self.began = self.link = self.busy = self.at = 0
        self.streams = [0] * streams
        self.ends: dict[int, int] = {}


def play(players: Sequence[Sequence[Item]], streams: int = 1) -> Played:
    """Run all to their ends. Raises ValueError where players wait for what never comes; keys are used once."""
    states = [_State(streams) for _ in players]
    arrived: dict[Hashable, int] = {}
    met: dict[Hashable, dict[int, int]] = {}
    # Who stopped for a key is called again when it is there, so that nobody is asked in vain.
    sleepers: dict[Hashable, list[int]] = {}
    ready = list(range(len(players)))
    while ready:
        p = ready.pop()
        state, items = states[p], players[p]
        while state.at < len(items):
            item, now = items[state.at], state.now
            start = now
            if isinstance(item, Work):
                end = now + item.duration
                state.now = end
                state.busy += item.duration
            elif isinstance(item, Post):
                made = now - item.early
                if item.deps is not None:
                    made = max([state.began, *(state.ends[d] for d in item.deps)])
                start = max(state.link, made)
                state.link = end = start + item.duration
                arrived[item.key] = end
                if item.blocking:
                    state.now = max(now, end)
                ready += sleepers.pop(item.key, ())
            elif isinstance(item, Wait):
                if item.key not in arrived:
                    sleepers.setdefault(item.key, []).append(p)
                    break
                state.now = end = max(now, arrived[item.key])
            elif isinstance(item, Meet):
                came = met.setdefault(item.key, {})
                came.setdefault(p, now)
                if len(came) < item.members:
                    sleepers.setdefault(item.key, []).append(p)
                    break
                start = max(came.values())
                state.now = end = start + item.duration
                ready += sleepers.pop(item.key, ())
            elif isinstance(item, Step):
                used = [state.streams[s] for s, _ in item.also]
                start = max([now, state.streams[item.stream], *used, *(state.ends[d] for d in item.deps)])
                if item.blocking:
                    start = max(start, state.streams[0])
                if item.members > 1:
                    came = met.setdefault(item.key, {})
                    came.setdefault(p, start)
                    if len(came) < item.members:
                        sleepers.setdefault(item.key, []).append(p)
                        break
                    start = max(came.values())
                    ready += sleepers.pop(item.key, ())
                end = start + item.duration
                state.streams[item.stream] = end
                for s, share in item.also:
                    state.streams[s] = start + share
                if item.blocking:
                    state.streams[0] = end
                state.ends[state.at] = end
                state.busy += item.duration if item.stream == 0 else 0
            else:
                state.began = now
                state.now = end = max([now, *state.streams])
            state.at += 1
    if any(s.at < len(items) for s, items in zip(states, players, strict=True)):
        raise ValueError("players wait for what never comes")
    return Played(tuple(s.now for s in states), tuple(s.busy for s in states))
