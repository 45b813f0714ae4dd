"""Replays what one action does to the memory of a device; it computes nothing.

What counts: a value's bytes are those of its local type in its own dtype. The rules, which the private-buffers executor
follows with its real buffers:

- Weights, optimizer states, counters and reports are there all the time, and so are the data inputs of a whole step.
- An instruction allocates its results, then lets go of the operands that nothing needs any more. A result that nobody
  reads is let go at once. Ops that only rearrange (`Movement.VIEW`) share their operand's buffer.
- A fused region (`compiler.regions.fused`) is one instruction: what it reads inside only is never there. A result takes
  the memory of the first operand of its own type that was made for nothing else and that nothing else needs any more.
- `input`, `read`, `load` share the buffer that they name, `save` makes its operand's buffer a saved one: bytes count
  once as long as any name or slot holds the buffer; a last `load` frees its slot.
- Every buffer lies in one memory, and so do the values that share it. `move` allocates its result in another one.
- The first `accumulate` of a step takes its operand's buffer if nothing else holds it and no `broadcast` (it has more
  numbers) is made of it, and else a copy; later ones add in place. These buffers are let go at the end of the step.
- What lies in the memory of an operand (`compiler.in_place`: new contents of a state) shares its buffer.
- Where micro-batches put parts of their own into an accumulator (lists of rows), it is made whole by the first.
- `save` copies what is in a state's buffer, which is renewed before the saved value is loaded.
- `write` copies into the buffer that is there. `recv` allocates; what a `send` sends is not kept.
- `move … ahead n` in a loop allocates the result of n iterations later; in the first iteration those up to it.
- A loop allocates the stacks of its results before the first iteration; an iteration's result is copied into its stack
  as soon as it is defined. A stack that only an `accumulate` reads, whose buffer has been set before, is not made: the
  results of the iterations are added to that buffer's slices (`liveness.sinks`). Carries enter without a copy: the
  operand's buffer is let go in the first iteration if nothing else needs it. Slices and invariants share the operands'
  buffers.
- A function's parameters share the buffers of the operands, as carries do; its results are what it made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from compiler.graph import Graph, Node, Value
from compiler.in_place import operands_of
from compiler.layout import TIME, local_type
from compiler.liveness import liveness
from compiler.memory.facts import ClassFacts
from compiler.memory.held import Buffer, Early
from compiler.memory.tiers import FIRST
from compiler.ops.base import Movement
from compiler.ops.call import Call
from compiler.ops.effects import Accumulate, Input, Load, Read, Save
from compiler.ops.elementwise import Broadcast
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import LASTING, DeviceClass, Function, StateDecl, listed
from compiler.regions.fused import FusedNodes, as_run
from dsl.data import dataclass

STATIC = (*LASTING, Role.REPORT)


Totals = dict[tuple[str, str], int]  # (memory, role) -> bytes
Signature = tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a program: the loops around it in a function, and what is computed there ("": before anything is)."""

    function: str = ""
    loops: tuple[str, ...] = ()
    at: str = ""

    def __bool__(self) -> bool:
        return bool(self.at)

    def __str__(self) -> str:
        """`B in block at q.grad`."""
        return " in ".join((self.function, *self.loops)) + f" at {self.at}" if self else ""


