"""The stacked executor: runs a program with all devices of a group as one array per value.

Devices stay separate: only collectives move data along the leading axes, only messages between groups. The schedule is
played by events: groups take turns, an action runs when what it receives is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.graph import Type
from compiler.layout import Layout
from compiler.liveness import unrolled
from compiler.memory.capacity import check_capacity
from compiler.memory.peak import MemoryUse, memory_use
from compiler.ops.effects import Accumulate, Input, Write
from compiler.program import PER_MICROBATCH, DeviceClass, Program
from compiler.traffic import Volumes, add_volumes, volumes
from dsl.diagnostics import fail
from runtime.distribute import Array, Mesh, distribute, logical_type, own_part
from runtime.inputs import check_batch
from runtime.numpy import Context, quiet, rounded
from runtime.numpy.pool import Pool
from runtime.stacked.straight import Slots, Straight, compile_function
from runtime.state import LASTING, Arrays, Piece, StepResult, initial_array, joined, magnitudes


@dataclass(slots=True)
class _Stage:
    """What the emulator prepares once per class."""

    cls: DeviceClass
    slots: Slots
    functions: dict[tuple[str, int], Straight]
    traffic: dict[tuple[str, int], Volumes]
    in_update: frozenset[str]


@dataclass(slots=True, eq=False)
class _Reduction:
    """A reduction between groups: complete when all have contributed."""

    groups: tuple[int, ...]
    parts: dict[int, Array] = field(default_factory=dict)


class _Group:
    """One device group: its buffers, its mail, and where it is in its schedule. The compiled text calls the methods."""

    def __init__(self, index: int, stage: _Stage, emulator: Emulator) -> None:
        self.index, self.stage, self.emulator = index, stage, emulator
        self.states: list[Array | None] = [None] * len(stage.cls.states)
        self.owned = [False] * len(stage.cls.states)
        self.saved: dict[tuple[str, int], Array] = {}
        self.inputs: list[Array] = []
        self.firsts = [np.int32(r.first.at(index)) for r in stage.cls.ranges]
        self.mail: dict[Any, Array] = {}

    def stage_of(self, chunk: int) -> int:
        return self.index + chunk * self.emulator.program.groups

    def send(self, name: str, micro: int, chunk: int, to: int, value: Array) -> None:
        own = self.stage_of(chunk)
        target = self.emulator.groups[(own + to) % self.emulator.program.groups]
        target.mail[name, micro, own, own + to] = value
        self.emulator.wake(target)

    def message(self, name: str, micro: int, chunk: int, source: int) -> tuple[str, int, int, int]:
        own = self.stage_of(chunk)
        return name, micro, own + source, own

    def contribute(self, key: str, groups: tuple[int, ...], fn: str, dtype: str, value: Array) -> tuple[str, str]:
        return self.emulator.contribute(self, key, groups, fn, dtype, value)

    def find(self, name: str) -> int:
        return self.stage.slots.states[name]


class Emulator:
    """Runs a program step by step.

    capacities: memory kind -> bytes per device; a program that needs more is refused here (E0701).
    initial: logical arrays by name in place of the declared initialisers.
    """

    def __init__(
        self,
        program: Program,
        capacities: Mapping[str, float] | None = None,
        initial: Mapping[str, Array] | None = None,
    ) -> None:
        self.program, self.mesh = program, Mesh.of(program)
        self.memory: dict[int, MemoryUse] = memory_use(program)
        check_capacity(program, self.memory, capacities or {})
        self.traffic: dict[int, Volumes] = {}
        self.steps = 0
        found: dict[int, _Group] = {}
        for cls in program.classes:
            stage = _prepare(cls, program)
            found.update((g, _Group(g, stage, self)) for g in cls.groups)
        self.groups = dict(sorted(found.items()))
        self._pool = Pool()
        self._contexts = [Context(m, program.seed, self._pool.empty) for m in range(program.microbatches)]
        self._reductions: dict[str, _Reduction] = {}
        self._ready: deque[_Group] = deque()
        self._waiting: dict[_Group, tuple[str, Any]] = {}
        self._initialise(initial or {})

    # --- states

    def _initialise(self, initial: Mapping[str, Array]) -> None:
        made: Arrays = {}
        for g in self.groups.values():
            for i, decl in enumerate(g.stage.cls.states):
                if decl.role not in LASTING:
                    continue
                name, type = decl.logical or decl.name, logical_type(decl, g.stage.cls)
                if name not in made:
                    made[name] = initial_array(name, type, decl, self.program.seed, initial)
                part = own_part(made[name], decl, g.stage.cls, g.index)
                g.states[i] = distribute(part, decl.type, decl.layout, self.mesh)

    def weights(self) -> Arrays:
        """The weights as logical arrays by name."""
        return self._collect(("weight",), add=False)

    def states(self) -> Arrays:
        """The optimizer's states and the counters as logical arrays by name."""
        return self._collect(("optimizer", "counter"), add=False)

    def _collect(self, roles: tuple[str, ...], add: bool, only_update: bool | None = None) -> Arrays:
        return joined(self._pieces(roles, only_update), self.mesh, add)

    def _pieces(self, roles: tuple[str, ...], only_update: bool | None = None) -> list[Piece]:
        return [
            (decl, g.stage.cls, g.index, x)
            for g in self.groups.values()
            for decl, x in zip(g.stage.cls.states, g.states, strict=True)
            if decl.role in roles and x is not None
            if only_update is None or (decl.name in g.stage.in_update) == only_update
        ]

    # --- a step

    def step(self, batch: Mapping[str, Array], gradients: bool = False) -> StepResult:
        """One training step on a logical batch; E0702 if the schedule hangs, ValueError if the batch does not fit."""
        arrays = check_batch(self.program.inputs, batch)
        self._begin(arrays)
        with quiet():
            self._play()
            loss = self._collect(("loss",), add=True)
            metrics = self._collect(("metric",), add=True, only_update=False)
            reports = self._collect(("metric", "report"), add=False, only_update=True)
            pieces = self._pieces(("gradient",)) if gradients else []
            collected = joined(pieces, self.mesh, add=True)
        self.steps += 1
        for g in self.groups.values():
            for i, decl in enumerate(g.stage.cls.states):
                if decl.role not in LASTING:
                    g.states[i] = None
            g.inputs, g.saved = [], {}
        self._pool.next_round()
        first = next(iter(loss.values())) if loss else np.zeros(())
        return StepResult(first, metrics, collected, reports, lambda: magnitudes(pieces, self.mesh))

    def _begin(self, batch: Arrays) -> None:
        """Cut the batch into the pieces of micro-batches and devices; groups share what is equal."""
        made: dict[tuple[str, Layout], Array] = {}
        types = {i.name: i.type for i in self.program.inputs}
        for g in self.groups.values():
            g.owned = [False] * len(g.states)
            for name, layout in g.stage.slots.inputs:
                if (name, layout) not in made:
                    array = batch[name] if name in types else self._scalar(name)
                    made[name, layout] = distribute(array, types.get(name, Type("int32")), layout, self.mesh, time=True)
                g.inputs.append(made[name, layout])

    def _scalar(self, name: str) -> Array:
        """The number of updates so far: the counter of that name, or our own count."""
        for g in self.groups.values():
            if name in g.stage.slots.states:
                x = g.states[g.find(name)]
                return np.array(np.asarray(x).flat[0], np.int32)
        return np.asarray(self.steps, np.int32)

    def _play(self) -> None:
        running = {g: self._actions(g) for g in self.groups.values()}
        self._ready, self._waiting = deque(self.groups.values()), {}
        while self._ready:
            g = self._ready.popleft()
            for waits_for in running[g]:
                self._waiting[g] = waits_for
                break
        if self._waiting:
            raise self._hang()

    def _actions(self, g: _Group) -> Iterator[tuple[str, Any]]:
        """Runs the group's schedule; yields (action, key) where something is missing."""
        traffic = self.traffic.setdefault(g.index, {})
        for name, chunk, micro in unrolled(self.program, g.stage.cls.schedule, g.index):
            function = g.stage.functions[name, chunk]
            run = function.run(g, self._contexts[micro])
            if run is not None:
                for key in run:
                    yield f"{name}.{chunk} of micro-batch {micro}" if name in PER_MICROBATCH else name, key
            add_volumes(traffic, g.stage.traffic[name, chunk])

    def wake(self, g: _Group) -> None:
        """Something arrived: the group may go on if it waits for that."""
        waiting = self._waiting.get(g)
        if waiting is not None and waiting[1] in g.mail:
            del self._waiting[g]
            self._ready.append(g)

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
                self.wake(self.groups[other])
        return mail

    def _hang(self) -> Exception:
        notes = []
        for g, (action, key) in list(self._waiting.items())[:8]:
            if key[0] == "stage_reduce":
                missing = [str(x) for x in self._reductions[key[1]].groups if x not in self._reductions[key[1]].parts]
                what = f"the part of group {', '.join(missing)} in the reduction `{key[1]}`"
            else:
                what = f"`{key[0]}` of micro-batch {key[1]} from stage {key[2]}"
            notes.append((f"group {g.index}, in {action}, waits for {what}", None))
        return fail(
            "E0702", "the schedule hangs: no device group can go on", notes=notes,
            help="every receive needs a send that comes before it in the order of the stage that sends",
        )  # fmt: skip


def _prepare(cls: DeviceClass, program: Program) -> _Stage:
    inputs: dict[tuple[str, Any], int] = {}
    for f in cls.functions:
        for i in f.body.instrs:
            if isinstance(i.op, Input):
                inputs.setdefault((i.op.name, i.outputs[0].layout), len(inputs))
    slots = Slots(
        {s.name: i for i, s in enumerate(cls.states)},
        inputs,
        {(r.dim, r.count, r.chunk): i for i, r in enumerate(cls.ranges)},
    )
    functions = {(f.name, f.chunk): compile_function(f, cls, program, slots) for f in cls.functions}
    traffic = {(f.name, f.chunk): volumes(f.body, program.sizes) for f in cls.functions}
    update = (i.op for f in cls.functions if f.name == "U" for i in f.body.instrs)
    names = frozenset(op.name for op in update if isinstance(op, (Accumulate, Write)))
    return _Stage(cls, slots, functions, traffic, names)
