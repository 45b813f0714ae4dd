"""A program run by processes: the leader's side of it, an `Executor` like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from compiler.declared import bounded
from compiler.numbering import Ranks
from compiler.program import RESULTS, Program, StateDecl
from runtime.distribute import Array
from runtime.executor import LocalExecutor
from runtime.rank.timed import TimedSpan, delivered
from runtime.readable import Readable
from runtime.state import Piece
from runtime.torch.launch import require_size
from runtime.torch.member import Member

_numbers = count()


class TorchExecutor(LocalExecutor):
    """Runs a program on the first processes of a world, one device each; logical arrays are put together here.

    leader: process 0's own part. What it is told to do without an answer is done with what is told next.
    """

    def __init__(
        self,
        program: Program,
        initial: Mapping[str, Array] | None = None,
        leader: Member | None = None,
        shares: TorchExecutor | None = None,
        timed: bool = False,
    ) -> None:
        """timed: note when what runs, for `measured`. Raises E0708 if there are fewer processes than devices."""
        member = leader if shares is None else shares.leader
        assert member is not None
        self.leader: Member = member
        self.number = next(_numbers)
        self.ranks = Ranks.of(program)
        self.added = program.devices - 1  # the most: sums are over some of them
        if program.devices > member.world.size:
            require_size(program.name, program.devices, member.world.size)
        self._later: list[tuple[Any, ...]] = []
        self._known: dict[tuple[int, str], Array] = {}
        self._values: Mapping[str, Readable] = {}
        self._do("open", program, timed)
        if timed:
            self._do("clock")
        super().__init__(program, initial, shares)

    # --- what all processes do

    def _do(self, name: str, *arguments: Any) -> None:
        """Have all processes do something, before the next thing that is asked."""
        self._later.append((name, self.number, *arguments))

    def _ask(self, name: str, *arguments: Any) -> list[Any]:
        """Have all processes do something; their answers."""
        said = "do", [*self._later, (name, self.number, *arguments)]
        self._later = []
        return self.leader.do(self.leader.world.tell(said))

    def measured(self, ranks: Sequence[int]) -> list[list[TimedSpan]]:
        """What ran when since the program was opened, on each of these ranks, in nanoseconds of process 0's clock."""
        self._do("clock")
        answers = self._ask("measured", tuple(ranks))
        return delivered([answers[r] for r in ranks])

    def close(self) -> None:
        """Let all processes forget the program."""
        self._ask("close")

    # --- states

    def begin(self, initial: Mapping[str, Array]) -> None:
        self._do("begin", frozenset(initial))
        if initial:
            self.put({name: array for name, array in initial.items() if name in self.lasting})

    def fill(self, group: int, decl: StateDecl, part: Array) -> None:
        self._do("fill", group, decl.name, np.ascontiguousarray(part).reshape(part.shape))

    def share(self, group: int, decl: StateDecl, other: Any) -> bool:
        if any(all(s.name != decl.name for s in run.classes[group].states) for run in (self, other)):
            return False
        self._later += other._later  # what the other was told before is done before
        other._later = []
        self._do("share", group, decl.name, other.number)
        return True

    def held(self, group: int, decl: StateDecl) -> Array | None:
        if (group, decl.name) not in self._known:
            self._fetch({group: [decl.name]})
        return self._known.get((group, decl.name))

    def pieces(self, roles: tuple[str, ...], only_update: bool | None = None) -> list[Piece]:
        wanted = self._named(roles)
        if any((g, name) not in self._known for g, names in wanted.items() for name in names):
            self._fetch(wanted)
        return super().pieces(roles, only_update)

    def collect(self, roles: tuple[str, ...], add: bool, only_update: bool | None = None) -> dict[str, Array]:
        found = super().collect(roles, add, only_update)
        if not set(roles) & set(RESULTS):
            self._known = {}  # they may have changed when they are asked for again
        return found

    def _named(self, roles: Sequence[str]) -> dict[int, list[str]]:
        """The buffers of these roles, by group."""
        return {g: [s.name for s in cls.states if s.role in roles] for g, cls in self.classes.items()}

    def _fetch(self, wanted: Mapping[int, Sequence[str]]) -> None:
        self._learn(wanted, self._ask("held", wanted))

    def _learn(self, wanted: Mapping[int, Sequence[str]], answers: Sequence[Any]) -> None:
        """Stack what the devices of each group hold."""
        shape = self.mesh.shape
        for group, names in wanted.items():
            base = self.ranks.base(group)
            own = [answers[base + sum(at[a] * self.ranks.strides[a] for a in at)] for at in self.mesh.devices]
            for name in names:
                if not all(name in found for found in own):
                    continue
                pieces = [found[name] for found in own]
                decl = next(s for s in self.classes[group].states if s.name == name)
                first = 1 if pieces[0].ndim > len(decl.type.dims) else 0  # micro-batches
                stacked = np.stack(pieces, first)
                lead = stacked.shape[:first]
                self._known[group, name] = stacked.reshape((*lead, *shape, *stacked.shape[first + 1 :]))

    # --- a step

    def deliver(self, values: Mapping[str, Readable]) -> None:
        self._values = values

    def play(self) -> None:
        wanted = self._named(RESULTS)
        for g, cls in self.classes.items():
            wanted[g] += [s.name for s in bounded(cls)]
        self._known = {}
        self._learn(wanted, self._ask("step", self._values, wanted))

    def end_step(self) -> None:
        self._known, self._values = {}, {}
        self._do("end_step")

    def _scalar(self, name: str) -> Array:
        """The number of updates: the own device's counter of that name, or our own count."""
        device = self.leader.devices.get(self.number)
        if not self._later and device is not None and name in device.states:
            return np.array(device.backend.to_host(device.states[name].array).flat[0], np.int32)
        return super()._scalar(name)