@dataclass(slots=True)
class Top:
    """The fullest moment of an action in one memory, relative to its start: bytes, by (memory, role), where, and how
    many changes of buffers come before it; alive: what the action's own micro-batch then holds: (name, role, bytes)."""

    bytes: int
    totals: Totals
    where: Where
    changes: int
    alive: list[tuple[str, str, int]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class MemoryEffect:
    """What one action does to memory, relative to its start; peaks: by memory."""

    delta: Totals
    peaks: dict[str, Top] = field(default_factory=dict)


def declared(decl: StateDecl, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Bytes of a state's buffer on a device, and how many there are: lists of rows have one for each micro-batch."""
    return local_type(decl.type, decl.layout, sizes).bytes, sizes[TIME] if listed(decl) else 1


class Replay:
    """Replays one action; `saved` are the slots of its micro-batch, `accumulated` the accumulators set in this step."""

    fuses = True  # whether fused regions are one instruction

    def __init__(self, cls: DeviceClass, sizes: Mapping[str, int], known: ClassFacts | None = None) -> None:
        """known: of the class, from another replay."""
        self.sizes = sizes
        known = known or ClassFacts.of(cls, sizes, fuses=self.fuses)
        self.states, self.reuses, self.lives = known.states, known.reuses, known.lives
        self.totals: Totals = {}
        self.saved: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        self.accumulated: dict[str, Buffer] = {}
        self.changes: list[tuple[Buffer, str, int]] = []  # a buffer came, or changed: its role (none: it went), bytes
        self.effect = MemoryEffect({})
        self.early: dict[int, Early] = {}  # by instruction, of the loops that are running

    def run(self, function: Function) -> MemoryEffect:
        self.totals = {}
        self.effect = MemoryEffect({})
        # What an accumulator is in is there already, whoever has it in a slot as well.
        self.changes = [(b, b.role, b.bytes) for b in self.saved.values() if not b.static and not b.accumulator]
        self._body(function.body, {}, Where(function.phase))
        for memory, top in self.effect.peaks.items():
            top.alive = self._alive(memory, top.changes)
        self.effect.delta = {k: v for k, v in self.totals.items() if v}
        return self.effect

    # --- buffers

    def _count(self, b: Buffer, role: str, sign: int) -> None:
        key = (b.memory, role)
        self.totals[key] = self.totals.get(key, 0) + sign * b.bytes

    def _new(self, name: str, size: int, origin: str = Role.ACTIVATION, memory: str = FIRST) -> Buffer:
        b = Buffer(size, memory, name, origin)
        self._count(b, origin, 1)
        self.changes.append((b, origin, size))
        return b

    def _hold(self, b: Buffer, *, names: int = 0, slots: int = 0, accumulator: str | None = None) -> None:
        """Change who holds a buffer; frees it when nobody does."""
        if b.static:
            return
        before = b.role
        b.names += names
        b.slots += slots
        if accumulator is not None:
            b.accumulator = accumulator
        role = b.role if b.names or b.slots or b.accumulator else ""
        if role == before:
            return
        self._count(b, before, -1)
        if role:
            self._count(b, role, 1)
        self.changes.append((b, role, b.bytes))

    def _resize(self, b: Buffer, size: int) -> None:
        """Let a buffer that somebody holds have another size."""
        self._count(b, b.role, -1)
        b.bytes = size
        self._count(b, b.role, 1)
        self.changes.append((b, b.role, size))

    def _alive(self, memory: str, changes: int) -> list[tuple[str, str, int]]:
        """What there is after so many changes."""
        live: dict[Buffer, tuple[str, int]] = {}
        for b, role, size in self.changes[:changes]:
            if role:
                live[b] = role, size
            else:
                live.pop(b, None)
        return [(b.name, role, size) for b, (role, size) in live.items() if b.memory == memory]

    def _mark(self, where: Where, at: str) -> None:
        """Remember this moment if it is a peak of some memory."""
        sums: dict[str, int] = {}
        for (memory, _), n in self.totals.items():
            sums[memory] = sums.get(memory, 0) + n
        for memory, total in sums.items():
            old = self.effect.peaks.get(memory)
            if old is None or total > old.bytes:
                self.effect.peaks[memory] = Top(total, dict(self.totals), replace(where, at=at), len(self.changes))

    def _bytes(self, var: Value) -> int:
        return local_type(var.type, var.layout, self.sizes).bytes

    # --- instructions

    def _body(self, body: Graph, env: dict[str, Buffer], where: Where, carries: int = 0) -> None:
        known, run = self.lives.get(id(body)), as_run(body) if self.fuses else body
        if known is None:
            known = self.lives[id(body)] = body, liveness(run, carries)
        live = known[1]
        for name in live.unused:
            self._hold(env.pop(name), names=-1)
        for instr, dying in zip(run.nodes, live.after, strict=True):
            self._begin(instr)
            if isinstance(instr.op, Repeat):
                sunk = [name for name, into in live.sinks.items() if self._adds_to(into)]
                self._loop(instr, instr.op, env, dying, where, sunk)
                continue
            if isinstance(instr.op, Call):
                self._call(instr, instr.op, env, dying, where)
                continue
            self._instr(instr, env, dying)
            self._mark(where, instr.outputs[0].name if instr.outputs else instr.op.mnemonic)
            for name in dying:
                if name in env:
                    self._hold(env.pop(name), names=-1)

    def _begin(self, instr: Node) -> None:
        """For those that watch."""

    def _instr(self, instr: Node, env: dict[str, Buffer], dying: tuple[str, ...]) -> None:
        op = instr.op
        if isinstance(op, (Input, Read, Load)):
            (out,) = instr.outputs
            b = self._source(op, self._bytes(out))
        elif isinstance(op, Save):
            self._save(op.name, env[instr.inputs[0].name], self._bytes(instr.inputs[0]))
            return
        elif isinstance(op, Accumulate):
            self._accumulate(op.name, instr.inputs[0].name, env, dying)
            return
        elif isinstance(op, FusedNodes):
            self._fused(instr, op, env, dying)
            return
        elif op.movement is Movement.VIEW:
            (out,) = instr.outputs
            b = env[instr.inputs[0].name]
            b.repeated |= isinstance(op, Broadcast)
        elif (reuse := self.reuses.get((id(instr), 0))) is not None:
            (out,) = instr.outputs
            b = env[instr.inputs[reuse.operand].name]
        elif (early := self.early.get(id(instr))) is not None:
            (out,) = instr.outputs
            while early.begins():
                early.moved.append(self._new(out.name, self._bytes(out), memory=out.memory))
                early.left -= 1
                self._hold(early.moved[-1], names=1)
            env[out.name] = early.moved.popleft()
            return
        else:
            origin = Role.MESSAGE if op.message else Role.ACTIVATION
            for out in instr.outputs:
                b = self._new(out.name, self._bytes(out), origin, out.memory)
                self._hold(b, names=1)
                env[out.name] = b
            return
        self._hold(b, names=1)
        env[out.name] = b
        if isinstance(op, Load) and op.last:
            self._hold(self.saved[op.name], slots=-1)
            del self.saved[op.name]

    def _fused(self, instr: Node, op: FusedNodes, env: dict[str, Buffer], dying: tuple[str, ...]) -> None:
        free = {k for k, v in enumerate(instr.inputs) if v.name in dying and env[v.name].sole}
        for out, k in zip(instr.outputs, op.taken(free, operands_of(self.reuses, instr)), strict=True):
            b = self._new(out.name, self._bytes(out)) if k is None else env[instr.inputs[k].name]
            self._hold(b, names=1)
            env[out.name] = b

    def _source(self, op: Input | Read | Load, size: int) -> Buffer:
        if isinstance(op, Load):
            return self.saved[op.name]
        if isinstance(op, Read):
            decl = self.states[op.name]
            if decl.role not in STATIC and op.name in self.accumulated:
                return self.accumulated[op.name]
            return Buffer(size, decl.memory, op.name, decl.role, static=True)
        return Buffer(size, FIRST, op.name, Role.INPUT, static=True)

    def _save(self, name: str, b: Buffer, size: int | None = None) -> None:
        if b.origin == Role.STATE and b.static:
            b = self._new(name, b.bytes if size is None else size, memory=b.memory)
        if self.states[name].role is Role.OUTPUT:  # nothing loads it: it is there to the end
            self._hold(b, accumulator=Role.OUTPUT)
            self.outputs[name] = b
            return
        self._hold(b, slots=1)
        self.saved[name] = b

    def _declared(self, name: str) -> int:
        size, parts = declared(self.states[name], self.sizes)
        return size * parts

    def accumulator(self, name: str) -> Buffer:
        """The buffer of an accumulator that an earlier action has set."""
        decl = self.states[name]
        return Buffer(self._declared(name), decl.memory, name, decl.role, accumulator=decl.role)

    def _accumulate(self, name: str, operand: str, env: dict[str, Buffer], dying: tuple[str, ...]) -> None:
        decl = self.states[name]
        if name in self.accumulated:
            return
        b = env[operand]
        if not (b.sole and operand in dying) or listed(decl):
            b = self._new(name, self._declared(name), memory=decl.memory)
        self._hold(b, accumulator=decl.role)
        self.accumulated[name] = b

    def _adds_to(self, name: str) -> bool:
        """Whether an `accumulate` adds in place."""
        return name in self.accumulated

    def _loop(
        self,
        instr: Node,
        op: Repeat,
        env: dict[str, Buffer],
        dying: tuple[str, ...],
        where: Where,
        sunk: Sequence[str],
    ) -> None:
        """`sunk`: stacks that are not made."""
        for k, out in enumerate(instr.outputs[op.carries :], op.carries):
            if out.name in sunk:
                continue
            reuse = self.reuses.get((id(instr), k))
            if reuse is not None:
                b = env[out.name] = env[instr.inputs[reuse.operand].name]
                self._hold(b, names=1)
                continue
            b = self._new(out.name, self._bytes(out), memory=out.memory)
            self._hold(b, names=1)
            env[out.name] = b
        self._mark(where, op.label)
        names = [v.name for v in instr.inputs]
        carried = [env[n] for n in names[: op.carries]]
        for b in carried:
            self._hold(b, names=1)  # the parameter's
        early = [n for n in names[: op.carries] if n in dying and n not in names[op.carries :]]
        for name in dict.fromkeys(early):
            self._hold(env.pop(name), names=-1)
        shared = [env[n] for n in names[op.carries :]]
        nexts = [v.name for v in op.body.outputs[: op.carries]]
        seen: dict[Signature, int] = {}
        moves = {id(n): Early(n.op.ahead, op.count) for n in op.body.nodes if isinstance(n.op, Move) and n.op.ahead}
        self.early |= moves
        last = op.count - max((e.ahead for e in moves.values()), default=0)  # from there on less is moved
        i = 0
        while i < op.count:
            # Iterations that begin alike end alike: jump over whole periods.
            signature = (*self._signature(carried, shared), tuple(len(e.moved) for e in moves.values()))
            if signature in seen and (period := i - seen[signature]) and last - i >= period:
                jump = (last - i) // period * period
                for e in moves.values():
                    e.left -= jump
                i += jump
                seen.clear()
                continue
            seen[signature] = i
            inner = dict(zip((p.name for p in op.body.inputs), [*carried, *shared], strict=True))
            for b in shared:
                self._hold(b, names=1)
            self._body(op.body, inner, replace(where, loops=(*where.loops, op.label)), op.carries)
            carried = [inner[n] for n in nexts]
            for b in carried:
                self._hold(b, names=1)
            for name in dict.fromkeys(nexts):
                self._hold(inner.pop(name), names=-1)
            i += 1
        for out, b in zip(instr.outputs[: op.carries], carried, strict=True):
            env[out.name] = b
        for name in dying:
            if name in env:
                self._hold(env.pop(name), names=-1)

    def _call(self, instr: Node, op: Call, env: dict[str, Buffer], dying: tuple[str, ...], where: Where) -> None:
        names, results = [v.name for v in instr.inputs], [v.name for v in op.body.outputs]
        inner = {p.name: env[name] for p, name in zip(op.body.inputs, names, strict=True)}
        for b in inner.values():
            self._hold(b, names=1)
        for name in dict.fromkeys(n for n in names if n in dying):
            self._hold(env.pop(name), names=-1)
        self._body(op.body, inner, replace(where, loops=(*where.loops, op.at)), len(results))
        for out, name in zip(instr.outputs, results, strict=True):
            env[out.name] = inner[name]
            self._hold(inner[name], names=1)
        for name in dict.fromkeys(results):
            self._hold(inner.pop(name), names=-1)
        for name in dying:
            if name in env:
                self._hold(env.pop(name), names=-1)

    def _signature(self, carried: Sequence[Buffer], shared: Sequence[Buffer]) -> Signature:
        """Two iterations that begin with equal signatures do the same to memory.

        Per carry: which buffer it is, and what letting go of it changes. (The first may be smaller than the others: a
        view that repeats few elements.)
        """
        number: dict[Buffer, int] = {b: -1 - i for i, b in enumerate(dict.fromkeys(shared))}
        out: list[tuple[object, ...]] = []
        for b in carried:
            number.setdefault(b, len(number))
            held_outside = b.names - sum(c is b for c in carried)
            held = b.static or held_outside > 0 or b.slots > 0 or bool(b.accumulator)
            out.append((number[b], b.bytes, b.role, held))
        return tuple(out)
