"""Memory of each device, to the byte, from the program alone: actions are replayed once, schedules add them up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache

from compiler.layout import TIME, Layout, local_type
from compiler.liveness import rounds
from compiler.memory.action import STATIC, MemoryEffect, Replay, Totals, declared
from compiler.memory.facts import ClassFacts, FunctionFacts, KnownLives
from compiler.memory.held import Buffer, copies
from compiler.memory.tiers import FIRST
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionKey, FunctionPhase, Program
from compiler.row_caches import cache_bytes
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Peak:
    """The high-water mark of one memory of one device: bytes, and by role. (`fullest` tells more of it.)"""

    bytes: int
    roles: Mapping[str, int]


Rounds = tuple[tuple[tuple[FunctionKey, ...], int], ...]
"""What a group does: functions of one round, and how often."""

MemoryUse = dict[str, Peak]
"""Memory kind -> its peak."""


def static_memory(
    cls: DeviceClass, sizes: Mapping[str, int], facts: FunctionFacts | None = None
) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """What is there all the time: (memory, role) -> (name, bytes). Inputs count for all micro-batches of a step.
    facts: of the class's functions, if they are known."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for s in cls.states:
        if s.role in STATIC:
            times = sizes[TIME] if TIME in s.layout.split_axes else 1
            size = times * local_type(s.type, s.layout, sizes).bytes
            found.setdefault((s.memory, s.role), []).append((s.name, size))
            if s.cache is not None:
                found.setdefault((FIRST, s.role), []).append((f"{s.name}, cached rows", cache_bytes(s, sizes)))
    inputs: dict[tuple[str, Layout], int] = {}
    for name, var in (facts or FunctionFacts.of(cls)).inputs:
        times = sizes[TIME] if TIME in var.layout.axes else 1
        inputs[name, var.layout] = times * local_type(var.type, var.layout, sizes).bytes
    for (name, _), size in inputs.items():
        found.setdefault((FIRST, Role.INPUT), []).append((name, size))
    return found


@dataclass(slots=True, eq=False)
class _Done:
    """An effect, and how often a group's devices had it. memories: each with the bytes that are there besides at the
    fullest moment (None: not asked), and those that are there afterwards."""

    effect: MemoryEffect
    memories: tuple[tuple[str, int | None, int], ...]
    times: int = 0

    @staticmethod
    def of(effect: MemoryEffect) -> _Done:
        """Before it has happened."""
        delta = _by_memory(effect.delta)
        tops = {memory: _by_memory(top.totals).get(memory, 0) for memory, top in effect.peaks.items()}
        return _Done(effect, tuple((m, tops.get(m), delta.get(m, 0)) for m in dict.fromkeys((*tops, *delta))))


