"""Plays players (a device, or one that stands for its class) in integer picoseconds.

    Work     occupies the player
    Post     sends: occupies the player's link, which sends in order, not the player
    Wait     until a posted message has arrived
    Meet     until all `members` players have come, then `duration` longer

Times depend on the order within each player only (sums and maxima), so the order of playing does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    duration: int


@dataclass(frozen=True, slots=True)
class Post:
    key: str
    duration: int


@dataclass(frozen=True, slots=True)
class Wait:
    key: str


@dataclass(frozen=True, slots=True)
class Meet:
    key: str
    members: int
    duration: int


Item = Work | Post | Wait | Meet


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


def play(players: Sequence[Sequence[Item]]) -> Played:
    """Run all to their ends. Raises ValueError where players wait for what never comes; keys are used once."""
    now, link, busy, at = ([0] * len(players) for _ in range(4))
    arrived: dict[str, int] = {}
    met: dict[str, dict[int, int]] = {}
    moved = True
    while moved:
        moved = False
        for p, items in enumerate(players):
            while at[p] < len(items):
                item = items[at[p]]
                if isinstance(item, Work):
                    now[p] += item.duration
                    busy[p] += item.duration
                elif isinstance(item, Post):
                    link[p] = max(link[p], now[p]) + item.duration
                    arrived[item.key] = link[p]
                elif isinstance(item, Wait):
                    if item.key not in arrived:
                        break
                    now[p] = max(now[p], arrived[item.key])
                else:
                    came = met.setdefault(item.key, {})
                    came.setdefault(p, now[p])
                    if len(came) < item.members:
                        break
                    now[p] = max(came.values()) + item.duration
                at[p] += 1
                moved = True
    if any(i < len(items) for i, items in zip(at, players, strict=True)):
        raise ValueError("players wait for what never comes")
    return Played(tuple(now), tuple(busy))
