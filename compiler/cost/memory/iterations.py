"""What an iteration of a loop makes and lets go, while all is still there that the loop reads: of bounds of memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from compiler.cost.memory.systems import SystemMemory, SystemReplay, Systems
from compiler.graph import Graph
from compiler.memory.action import MemoryEffect, Replay, Where
from compiler.memory.held import Buffer
from compiler.memory.tiers import FIRST
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, Function, FunctionKey
from compiler.walk import walk


class IterationReplay(SystemReplay):
    """bodies: of the loops that count, by identity. made: bytes of what their first iterations make, at the fullest
    moment; lost: whether something was let go before that the action found (of the slots that count)."""

    bodies: Collection[int]
    counts: Collection[str]

    def run(self, function: Function) -> MemoryEffect:
        self.made, self.now, self.lost = 0, 0, False
        self.own: dict[Buffer, int] = {}
        self.ran, self.within = set[int](), False
        self.given = _kept(self.saved, self.counts)
        self.before = {*self.given}
        return super().run(function)

    def _new(self, name: str, size: int, origin: str = Role.ACTIVATION, memory: str = FIRST) -> Buffer:
        b = super()._new(name, size, origin, memory)
        if self.within and memory == FIRST:
            self.own[b] = b.bytes
            self.now += b.bytes
        elif not self.ran:
            self.before.add(b)
        return b

    def _hold(self, b: Buffer, *, names: int = 0, slots: int = 0, accumulator: str | None = None) -> None:
        super()._hold(b, names=names, slots=slots, accumulator=accumulator)
        if b in self.own and (b.slots or b.accumulator or not b.names):
            self.now -= self.own.pop(b)

    def _mark(self, where: Where, at: str) -> None:
        super()._mark(where, at)
        if self.within:
            self.made = max(self.made, self.now)

    def _body(self, body: Graph, env: dict[str, Buffer], where: Where, carries: int = 0) -> None:
        first = id(body) in self.bodies and id(body) not in self.ran
        if first:
            self.ran.add(id(body))
            self.within, self.now = True, 0
            self.lost |= any(not (b.names or b.slots) for b in self.given)
        super()._body(body, env, where, carries)
        if first:
            self.within = False
            self.own.clear()

    @property
    def left(self) -> int:
        """Bytes of the slots that count, behind the action."""
        return sum(b.bytes for b in _kept(self.saved, self.counts))

    @property
    def added(self) -> int:
        """Of these, what was made here before the loop's first iteration (where its stacks are)."""
        return sum(b.bytes for b in _kept(self.saved, self.counts) if b not in self.given and b in self.before)


def _kept(slots: Mapping[str, Buffer], counts: Collection[str]) -> dict[Buffer, None]:
    """Device memory of the slots that count, each buffer once."""
    found = (b for name, b in slots.items() if name in counts)
    return {b: None for b in found if b.memory == FIRST and b.role == Role.SAVED and not b.static}


class IterationMemory(SystemMemory):
    """Of a class's devices. labels: of the loops at the top that count."""

    replay = IterationReplay

    def __init__(self, systems: Systems, cls: DeviceClass, labels: Collection[str]) -> None:
        super().__init__(systems, cls)
        self.labels = labels
        self.stacks = frozenset(s.name for s in cls.states if {*s.type.names} & {*labels})

    def bodies(self, key: FunctionKey) -> list[Graph]:
        """Of a function's loops at the top that count."""
        ops = (n.op for n in self.functions[key].body.nodes)
        return [op.body for op in ops if isinstance(op, Repeat) and op.label in self.labels]

    def alike(self, key: FunctionKey) -> bool:
        """Whether what an iteration makes is as large however many there are."""
        made = (v for body in self.bodies(key) for node, _ in walk(body) for v in node.outputs)
        return not any({*v.type.names} & {*self.labels} for v in made)

    def start(self, key: FunctionKey) -> Replay:
        found = super().start(key)
        assert isinstance(found, IterationReplay)
        found.bodies, found.counts = {id(body) for body in self.bodies(key)}, self.stacks
        return found

    def replayed(self, key: FunctionKey) -> IterationReplay:
        """An action that sets all its accumulators; of a pass behind another, behind that."""
        self.effect(*key, set())
        (found,) = (r for (phase, chunk, _), r in self.replays.items() if (phase, chunk) == key)
        assert isinstance(found, IterationReplay)
        return found
