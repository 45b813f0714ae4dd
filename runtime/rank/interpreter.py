"""One device: interprets its functions on plain arrays of its own, and measures its memory for real.

Everything is copied: results of kernels, messages, what others get. The only arrays shared within the device are those
whose buffers are shared by the rules of `compiler.memory`; a `Buffer` is counted while anything holds it, with the
bytes of the array that is really there (its elements in the value's own dtype: numpy keeps 16-bit floats in 32 bits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.graph import ITEMSIZE, Graph, Node, Value, names_of
from compiler.layout import TIME, Layout, local_type
from compiler.liveness import liveness, variables
from compiler.memory.action import FIRST
from compiler.ops.base import Movement
from compiler.ops.comm import Comm
from compiler.ops.create import Iota
from compiler.ops.effects import Accumulate, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import LASTING, DeviceClass, Program
from runtime.comm import Communicator, Wait
from runtime.distribute import Array, Mesh
from runtime.numpy import STORAGE, Context, Env, LocalValue, plan, rounded
from runtime.rank.collectives import Here, run_collective


@dataclass
class Ledger:
    """Bytes alive on one device, and the most there ever were, by memory."""

    live: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    def add(self, memory: str, size: int) -> None:
        self.live[memory] = self.live.get(memory, 0) + size
        self.peak[memory] = max(self.peak.get(memory, 0), self.live[memory])


@dataclass(eq=False)
class Buffer:
    """A piece of memory as the program sees it; let go when nobody holds it."""

    ledger: Ledger
    memory: str
    size: int
    holders: int = 1

    def __post_init__(self) -> None:
        self.ledger.add(self.memory, self.size)

    def hold(self) -> Buffer:
        self.holders += 1
        return self

    def drop(self) -> None:
        self.holders -= 1
        if self.holders == 0:
            self.ledger.add(self.memory, -self.size)


@dataclass
class Held:
    """A value: its array, and the buffer that its bytes belong to."""

    array: Array
    buffer: Buffer


Values = dict[str, Held]


class Device:
    """One device of a class. `at`: its mesh coordinates. `states`: buffers by name, filled by who makes the device."""

    def __init__(
        self, program: Program, cls: DeviceClass, group: int, at: Mapping[str, int], comm: Communicator
    ) -> None:
        self.program, self.cls, self.group, self.at, self.comm = program, cls, group, dict(at), comm
        self.mesh = Mesh.of(program)
        self.env = Env((), program.sizes, self.at)
        self.functions = {(f.name, f.chunk): f for f in cls.functions}
        self.declared = {s.name: s for s in cls.states}
        self.ledger = Ledger()
        self.states: Values = {}
        self.inputs: dict[tuple[str, Layout], list[Held]] = {}
        self.saved: dict[tuple[str, int], Held] = {}
        self.action = ""
        self.chunk = 0
        self.ctx = Context(0, program.seed)
        self._plans: dict[int, tuple[Node, Any]] = {}

    # --- memory

    def new(self, array: Array, dtype: str, memory: str = FIRST) -> Held:
        """Memory of the device's own: every array that a value, a state or an input lies in comes by here."""
        return Held(array, Buffer(self.ledger, memory, array.size * ITEMSIZE[dtype]))

    def put_state(self, name: str, array: Array) -> None:
        """A buffer that is there all the time."""
        decl = self.declared[name]
        if name in self.states:
            self.states.pop(name).buffer.drop()
        self.states[name] = self.new(array, decl.type.dtype, decl.memory)

    def put_inputs(self, name: str, var: Value, pieces: Sequence[Array]) -> None:
        """The pieces of all micro-batches of a step."""
        self.inputs[name, var.layout] = [self.new(p, var.type.dtype) for p in pieces]

    def end_step(self) -> None:
        """Let go of inputs, of accumulated values, and of the outputs that micro-batches have saved."""
        for held in self.saved.values():
            held.buffer.drop()
        self.saved = {}
        for pieces in self.inputs.values():
            for p in pieces:
                p.buffer.drop()
        self.inputs = {}
        for name in [n for n in self.states if self.declared[n].role not in (*LASTING, Role.REPORT)]:
            self.states.pop(name).buffer.drop()

    # --- running

    def run(self, action: str, chunk: int, micro: int) -> Wait[None]:
        """One action of the schedule."""
        self.chunk, self.ctx = chunk, Context(micro, self.program.seed)
        yield from self._body(self.functions[action, chunk].body, {}, {})

    def _body(self, body: Graph, values: Values, stacks: Mapping[str, list[Place]], carries: int = 0) -> Wait[None]:
        """Run a body; `stacks`: results of an iteration -> where each goes to when it is defined."""
        scope, live = variables(body), liveness(body, carries)
        for p in body.inputs:
            _store(stacks, p.name, values)
        for name in live.unused:
            values.pop(name).buffer.drop()
        for instr, dying in zip(body.nodes, live.after, strict=True):
            if isinstance(instr.op, Repeat):
                yield from self._loop(instr, instr.op, values, dying, live.sinks)
            else:
                yield from self._instr(instr, scope, values, dying)
            for out in instr.outputs:
                _store(stacks, out.name, values)
            for name in dying:
                if name in values:
                    values.pop(name).buffer.drop()

    def _instr(self, instr: Node, scope: Mapping[str, Value], values: Values, dying: Sequence[str]) -> Wait[None]:
        op = instr.op
        if isinstance(op, Accumulate):
            if instr.inputs[0].name in values:  # else a loop has added its slices
                self._accumulate(op.name, instr.inputs[0].name, scope, values, dying)
            return
        arrays = [values[v.name].array for v in instr.inputs]
        if isinstance(op, Write):
            self._write(op.name, arrays[0])
        elif isinstance(op, Save):
            self._save(op.name, values[instr.inputs[0].name])
        elif isinstance(op, Send):
            own = self.program.homes.stage(self.group, self.chunk)
            key = (op.name, self.ctx.micro, own, own + op.to)
            yield from self.comm.send(key, self.program.homes.group(own + op.to), arrays[0])
        elif isinstance(op, (Input, Read, Load)):
            (out,) = instr.outputs
            values[out.name] = self._source(op, out)
        elif op.movement is Movement.VIEW:
            (out,) = instr.outputs
            held = values[instr.inputs[0].name]
            values[out.name] = Held(self._compute(instr, scope, arrays)[0], held.buffer.hold())
        else:
            if isinstance(op, Recv):
                own = self.program.homes.stage(self.group, self.chunk)
                key = (op.name, self.ctx.micro, own + op.source, own)
                results = [(yield from self.comm.recv(key, self.program.homes.group(own + op.source)))]
            elif isinstance(op, StageReduce):
                total = yield from self.comm.stage_reduce(op.key, op.groups, op.fn, arrays[0])
                results = [rounded(total, instr.outputs[0].type.dtype)]
            elif isinstance(op, Comm):
                var, (out,) = scope[instr.inputs[0].name], instr.outputs
                at = {**self.at, TIME: self.ctx.micro}
                here = Here(var.type, var.layout, out.layout, self.mesh, at, self.comm)
                results = [(yield from run_collective(op, arrays[0], here))]
            else:
                results = [np.array(r) for r in self._compute(instr, scope, arrays)]
            for out, array in zip(instr.outputs, results, strict=True):
                values[out.name] = self.new(array, out.type.dtype)

    def _compute(self, instr: Node, scope: Mapping[str, Value], arrays: Sequence[Array]) -> list[Array]:
        if id(instr) not in self._plans:
            ins, outs = [self._local(scope[v.name]) for v in instr.inputs], [self._local(v) for v in instr.outputs]
            self._plans[id(instr)] = (instr, plan(instr.op, ins, outs, self.env))
        results = self._plans[id(instr)][1](self.ctx, *arrays)
        found = [np.asarray(r) for r in (results if isinstance(results, tuple) else (results,))]
        if isinstance(instr.op, Iota):
            for r in self.cls.ranges:
                if (r.dim, r.count, r.chunk) == (instr.op.dim.name, instr.op.dim.size, self.chunk):
                    found[0] = found[0] + np.int32(r.first.at(self.group))
        return found

    def _local(self, var: Value) -> LocalValue:
        return LocalValue(local_type(var.type, var.layout, self.program.sizes), (), var.type, var.layout.dims)

    # --- effects

    def _source(self, op: Input | Read | Load, out: Value) -> Held:
        if isinstance(op, Input):
            pieces = self.inputs[op.name, out.layout]
            held = pieces[self.ctx.micro if len(pieces) > 1 else 0]
        elif isinstance(op, Read):
            held = self.states[op.name]
        else:
            held = self.saved[op.name, self.ctx.micro]
        if held.buffer.memory == FIRST:
            got = Held(held.array, held.buffer.hold())
        else:
            got = self.new(held.array.copy(), out.type.dtype)
        if isinstance(op, Load) and op.last:
            self.saved.pop((op.name, self.ctx.micro)).buffer.drop()
        return got

    def _write(self, name: str, array: Array) -> None:
        if name in self.states:
            self.states[name].array[...] = array
        else:
            self.put_state(name, array.copy())

    def _save(self, name: str, held: Held) -> None:
        decl = self.declared[name]
        if decl.memory == held.buffer.memory:
            kept = Held(held.array, held.buffer.hold())
        else:
            kept = self.new(held.array.copy(), decl.type.dtype, decl.memory)
        self.saved[name, self.ctx.micro] = kept

    def _accumulate(
        self, name: str, operand: str, scope: Mapping[str, Value], values: Values, dying: Sequence[str]
    ) -> None:
        decl, held = self.declared[name], values[operand]
        if name not in self.states:
            if held.buffer.holders == 1 and operand in dying and held.buffer.memory == decl.memory:
                self.states[name] = Held(held.array, held.buffer.hold())
            else:
                self.put_state(name, held.array.copy())
            return
        Place(self.states[name].array, decl.type.dtype, _adds(scope[operand])).store(held.array)

    # --- loops

    def _loop(
        self, instr: Node, op: Repeat, values: Values, dying: Sequence[str], sinks: Mapping[str, str]
    ) -> Wait[None]:
        carries, stacks = op.carries, op.carries + op.stacks
        filled: dict[str, list[Place]] = {}
        for out, result in zip(instr.outputs[carries:], op.body.outputs[carries:], strict=True):
            sink = self.states.get(sinks.get(out.name, ""))
            if sink is not None and sink.buffer.memory == FIRST:
                place = Place(sink.array, out.type.dtype, _adds(out))
            else:
                local = local_type(out.type, out.layout, self.program.sizes)
                values[out.name] = self.new(np.empty(local.shape, STORAGE[out.type.dtype]), out.type.dtype)
                place = Place(values[out.name].array, out.type.dtype)
            filled.setdefault(result.name, []).append(place)
        names, nexts = names_of(instr.inputs), names_of(op.body.outputs[:carries])
        carried = [Held(values[n].array, values[n].buffer.hold()) for n in names[:carries]]
        for name in dict.fromkeys(names[:carries]):
            if name in dying and name not in names[carries:]:
                values.pop(name).buffer.drop()
        order = range(op.count - 1, -1, -1) if op.reverse else range(op.count)
        for i in order:
            inner: Values = {}
            for k, p in enumerate(op.body.inputs):
                if k < carries:
                    inner[p.name] = carried[k]
                else:
                    held = values[names[k]]
                    inner[p.name] = Held(held.array[i] if k < stacks else held.array, held.buffer.hold())
            carried = []  # the iteration alone holds them now: memory is what Python has not freed
            where = {name: [p.slice(i) for p in places] for name, places in filled.items()}
            yield from self._body(op.body, inner, where, carries)
            carried = [Held(inner[n].array, inner[n].buffer.hold()) for n in nexts]
            for name in dict.fromkeys(nexts):
                inner.pop(name).buffer.drop()
        for out, held in zip(instr.outputs[:carries], carried, strict=True):
            values[out.name] = held


@dataclass(frozen=True, slots=True)
class Place:
    """Memory that a value of this type is copied to, or combined with."""

    array: Array
    dtype: str
    combine: np.ufunc | None = None

    def slice(self, i: int) -> Place:
        """The place of one iteration in a stack."""
        return Place(self.array[i : i + 1], self.dtype, self.combine)

    def store(self, value: Array) -> None:
        if self.combine is None:
            self.array[...] = value
        else:
            self.combine(self.array, value, out=self.array)
            self.array[...] = rounded(self.array, self.dtype)


def _adds(var: Value) -> np.ufunc:
    """How micro-batches add up: by the reduction that the value leaves pending over them."""
    return np.maximum if var.layout.pending_on(TIME) == "max" else np.add


def _store(stacks: Mapping[str, list[Place]], name: str, values: Values) -> None:
    for place in stacks.get(name, ()):
        place.store(values[name].array)
