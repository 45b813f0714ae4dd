"""Runs a program with one interpreter per device, all in this process."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import numpy as np

from compiler.layout import TIME, local_type
from compiler.liveness import unrolled
from compiler.ops.effects import Accumulate, Input, Write
from compiler.program import PER_MICROBATCH, DeviceClass, Program, StateDecl
from dsl.diagnostics import fail
from runtime.comm import Hub
from runtime.distribute import Array, Mesh, logical_type, own_part, piece_of
from runtime.inputs import check_batch
from runtime.numpy import STORAGE, quiet
from runtime.rank.interpreter import Device
from runtime.state import LASTING, Arrays, Piece, StepResult, initial_array, joined, magnitudes


class RankExecutor:
    """The same interface as `runtime.stacked.Emulator`; `peaks` are measured, not computed.

    initial: logical arrays by name in place of the declared initialisers.
    """

    device: type[Device] = Device

    def __init__(self, program: Program, initial: Mapping[str, Array] | None = None) -> None:
        self.program, self.mesh = program, Mesh.of(program)
        self.hub = Hub(self.mesh)
        self.steps = 0
        self.devices: dict[int, list[Device]] = {}
        given = initial or {}
        made: Arrays = {}
        for cls in program.classes:
            for g in cls.groups:
                devices = [self.device(program, cls, g, at, self.hub.communicator(g, at)) for at in self.mesh.devices]
                self.devices[g] = devices
                for decl in cls.states:
                    if decl.role in (*LASTING, "report"):
                        self._fill(devices, decl, cls, g, given, made)
        self.devices = dict(sorted(self.devices.items()))

    def _fill(
        self,
        devices: list[Device],
        decl: StateDecl,
        cls: DeviceClass,
        group: int,
        given: Mapping[str, Array],
        made: Arrays,
    ) -> None:
        if decl.role == "report":
            for d in devices:
                local = local_type(decl.type, decl.layout, self.program.sizes)
                d.put_state(decl.name, np.zeros(local.shape, STORAGE[decl.type.dtype]))
            return
        name, type = decl.logical or decl.name, logical_type(decl, cls)
        if name not in made:
            made[name] = initial_array(name, type, decl, self.program.seed, given)
        part = own_part(made[name], decl, cls, group)
        for d in devices:
            d.put_state(decl.name, piece_of(part, decl.type, decl.layout, self.mesh, d.at))

    @property
    def peaks(self) -> dict[int, list[dict[str, int]]]:
        """Group -> for each device: memory -> the most bytes there ever were."""
        return {g: [d.ledger.peak for d in devices] for g, devices in self.devices.items()}

    def weights(self) -> Arrays:
        """The weights as logical arrays by name."""
        return self._collect(("weight",), add=False)

    def states(self) -> Arrays:
        """The optimizer's states and the counters as logical arrays by name."""
        return self._collect(("optimizer", "counter"), add=False)

    def step(self, batch: Mapping[str, Array], gradients: bool = False) -> StepResult:
        """One training step; E0702 if no device can go on."""
        arrays = check_batch(self.program.inputs, batch)
        self._deliver(arrays)
        with quiet():
            self._play()
        loss = self._collect(("loss",), add=True)
        pieces = self._pieces(("gradient",)) if gradients else []
        result = StepResult(
            next(iter(loss.values())) if loss else np.zeros(()),
            self._collect(("metric",), add=True, only_update=False),
            joined(pieces, self.mesh, add=True),
            self._collect(("metric", "report"), add=False, only_update=True),
            lambda: magnitudes(pieces, self.mesh),
        )
        self.steps += 1
        for devices in self.devices.values():
            for d in devices:
                d.end_step()
        return result

    def _deliver(self, batch: Arrays) -> None:
        types = {i.name: i.type for i in self.program.inputs}
        for devices in self.devices.values():
            variables = {
                (i.op.name, i.outputs[0].layout): i.outputs[0]
                for f in devices[0].cls.functions
                for i in f.body.instrs
                if isinstance(i.op, Input)
            }
            for d in devices:
                for (name, layout), var in variables.items():
                    count = self.program.microbatches if TIME in layout.axes else 1
                    whole = batch[name] if name in types else self._scalar(name, d)
                    at = [{**d.at, TIME: m} for m in range(count)]
                    d.put_inputs(name, var, [piece_of(whole, var.type, layout, self.mesh, c) for c in at])

    def _scalar(self, name: str, device: Device) -> Array:
        """The number of updates so far: the counter of that name, or our own count."""
        for devices in self.devices.values():
            if name in devices[0].states:
                return np.array(devices[0].states[name].array, np.int32)
        return np.array(self.steps, np.int32)

    def _play(self) -> None:
        running = {d: self._actions(d) for devices in self.devices.values() for d in devices}
        waits: dict[Device, str] = {}
        while running:
            before, finished = self.hub.events, False
            for d in list(running):
                try:
                    waits[d] = next(running[d])
                except StopIteration:
                    del running[d]
                    waits.pop(d, None)
                    finished = True
            if self.hub.events == before and not finished:
                notes = [
                    (f"the device at {d.at} of group {d.group}, in {what[0]}, waits for {what[1]}", None)
                    for d, what in [(d, w.split("\0")) for d, w in list(waits.items())[:8]]
                ]
                raise fail("E0702", "the schedule hangs: no device can go on", notes=notes)

    def _actions(self, device: Device) -> Generator[str, None, None]:
        for name, chunk, micro in unrolled(self.program, device.cls.schedule, device.group):
            where = f"{name}.{chunk} of micro-batch {micro}" if name in PER_MICROBATCH else name
            for what in device.run(name, chunk, micro):
                yield f"{where}\0{what}"

    def _collect(self, roles: tuple[str, ...], add: bool, only_update: bool | None = None) -> Arrays:
        return joined(self._pieces(roles, only_update), self.mesh, add)

    def _pieces(self, roles: tuple[str, ...], only_update: bool | None = None) -> list[Piece]:
        found: list[Piece] = []
        for g, devices in self.devices.items():
            cls = devices[0].cls
            for decl in cls.states:
                if decl.role not in roles or decl.name not in devices[0].states:
                    continue
                if only_update is not None and (decl.name in _updated(cls)) != only_update:
                    continue
                held = [d.states[decl.name].array for d in devices]
                found.append((decl, cls, g, np.stack(held).reshape((*self.mesh.shape, *held[0].shape))))
        return found


def _updated(cls: DeviceClass) -> set[str]:
    update = [f for f in cls.functions if f.name == "U"]
    return {i.op.name for f in update for i in f.body.instrs if isinstance(i.op, (Accumulate, Write))}
