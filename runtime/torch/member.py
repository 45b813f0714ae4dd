"""What a process does for a run: it has one device of each program, and does what the leader says.

A command is the name of a method of `Member` and its arguments. Whatever goes wrong ends the process: the others cannot
go on without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compiler.graph import Type
from compiler.layout import TIME
from compiler.program import LASTING, Program, listed
from runtime.distribute import Array, piece_of
from runtime.executor import inputs_of
from runtime.mesh import parted
from runtime.rank.compiled import CompiledRank
from runtime.rank.initial import OneDevice
from runtime.rank.timed import TimedRank, TimedSpan
from runtime.readable import Readable
from runtime.torch.backend import Torch
from runtime.torch.fusing.fuse import fused
from runtime.torch.heap import keep_memory
from runtime.torch.network import TorchNetwork, place_of
from runtime.torch.world import World

END = "end"


class Member:
    """The devices of this process, one of each program that is run, by the program's number.

    busy: whether a command is under way; others wait for its end.
    """

    def __init__(self, world: World) -> None:
        keep_memory()
        self.world, self.backend = world, Torch(world.device)
        self.devices: dict[int, CompiledRank] = {}
        self.busy = False

    def serve(self) -> str:
        """Do what the leader says, up to the end; why it ended, if something is wrong."""
        while (said := self.world.tell())[0] != END:
            self.do(said)
        return str(said[1])

    def do(self, said: tuple[Any, ...]) -> list[Any]:
        """Do some commands and answer the last of them: the answers of all, on the leader."""
        *quietly, last = said[1]
        self.busy = True
        with torch.inference_mode():
            for command in quietly:
                self.one(command)
            answer = self.one(last)
        found = self.world.answers(answer)
        self.busy = False
        return found

    def one(self, command: tuple[Any, ...]) -> Any:
        """Do one command."""
        name, number, *arguments = command
        if name != "open" and number not in self.devices:
            return None  # the program has fewer devices than there are processes
        return getattr(self, name)(number, *arguments)

    # --- commands

    def open(self, number: int, program: Program, timed: bool = False) -> None:
        """Take part in a program. timed: note when what runs (`measured`)."""
        TorchNetwork.make_groups(program, self.world)
        if self.world.rank < program.devices:
            cls, group, at = place_of(program, self.world.rank)
            network = TorchNetwork(program, self.world, self.backend.device)
            device = OneDevice(program, fused(cls, self.backend.device.type), group, at, network, self.backend)
            self.devices[number] = TimedRank(device, self.backend.settled) if timed else CompiledRank(device)

    def close(self, number: int) -> None:
        """Let go of a program."""
        del self.devices[number]

    def begin(self, number: int, given: frozenset[str]) -> None:
        """Fill the states as they are declared."""
        self.devices[number].begin(given)

    def fill(self, number: int, group: int, name: str, part: Array) -> None:
        """Put the own piece of a group's part of a logical array into a buffer."""
        device = self.devices[number]
        if device.group == group:
            decl = device.declared[name]
            at = [{**device.at, TIME: m} for m in range(device.program.microbatches if parted(decl) else 1)]
            pieces = [piece_of(part, decl.type, decl.layout, device.mesh, a) for a in at]
            piece = np.stack(pieces) if parted(decl) else pieces[0]
            device.fill(name, self.backend.from_host(piece, decl.type.dtype, decl.memory))

    def share(self, number: int, group: int, name: str, other: int) -> None:
        """Let a buffer be that of another program."""
        device = self.devices[number]
        if device.group == group:
            device.share(name, self.devices[other])

    def held(self, number: int, wanted: Mapping[int, Sequence[str]]) -> dict[str, Array]:
        """What is in the buffers of these names (by group), with the micro-batches in front where there are pieces."""
        device, found = self.devices[number], {}
        for name in wanted.get(device.group, ()):
            decl = device.declared[name]
            if parted(decl) and decl.role not in LASTING and not listed(decl):
                micros = range(device.program.microbatches)
                if (name, 0) in device.saved:
                    found[name] = np.stack([self.backend.to_host(device.kept(name, m)) for m in micros])
            elif name in device.states:
                found[name] = np.array(self.backend.to_host(device.read(name)))
        return found

    def step(
        self, number: int, values: Mapping[str, Readable], wanted: Mapping[int, Sequence[str]]
    ) -> dict[str, Array]:
        """Run the schedule on logical inputs; the contents of some buffers then."""
        device = self.devices[number]
        device.open_step()
        types = {i.name: i.type for i in device.program.inputs}
        for (name, _), var in inputs_of(device.cls).items():
            count = device.program.microbatches if TIME in var.layout.axes else 1
            type, mesh = types.get(name, Type("int32")), device.mesh
            pieces = [piece_of(values[name], type, var.layout, mesh, {**device.at, TIME: m}) for m in range(count)]
            device.put_inputs(name, var, [self.backend.from_host(p, type.dtype) for p in pieces])
        for _ in device.step():
            raise AssertionError("calls block here: there is nothing to yield for")
        found = self.held(number, wanted)
        device.close_step()
        return found

    def clock(self, number: int) -> None:
        """Compare this process' clock with that of process 0, together with all others that have the program."""
        device = self.devices[number]
        assert isinstance(device, TimedRank)
        device.clocks.append(self.world.clock(device.program.devices))

    def measured(self, number: int, ranks: Sequence[int]) -> list[TimedSpan]:
        """What was noted since the program was opened, by the clock of process 0; nothing, if not of these ranks."""
        device = self.devices[number]
        assert isinstance(device, TimedRank)
        return device.measured() if self.world.rank in ranks else []

    def end_step(self, number: int) -> None:
        """Let go of inputs and of what was accumulated."""
        self.devices[number].end_step()
