"""Runs a program with one interpreter per device, all in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.layout import TIME, local_type
from compiler.liveness import unrolled
from compiler.origin import Role
from compiler.program import PER_MICROBATCH, Program, StateDecl
from runtime.comm import Hub
from runtime.distribute import Array, Mesh, piece_of
from runtime.executor import LocalExecutor
from runtime.numpy import STORAGE
from runtime.rank.interpreter import Device
from runtime.state import parted
from runtime.turns import Waits


class RankExecutor(LocalExecutor):
    """Every device has buffers of its own; `peaks` are measured, not computed.

    initial: logical arrays by name in place of the declared initialisers.
    """

    device: type[Device] = Device

    def __init__(
        self,
        program: Program,
        initial: Mapping[str, Array] | None = None,
        shares: LocalExecutor | None = None,
    ) -> None:
        mesh = Mesh.of(program)
        self.hub = Hub(mesh)
        found: dict[int, list[Device]] = {}
        for cls in program.classes:
            for g in cls.groups:
                found[g] = [self.device(program, cls, g, at, self.hub.communicator(g, at)) for at in mesh.devices]
                for decl in (s for s in cls.states if s.role is Role.REPORT):
                    local = local_type(decl.type, decl.layout, program.sizes)
                    for d in found[g]:
                        d.put_state(decl.name, np.zeros(local.shape, STORAGE[decl.type.dtype]))
        self.devices = dict(sorted(found.items()))
        super().__init__(program, initial, shares)

    @property
    def peaks(self) -> dict[int, list[dict[str, int]]]:
        """Group -> for each device: memory -> the most bytes there ever were."""
        return {g: [d.ledger.peak for d in devices] for g, devices in self.devices.items()}

    def fill(self, group: int, decl: StateDecl, part: Array) -> None:
        for d in self.devices[group]:
            d.put_state(decl.name, piece_of(part, decl.type, decl.layout, self.mesh, d.at))

    def held(self, group: int, decl: StateDecl) -> Array | None:
        devices = self.devices[group]
        if parted(decl):
            micros = range(self.program.microbatches)
            return np.stack([self._stacked([d.saved[decl.name, m].array for d in devices]) for m in micros])
        if decl.name not in devices[0].states:
            return None
        return self._stacked([d.states[decl.name].array for d in devices])

    def _stacked(self, pieces: Sequence[Array]) -> Array:
        return np.stack(pieces).reshape((*self.mesh.shape, *pieces[0].shape))

    def share(self, group: int, decl: StateDecl, other: RankExecutor) -> bool:
        if decl.name not in other.devices[group][0].states:
            return False
        for mine, theirs in zip(self.devices[group], other.devices[group], strict=True):
            if decl.name in mine.states:
                mine.states[decl.name].buffer.drop()
            mine.put_state(decl.name, theirs.states[decl.name].array)
        return True

    def deliver(self, values: Mapping[str, Array]) -> None:
        for group, devices in self.devices.items():
            for name, var, type in self.inputs(group):
                count = self.program.microbatches if TIME in var.layout.axes else 1
                for d in devices:
                    at = [{**d.at, TIME: m} for m in range(count)]
                    d.put_inputs(name, var, [piece_of(values[name], type, var.layout, self.mesh, c) for c in at])

    def play(self) -> None:
        tasks = {d: self._actions(d) for devices in self.devices.values() for d in devices}
        self.hub.turns.play(tasks, "device", self._told)

    def end_step(self) -> None:
        for devices in self.devices.values():
            for d in devices:
                d.end_step()

    def _actions(self, device: Device) -> Waits:
        for name, chunk, micro in unrolled(self.program, device.cls.schedule, device.group):
            device.action = f"{name}.{chunk} of micro-batch {micro}" if name in PER_MICROBATCH else name
            yield from device.run(name, chunk, micro)

    def _told(self, d: Device, key: Any) -> str:
        return f"the device at {d.at} of group {d.group}, in {d.action}, waits for {self.hub.told(key)}"
