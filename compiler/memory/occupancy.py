"""Memory over time: for each action of a device group's schedule what its devices hold, by role; without times.

The index of a moment is that of the action in `compiler.liveness.unrolled`, so that whoever knows when actions run can
draw the series against time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compiler.liveness import rolled_up, unrolled
from compiler.memory.action import MemoryEffect, Totals, Where
from compiler.memory.peak import ClassMemory
from compiler.program import DeviceClass, Program
from compiler.schedules import Action, ActionLoop
from dsl.data import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """One action in one memory of a device, in bytes by role.

    peak: the most within the action, `at_peak` what it consists of then, `where` the place in the program
    ("B in block at q.grad"; empty if the action begins with its peak); after: what stays when it has ended.
    """

    peak: int
    at_peak: Mapping[str, int]
    where: Where
    after: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One memory of each device of a group in a step. `before`: bytes by role before the first action.

    `moments[i]` belongs to `actions[i]`; what repeats is one object.
    """

    actions: tuple[Action, ...]
    before: Mapping[str, int]
    moments: tuple[Moment, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """All that ever occur; those first that are there from the beginning."""
        found = dict.fromkeys(self.before)
        for m in dict.fromkeys(self.moments):
            found.update(dict.fromkeys([*m.at_peak, *m.after]))
        return tuple(found)

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment: `memory_use` has the same."""
        return max([sum(self.before.values()), *(m.peak for m in dict.fromkeys(self.moments))])

    @property
    def fullest(self) -> int | None:
        """The index of the first action in which that is; None if it is before all of them."""
        peak = self.peak
        return (
            None if sum(self.before.values()) == peak else next(i for i, m in enumerate(self.moments) if m.peak == peak)
        )


Occupancy = dict[str, Series]
"""Memory kind -> its series."""


def occupancy(program: Program, memory: Callable[[DeviceClass], ClassMemory] | None = None) -> dict[int, Occupancy]:
    """Group -> memory -> series. Each function is replayed once per state that it can begin in; then actions add up.

    memory: what the devices of a class hold, if it is not the program's own values.
    """
    found: dict[int, Occupancy] = {}
    for cls in program.classes:
        walk = _Walk(memory(cls) if memory else ClassMemory(program, cls))
        found.update((g, walk.of(g)) for g in cls.groups)
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True, eq=False)
class Summit:
    """The first moment at which a memory of a device of a group is fullest, in bytes. action: in which it is, `before`
    what was run before that; None and nothing if it is before all actions. where: in the program, as of `Moment`."""

    peak: int
    roles: Mapping[str, int]
    action: Action | None
    where: Where
    before: tuple[ActionLoop, ...]


def summit(memory: ClassMemory, group: int, kind: str) -> Summit:
    """Of the series of `occupancy`, which is not made: of a loop's rounds the first two and the last are looked at;
    those between do what the second did."""
    walk = _Walk(memory)
    now: Totals = {key: sum(n for _, n in items) for key, items in memory.static.items()}
    roles = _roles(now, kind)
    best = Summit(sum(roles.values()), roles, None, Where(), ())
    accumulated: set[str] = set()
    done: tuple[ActionLoop, ...] = ()
    for loop in rolled_up(memory.program, memory.cls.schedule, group):
        for i in dict.fromkeys((0, min(1, loop.count - 1), loop.count - 1)):
            begin = now
            for at, (phase, chunk, mb) in enumerate(loop.steps):
                effect = memory.effect(phase, chunk, accumulated)
                accumulated |= memory.touched[phase, chunk]
                now, found = walk.step(now, effect)
                if kind in found and found[kind].peak > best.peak:
                    moment, action = found[kind], Action(phase, chunk, mb + i * loop.by)
                    rest = ActionLoop(tuple(a._replace(mb=a.mb + i * loop.by) for a in loop.steps[:at]))
                    best = Summit(
                        moment.peak, moment.at_peak, action, moment.where, (*done, replace(loop, count=i), rest)
                    )
            if i == 1 and loop.count > 3:
                now = _added(now, {k: (now.get(k, 0) - begin.get(k, 0)) * (loop.count - 3) for k in {*now, *begin}})
        done = (*done, loop)
    return best


class _Walk:
    """Goes through the schedules of a class's groups; what an action makes of equal totals is worked out once."""

    def __init__(self, memory: ClassMemory) -> None:
        self.memory = memory
        self._next: dict[
            tuple[frozenset[tuple[tuple[str, str], int]], MemoryEffect], tuple[Totals, dict[str, Moment]]
        ] = {}

    def of(self, group: int) -> Occupancy:
        actions = tuple(unrolled(self.memory.program, self.memory.cls.schedule, group))
        now: Totals = {key: sum(n for _, n in items) for key, items in self.memory.static.items()}
        begin = dict(now)
        moments: list[dict[str, Moment]] = []
        accumulated: set[str] = set()
        for kind, chunk, _ in actions:
            effect = self.memory.effect(kind, chunk, accumulated)
            accumulated |= self.memory.touched[kind, chunk]
            now, found = self.step(now, effect)
            moments.append(found)
        kinds = dict.fromkeys([*(m for m, _ in begin), *(m for found in moments for m in found)])
        absent = Moment(0, {}, Where(), {})
        return {
            kind: Series(actions, _roles(begin, kind), tuple(found.get(kind, absent) for found in moments))
            for kind in kinds
        }

    def step(self, now: Totals, effect: MemoryEffect) -> tuple[Totals, dict[str, Moment]]:
        """What there is after an action, and of each memory the action's moment."""
        key = frozenset(now.items()), effect
        if key not in self._next:
            after = _added(now, effect.delta)
            found = {}
            for kind in dict.fromkeys([*(m for m, _ in now), *effect.peaks]):
                begin, stays = _roles(now, kind), _roles(after, kind)
                at_peak, where = begin, Where()
                if kind in effect.peaks:
                    top = effect.peaks[kind]
                    if top.bytes > 0:
                        at_peak, where = _roles(_added(now, top.totals), kind), top.where
                found[kind] = Moment(sum(at_peak.values()), at_peak, where, stays)
            self._next[key] = after, found
        return self._next[key]


def _roles(totals: Totals, memory: str) -> dict[str, int]:
    return {role: n for (m, role), n in totals.items() if m == memory and n}


def _added(a: Totals, b: Totals) -> Totals:
    out = dict(a)
    for key, n in b.items():
        out[key] = out.get(key, 0) + n
    return {k: n for k, n in out.items() if n}
