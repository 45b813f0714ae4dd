"""The stacked executor: runs a program with all devices of a group as one array per value.

Devices stay separate: only collectives move data along the leading axes, only messages between groups. The schedule is
played by events: groups take turns, an action runs when what it receives is there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

import numpy as np

from compiler.declared import logical
from compiler.layout import Layout
from compiler.liveness import passes, unrolled
from compiler.memory.capacity import check_capacity
from compiler.memory.peak import MemoryUse, memory_use
from compiler.origin import Role
from compiler.program import LASTING, DeviceClass, FunctionKey, Program, StateDecl, listed
from compiler.schedules.turns import Turns
from compiler.traffic import Volumes, add_volumes, volumes
from dsl.data import dataclass
from runtime.backend import Planner
from runtime.distribute import Array, distribute
from runtime.executor import CacheUse, LocalExecutor, cache_use, check_hang, inputs_of
from runtime.going import NOW
from runtime.mesh import parted
from runtime.numpy import CallContext, plan, rounded
from runtime.numpy.disk import DiskArray
from runtime.numpy.pool import ArrayPool
from runtime.readable import Readable
from runtime.stacked.again import made_again
from runtime.stacked.early import added_early
from runtime.stacked.files import beginning, held, in_file
from runtime.stacked.slices import saved_in_slices
from runtime.stacked.straight import Slots, Straight, compile_function
from runtime.stacked.tallies import Tallies
from runtime.state import Piece, initial_array


@dataclass(slots=True)
class _Stage:
    """What the emulator prepares once per class."""

    cls: DeviceClass
    slots: Slots
    functions: dict[FunctionKey, Straight]
    traffic: dict[FunctionKey, Volumes]
    declared: Mapping[str, StateDecl]
    """As buffers are kept: some sums are not pending there any more."""


@dataclass(slots=True, eq=False)
class _Reduction:
    """A reduction between groups: complete when all have contributed."""

    groups: tuple[int, ...]
    parts: dict[int, Array] = field(default_factory=dict)


class _Group:
    """One device group: its buffers, its mail, and where it is in its schedule. The compiled text calls the methods."""

    def __init__(self, index: int, stage: _Stage, emulator: Emulator) -> None:
        self.index, self.stage, self.emulator = index, stage, emulator
        # Of a state of which each micro-batch has its own part, a list of them.
        self.states: list[Any] = [None] * len(stage.cls.states)
        self.owned = [False] * len(stage.cls.states)
        self.made: list[Any] = [None] * len(stage.cls.states)
        """What a step has made in the place of a state, and nobody else holds."""
        self.saved: dict[tuple[str, int], Array] = {}
        self.inputs: list[Array] = []
        self.tallies: Tallies = {}
        self.firsts = [np.int32(r.start.at(index)) for r in stage.cls.ranges]
        self.mail: dict[Any, Array] = {}
        self.doing = ""

    def stage_of(self, chunk: int) -> int:
        return self.emulator.program.homes.stage(self.index, chunk)

    def send(self, name: str, micro: int, chunk: int, to: int, value: Array) -> None:
        own = self.stage_of(chunk)
        target = self.emulator.groups[self.emulator.program.homes.group(own + to)]
        key = name, micro, own, own + to
        target.mail[key] = value
        self.emulator.turns.arrived(key)

    def message(self, name: str, micro: int, chunk: int, source: int) -> tuple[str, int, int, int]:
        own = self.stage_of(chunk)
        return name, micro, own + source, own

    def contribute(self, key: str, groups: tuple[int, ...], fn: str, dtype: str, value: Array) -> tuple[str, str]:
        return self.emulator.contribute(self, key, groups, fn, dtype, value)

    def find(self, name: str) -> int:
        return self.stage.slots.states[name]


class Emulator(LocalExecutor):
    """Runs a program step by step.

    capacities: memory kind -> bytes per device; a program that needs more for any of its entries is refused (E0701).
    initial: logical arrays by name in place of the declared initialisers.
    planner: plans kernels on stacked arrays; numpy's if left out.
    """

    def __init__(
        self,
        program: Program,
        capacities: Mapping[str, float] | None = None,
        initial: Mapping[str, Array] | None = None,
        shares: Emulator | None = None,
        planner: Planner | None = None,
    ) -> None:
        self.planner: Planner = planner or (plan if shares is None else shares.planner)
        self.memory: Mapping[int, MemoryUse] = memory_use(program)
        check_capacity(program, capacities or {})
        self.traffic: dict[int, Volumes] = {}
        found: dict[int, _Group] = {}
        for cls, stage in _prepare(program, self.planner):
            found.update((g, _Group(g, stage, self)) for g in cls.groups)
        self.groups = dict(sorted(found.items()))
        self._pool = ArrayPool()
        self._contexts = [CallContext(m, program.seed, self._pool.empty) for m in range(program.microbatches)]
        self._reductions: dict[str, _Reduction] = {}
        self.turns: Turns[_Group, Hashable] = Turns()
        self._passes = passes(program)
        super().__init__(program, initial, shares)

    @property
    def caches(self) -> dict[str, CacheUse]:
        used = (
            (g.stage.cls.states[slot].logical, t) for g in self.groups.values() for (slot, _), t in g.tallies.items()
        )
        return cache_use(self.program, used)

    def fill(self, group: int, decl: StateDecl, part: Array) -> None:
        g = self.groups[group]
        found = distribute(part, decl.type, decl.layout, self.mesh, time=parted(decl))
        kept = DiskArray.of(found, self.mesh.lead) if in_file(decl) and not parted(decl) else found
        g.states[g.find(decl.name)] = list(found) if parted(decl) else kept

    def begin(self, initial: Mapping[str, Array]) -> None:
        """What lies in a file is never in memory as a whole."""

        def later(decl: StateDecl) -> bool:
            return in_file(decl) and not parted(decl) and decl.init is not None and logical(decl) not in initial

        seed = self.program.seed
        self._put(lambda name, type, d: None if later(d) else initial_array(name, type, d, seed, initial))
        for index, g in self.groups.items():
            for decl in (d for d in g.stage.cls.states if d.role in LASTING and later(d)):
                g.states[g.find(decl.name)] = beginning(decl, g.stage.cls, index, self.mesh, seed)

    def held(self, group: int, decl: StateDecl) -> Array | None:
        g = self.groups[group]
        if parted(decl) and (decl.role in LASTING or listed(decl)):
            parts = g.states[g.find(decl.name)]
            return None if parts is None else np.stack(np.broadcast_arrays(*map(held, parts)))
        if parted(decl):
            return np.stack([held(g.saved[decl.name, m]) for m in range(self.program.microbatches)])
        found: Array | None = held(g.states[g.find(decl.name)])
        if decl.role is Role.STATE:  # whoever asked may keep it
            g.made[g.find(decl.name)] = None
        return found

    def pieces(self, roles: tuple[str, ...], only_update: bool | None = None) -> list[Piece]:
        found = super().pieces(roles, only_update)
        return [(self.groups[g].stage.declared[decl.name], cls, g, x) for decl, cls, g, x in found]

    def share(self, group: int, decl: StateDecl, other: Emulator) -> bool:
        mine, theirs = self.groups[group], other.groups[group]
        if decl.name not in theirs.stage.slots.states or decl.name not in mine.stage.slots.states:
            return False
        here, there = mine.find(decl.name), theirs.find(decl.name)
        mine.states[here], mine.made[here] = theirs.states[there], theirs.made[there]
        return True

    def deliver(self, values: Mapping[str, Readable]) -> None:
        """Cut the batch into the pieces of micro-batches and devices; groups share what is equal."""
        made: dict[tuple[str, Layout], Array] = {}
        for g in self.groups.values():
            g.owned = [False] * len(g.states)
            for name, var, type in self.inputs(g.index):
                key = name, var.layout
                if key not in made:
                    made[key] = distribute(np.asarray(values[name]), type, var.layout, self.mesh, time=True)
                g.inputs.append(made[key])

    def play(self) -> None:
        NOW.start(self._passes)
        hanging = self.turns.play({g: self._actions(g) for g in self.groups.values()})
        check_hang("device group", [self._told(g, key) for g, key in hanging])

    def end_step(self) -> None:
        for g in self.groups.values():
            for i, decl in enumerate(g.stage.cls.states):
                if decl.role not in LASTING:
                    g.states[i] = None
            g.inputs, g.saved = [], {}
        self._pool.next_round()

    def _actions(self, g: _Group) -> Iterator[Hashable]:
        """Runs the group's schedule; yields the key of what is missing."""
        traffic = self.traffic.setdefault(g.index, {})
        for name, chunk, micro in unrolled(self.program, g.stage.cls.schedule, g.index):
            g.doing = f"{name}.{chunk} of micro-batch {micro}" if name.per_microbatch else name
            function = g.stage.functions[name, chunk]
            run = function.run(g, self._contexts[micro])
            NOW.begun += 1
            if run is not None:
                yield from run
            add_volumes(traffic, g.stage.traffic[name, chunk])

    def contribute(
        self, g: _Group, key: str, groups: tuple[int, ...], fn: str, dtype: str, value: Array
    ) -> tuple[str, str]:
        """A group's addend of a reduction between groups; the last one computes it and mails the result to all."""
        reduction = self._reductions.setdefault(key, _Reduction(groups))
        reduction.parts[g.index] = value
        mail = ("stage_reduce", key)
        if len(reduction.parts) == len(groups):
            total = reduction.parts[groups[0]]
            for other in groups[1:]:
                part = reduction.parts[other]
                total = total + part if fn == "sum" else np.maximum(total, part)
            total = rounded(total, dtype)
            del self._reductions[key]
            for other in groups:
                self.groups[other].mail[mail] = total
            self.turns.arrived(mail)
        return mail

    def _told(self, g: _Group, key: Any) -> str:
        if key[0] == "stage_reduce":
            missing = [str(x) for x in self._reductions[key[1]].groups if x not in self._reductions[key[1]].parts]
            what = f"the part of group {', '.join(missing)} in the reduction `{key[1]}`"
        else:
            what = f"`{key[0]}` of micro-batch {key[1]} from stage {key[2]}"
        return f"group {g.index}, in {g.doing}, waits for {what}"


def _prepare(program: Program, planner: Planner) -> list[tuple[DeviceClass, _Stage]]:
    found = []
    for cls, early in zip(program.classes, added_early(program).classes):
        slots = Slots(
            {s.name: i for i, s in enumerate(cls.states)},
            {key: i for i, key in enumerate(inputs_of(cls))},
            {(r.dim, r.count, r.chunk): i for i, r in enumerate(cls.ranges)},
        )
        bodies = [f.body for f in early.functions]
        sliced = saved_in_slices(bodies, early.states)
        run = [replace(f, body=b) for f, b in zip(early.functions, made_again(bodies, sliced))]
        functions = {f.key: compile_function(f, early, program, slots, planner, sliced) for f in run}
        traffic = {f.key: volumes(f.body, program.sizes) for f in cls.functions}
        found.append((cls, _Stage(cls, slots, functions, traffic, {s.name: s for s in early.states})))
    return found
