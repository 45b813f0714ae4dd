"""Runs a program with one interpreter per device, all in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.layout import TIME
from compiler.liveness import passes
from compiler.program import LASTING, Program, StateDecl, listed
from runtime.backend import Backend
from runtime.comm import Hub
from runtime.distribute import Array, piece_of
from runtime.executor import CacheUse, LocalExecutor, cache_use, check_hang
from runtime.going import NOW
from runtime.mesh import Mesh, parted
from runtime.numpy.backend import Numpy
from runtime.rank.buffers import HeldArray
from runtime.rank.initial import OneDevice
from runtime.rank.interpreter import Rank
from runtime.readable import Readable


class RankExecutor(LocalExecutor):
    """Every device has buffers of its own; `peaks` are measured, not computed.

    initial: logical arrays by name in place of the declared initialisers.
    """

    device: type[Rank] = Rank

    def __init__(
        self,
        program: Program,
        initial: Mapping[str, Array] | None = None,
        backend: Backend | None = None,
        shares: RankExecutor | None = None,
    ) -> None:
        """`backend`: that of all devices; numpy if left out."""
        mesh = Mesh.of(program)
        self.backend: Backend = backend or (shares.backend if shares is not None else Numpy())
        self.hub = Hub(mesh, self.backend)
        self.devices = {
            g: [
                self.device(OneDevice(program, cls, g, at, self.hub.network(g, at), self.backend))
                for at in mesh.devices
            ]
            for g, cls in sorted(((g, cls) for cls in program.classes for g in cls.groups), key=lambda x: x[0])
        }
        self._passes = passes(program) * len(mesh.devices)
        super().__init__(program, initial, shares)

    @property
    def peaks(self) -> dict[int, list[dict[str, int]]]:
        """Group -> for each device: memory -> the most bytes there ever were."""
        return {g: [d.ledger.peak for d in devices] for g, devices in self.devices.items()}

    @property
    def caches(self) -> dict[str, CacheUse]:
        devices = (d for devices in self.devices.values() for d in devices)
        used = ((d.declared[name].logical, d.states[name].array) for d in devices for name in d.caches)
        return cache_use(self.program, used)

    def begin(self, initial: Mapping[str, Array]) -> None:
        """Every device fills its own buffers."""
        for devices in self.devices.values():
            for d in devices:
                d.begin(frozenset(initial))
        if initial:
            self.put({name: array for name, array in initial.items() if name in self.lasting})

    def fill(self, group: int, decl: StateDecl, part: Array) -> None:
        for d in self.devices[group]:
            if parted(decl):
                at = [{**d.at, TIME: m} for m in range(self.program.microbatches)]
                piece = np.stack([piece_of(part, decl.type, decl.layout, self.mesh, x) for x in at])
            else:
                piece = piece_of(part, decl.type, decl.layout, self.mesh, d.at)
            d.fill(decl.name, self.backend.from_host(piece, decl.type.dtype, decl.memory))

    def held(self, group: int, decl: StateDecl) -> Array | None:
        devices = self.devices[group]
        if parted(decl) and (decl.role in LASTING or listed(decl)):
            if decl.name not in devices[0].states:
                return None
            return np.moveaxis(self._stacked([d.states[decl.name] for d in devices]), self.mesh.lead, 0)
        if parted(decl):
            micros = range(self.program.microbatches)
            return np.stack([self._stacked([d.saved[decl.name, m] for d in devices]) for m in micros])
        if decl.name not in devices[0].states:
            return None
        return self._stacked([d.states[decl.name] for d in devices])

    def _stacked(self, held: Sequence[HeldArray]) -> Array:
        pieces = [self.backend.to_host(h.array) for h in held]
        return np.stack(pieces).reshape((*self.mesh.shape, *pieces[0].shape))

    def share(self, group: int, decl: StateDecl, other: RankExecutor) -> bool:
        if decl.name not in other.devices[group][0].states or decl.name not in self.devices[group][0].declared:
            return False
        for mine, theirs in zip(self.devices[group], other.devices[group], strict=True):
            mine.fill(decl.name, theirs.states[decl.name].array)
        return True

    def deliver(self, values: Mapping[str, Readable]) -> None:
        for group, devices in self.devices.items():
            for name, var, type in self.inputs(group):
                count = self.program.microbatches if TIME in var.layout.axes else 1
                for d in devices:
                    at = [{**d.at, TIME: m} for m in range(count)]
                    pieces = [piece_of(values[name], type, var.layout, self.mesh, c) for c in at]
                    d.put_inputs(name, var, [self.backend.from_host(p, type.dtype) for p in pieces])

    def play(self) -> None:
        tasks = {d: d.step() for devices in self.devices.values() for d in devices}
        NOW.start(self._passes)
        check_hang("device", [self._told(d, key) for d, key in self.hub.turns.play(tasks)])

    def end_step(self) -> None:
        for devices in self.devices.values():
            for d in devices:
                d.end_step()

    def _told(self, d: Rank, key: Any) -> str:
        return f"the device at {d.at} of group {d.group}, in {d.doing}, waits for {self.hub.told(key)}"