class ClassMemory:
    """The memory of one class's devices; each function is replayed once, each group adds up its schedule."""

    replay: type[Replay] = Replay
    narrow = ""
    """A data type that values have there which are wider in the program."""
    known_lives: KnownLives | None = None
    """Of bodies that others have replayed."""

    def __init__(self, program: Program, cls: DeviceClass, facts: FunctionFacts | None = None) -> None:
        """facts: of the class's functions, if they are known."""
        self.facts = facts = facts or FunctionFacts.of(cls)
        self.program, self.cls, self.sizes = program, cls, program.sizes
        self.functions = {f.key: f for f in cls.functions}
        self.static = static_memory(cls, self.sizes, facts)
        self.touched = dict(facts.touched)
        self.states = {s.name: s for s in cls.states}
        self.replays: dict[tuple[FunctionPhase, int, frozenset[str]], Replay] = {}
        """By function, chunk, and which accumulators it is the first to set."""
        self._exits: dict[FunctionKey, dict[str, Buffer]] = {}  # the slots of a micro-batch after a function
        self._done: dict[Rounds, MemoryUse] = {}

    def use(self, group: int) -> MemoryUse:
        """The peaks of one group's devices in a step. Groups whose rounds are as many have the same."""
        key = self.rounds(group)
        if key not in self._done:
            self._done[key] = self._add_up(key)
        return self._done[key]

    def rounds(self, group: int) -> Rounds:
        """What the group does in a step."""
        return tuple(rounds(self.program, self.cls, group))

    def effect(self, phase: FunctionPhase, chunk: int, accumulated: set[str]) -> MemoryEffect:
        """What one action does; it depends on the accumulators that the step has set before."""
        key = (phase, chunk, self.touched[phase, chunk] - accumulated)
        if key not in self.replays:
            replay = self.replays[key] = self.start((phase, chunk))
            for a in accumulated:
                replay.accumulated[a] = replay.accumulator(a)
            before = phase.before
            replay.saved = copies(self._exits.get((before, chunk), {})) if before else {}
            replay.run(self.functions[phase, chunk])
            self._exits[phase, chunk] = replay.saved
        return self.replays[key].effect

    def start(self, key: FunctionKey) -> Replay:
        """What replays a function."""
        return self.replay(self.cls, self.sizes, self._known)

    @cached_property
    def _known(self) -> ClassFacts:
        return ClassFacts.of(self.cls, self.sizes, self.known_lives, self.replay.fuses)

    def declared(self, name: str) -> int:
        """Bytes of a state on a device, of all its parts."""
        size, parts = declared(self.states[name], self.sizes)
        return size * parts

    def _add_up(self, schedule: Rounds) -> MemoryUse:
        began: Totals = {key: sum(n for _, n in items) for key, items in self.static.items()}
        peaks: MemoryUse = {}
        self._record(peaks, began)
        most, sums = {memory: peak.bytes for memory, peak in peaks.items()}, _by_memory(began)
        done: dict[int, _Done] = {}  # by identity of an effect
        fullest: dict[str, tuple[_Done, list[tuple[_Done, int]]]] = {}  # what runs then, and what ran before it
        settled: dict[FunctionKey, _Done] = {}  # of actions that find all their accumulators
        accumulated: set[str] = set()
        for steps, n in schedule:
            for i in range(min(n, 3)):
                before, counts = dict(sums), [(d, d.times) for d in done.values()]
                for key in steps:
                    now = settled.get(key)
                    if now is None:
                        effect = self.effect(*key, accumulated)
                        now = done.get(id(effect)) or done.setdefault(id(effect), _Done.of(effect))
                        if self.touched[key] <= accumulated:
                            settled[key] = now
                        accumulated |= self.touched[key]
                    for memory, top, delta in now.memories:
                        total = sums.get(memory, 0)
                        if top is not None and (memory not in most or total + top > most[memory]):
                            most[memory] = total + top
                            fullest[memory] = now, [(d, d.times) for d in done.values()]
                        sums[memory] = total + delta
                    now.times += 1
                if i == 1 and n > 3:  # what the second round did, the rounds up to the last do too
                    for memory, total in sums.items():
                        sums[memory] = total + (total - before.get(memory, 0)) * (n - 3)
                    ran = {id(d): times for d, times in counts}
                    for d in done.values():
                        d.times += (d.times - ran.get(id(d), 0)) * (n - 3)
        for memory, (now, counts) in fullest.items():
            at = dict(began)
            for d, times in counts:
                for of, size in d.effect.delta.items():
                    at[of] = at.get(of, 0) + size * times
            self._record(peaks, _sum(at, now.effect.peaks[memory].totals), memory)
        return dict(sorted(peaks.items(), key=lambda kind: kind[0] != FIRST))  # the devices' own first, in every run

    def _record(self, peaks: MemoryUse, now: Totals, only: str | None = None) -> None:
        for memory in dict.fromkeys(m for m, _ in now) if only is None else (only,):
            roles = {r: v for (m, r), v in now.items() if m == memory and v}
            total = sum(roles.values())
            if memory not in peaks or total > peaks[memory].bytes:
                peaks[memory] = Peak(total, roles)


@lru_cache(4)
def memory_use(program: Program) -> Mapping[int, MemoryUse]:
    """Group -> memory -> peak, for every group of devices. Kept, for a command asks several times."""
    found: dict[int, MemoryUse] = {}
    for cls in program.classes:
        memory = ClassMemory(program, cls)
        found.update((g, memory.use(g)) for g in cls.groups)
    return dict(sorted(found.items()))


def most(program: Program) -> dict[str, int]:
    """Memory kind -> bytes that the device needs which needs most of it."""
    found: dict[str, int] = {}
    for kinds in memory_use(program).values():
        for kind, peak in kinds.items():
            found[kind] = max(found.get(kind, 0), peak.bytes)
    return found


def _by_memory(of: Totals) -> dict[str, int]:
    found: dict[str, int] = {}
    for (memory, _), n in of.items():
        found[memory] = found.get(memory, 0) + n
    return found


def _sum(a: Totals, b: Totals) -> Totals:
    out = dict(a)
    for key, n in b.items():
        out[key] = out.get(key, 0) + n
    return out
