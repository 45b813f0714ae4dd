"""Memory of each device, to the byte, from the program alone: actions are replayed once, schedules add them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

from compiler.layout import TIME, Layout, local_type
from compiler.liveness import rounds
from compiler.memory.action import STATIC, MemoryEffect, Replay, Totals, declared
from compiler.memory.facts import ClassFacts, KnownLives
from compiler.memory.held import Buffer, copies
from compiler.memory.tiers import FIRST
from compiler.ops.effects import Accumulate, Input
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionKey, FunctionPhase, Program
from compiler.row_caches import cache_bytes
from compiler.walk import walk
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Peak:
    """The high-water mark of one memory of one device: bytes, and by role. (`fullest` tells more of it.)"""

    bytes: int
    roles: Mapping[str, int]


MemoryUse = dict[str, Peak]
"""Memory kind -> its peak."""


def static_memory(cls: DeviceClass, sizes: Mapping[str, int]) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """What is there all the time: (memory, role) -> (name, bytes). Inputs count for all micro-batches of a step."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for s in cls.states:
        if s.role in STATIC:
            times = sizes[TIME] if TIME in s.layout.split_axes else 1
            size = times * local_type(s.type, s.layout, sizes).bytes
            found.setdefault((s.memory, s.role), []).append((s.name, size))
            if s.cache is not None:
                found.setdefault((FIRST, s.role), []).append((f"{s.name}, cached rows", cache_bytes(s, sizes)))
    inputs: dict[tuple[str, Layout], int] = {}
    for f in cls.functions:
        for instr, _ in walk(f.body):
            if isinstance(instr.op, Input):
                var = instr.outputs[0]
                times = sizes[TIME] if TIME in var.layout.axes else 1
                inputs[instr.op.name, var.layout] = times * local_type(var.type, var.layout, sizes).bytes
    for (name, _), size in inputs.items():
        found.setdefault((FIRST, Role.INPUT), []).append((name, size))
    return found


class ClassMemory:
    """The memory of one class's devices; each function is replayed once, each group adds up its schedule."""

    replay: type[Replay] = Replay
    narrow = ""
    """A data type that values have there which are wider in the program."""
    known_lives: KnownLives | None = None
    """Of bodies that others have replayed."""

    def __init__(self, program: Program, cls: DeviceClass) -> None:
        self.program, self.cls, self.sizes = program, cls, program.sizes
        self.functions = {f.key: f for f in cls.functions}
        self.static = static_memory(cls, self.sizes)
        self.touched = {
            key: frozenset(i.op.name for i in f.body.nodes if isinstance(i.op, Accumulate))
            for key, f in self.functions.items()
        }
        self.states = {s.name: s for s in cls.states}
        self.replays: dict[tuple[FunctionPhase, int, frozenset[str]], Replay] = {}
        """By function, chunk, and which accumulators it is the first to set."""
        self._exits: dict[FunctionKey, dict[str, Buffer]] = {}  # the slots of a micro-batch after a function
        self._done: dict[tuple[object, ...], MemoryUse] = {}

    def use(self, group: int) -> MemoryUse:
        """The peaks of one group's devices in a step. Groups whose rounds are as many have the same."""
        schedule = list(rounds(self.program, self.cls, group))
        key = tuple(schedule)
        if key not in self._done:
            self._done[key] = self._add_up(schedule)
        return self._done[key]

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
        return ClassFacts.of(self.cls, self.sizes, self.known_lives)

    def declared(self, name: str) -> int:
        """Bytes of a state on a device, of all its parts."""
        size, parts = declared(self.states[name], self.sizes)
        return size * parts

    def _add_up(self, schedule: Iterable[tuple[tuple[FunctionKey, ...], int]]) -> MemoryUse:
        now: Totals = {key: sum(n for _, n in items) for key, items in self.static.items()}
        sums = _by_memory(now)
        peaks: MemoryUse = {}
        self._record(peaks, now)
        accumulated: set[str] = set()
        known: dict[int, tuple[MemoryEffect, dict[str, int]]] = {}
        for steps, n in schedule:
            for i in range(min(n, 3)):
                before = dict(now)
                for phase, chunk in steps:
                    effect = self.effect(phase, chunk, accumulated)
                    for memory, top in effect.peaks.items():
                        if id(top) not in known:
                            known[id(top)] = effect, _by_memory(top.totals)
                        total = sums.get(memory, 0) + known[id(top)][1].get(memory, 0)
                        if memory not in peaks or total > peaks[memory].bytes:
                            self._record(peaks, _sum(now, top.totals), memory)
                    for (memory, role), size in effect.delta.items():
                        now[memory, role] = now.get((memory, role), 0) + size
                        sums[memory] = sums.get(memory, 0) + size
                    accumulated |= self.touched[phase, chunk]
                if i == 1 and n > 3:  # what the second round did, the rounds up to the last do too
                    now = _sum(now, {k: (v - before.get(k, 0)) * (n - 3) for k, v in now.items()})
                    sums = _by_memory(now)
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
