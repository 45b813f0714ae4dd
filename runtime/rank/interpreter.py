"""One device: interprets its functions on plain arrays of its own, and measures its memory for real.

Everything is copied: results of kernels, messages, what others get. The only arrays shared within the device are those
whose buffers are shared by the rules of `compiler.memory`; a `RankBuffer` is counted while anything holds it, with the
bytes of the array that is really there (its elements in the value's own dtype: a backend may keep them in a wider one).

Written against `runtime.backend.Backend` and `runtime.comm.Network` only, so that it runs one device of any engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from compiler.declared import logical
from compiler.graph import ITEMSIZE, Graph, Node, Type, Value, names_of
from compiler.in_place import Reuse, reuses
from compiler.layout import TIME, Layout, local_type
from compiler.liveness import liveness, unrolled, variables
from compiler.memory.action import STATIC
from compiler.memory.tiers import FIRST
from compiler.ops.base import Movement, Op
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.create import Iota
from compiler.ops.effects import Accumulate, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import FunctionPhase, listed
from compiler.regions.fused import FusedNodes, as_run
from runtime.backend import Array, LocalValue, Position, Renewing
from runtime.comm import Handle, Then, Wait
from runtime.going import NOW
from runtime.mesh import Mesh, parted
from runtime.rank.blocks import fused
from runtime.rank.buffers import Destination, HeldArray, Ledger, RankBuffer, adds
from runtime.rank.collectives import Here, start_collective
from runtime.rank.early import early_moves
from runtime.rank.filled import fill_cached
from runtime.rank.initial import OneDevice, beginning

Values = dict[str, HeldArray]


class Rank:
    """One device. `states`: buffers by name, filled by who makes the device."""

    caches_rows = True  # where the program says so; it changes no value

    def __init__(self, device: OneDevice) -> None:
        program, cls, backend = device.program, device.cls, device.backend
        self.program, self.cls, self.group, self.at = program, cls, device.group, dict(device.at)
        self.network, self.backend = device.network, backend
        self.mesh = Mesh.of(program)
        self.functions = {f.key: f for f in cls.functions}
        self.declared = {s.name: s for s in cls.states}
        self.ledger = Ledger()
        self.states: Values = {}
        self.caches: dict[str, list[HeldArray]] = {}
        self.inputs: dict[tuple[str, Layout], list[HeldArray]] = {}
        self.saved: dict[tuple[str, int], HeldArray] = {}
        self.sent: list[Handle[None]] = []
        self.reuses = reuses(cls, program.microbatches)
        self.doing, self.chunk, self.micro, self.last = "", 0, 0, 0
        self.ctx = backend.context(0, program.seed)
        self.plans: dict[tuple[int, int], tuple[Node, Any]] = {}
        self.early: dict[int, Iterator[HeldArray]] = {}  # by instruction of a loop, what it has moved before it is read

    # --- memory

    def new(self, array: Array, dtype: str, memory: str = FIRST) -> HeldArray:
        """Memory of the device's own: every array that a value, a state or an input lies in comes by here."""
        size = prod(self.backend.shape(array)) * ITEMSIZE[dtype]
        return HeldArray(array, RankBuffer(self.ledger, memory, size))

    def copy(self, array: Array, dtype: str, memory: str = FIRST) -> HeldArray:
        """New memory with these contents."""
        return self.new(self.backend.copy(array), dtype, memory)

    def coming(self, op: Op, handle: Handle[Array], var: Value) -> Wait[HeldArray]:
        """New memory for a value that is there when it is read; without other devices at once: its operand may go."""
        held = self.new(self.backend.empty(self.local(var).shape, var.type.dtype), var.type.dtype, var.memory)
        held.buffer.coming = handle, held.array
        if not op.message:
            yield from held.buffer.arrive(self.backend)
        return held

    def put_state(self, name: str, held: HeldArray) -> None:
        """A buffer that is there all the time."""
        if name in self.states:
            self.states.pop(name).buffer.drop()
        self.states[name] = held

    def fill(self, name: str, array: Array) -> None:
        """Put an array of nobody else's into a buffer that is there all the time."""
        decl = self.declared[name]
        if decl.cache is None or not self.caches_rows:
            self.put_state(name, self.new(array, decl.type.dtype, decl.memory))
        else:
            fill_cached(self, name, array, decl)

    def begin(self, given: frozenset[str] = frozenset()) -> None:
        """Fill the buffers that are there all the time as they are declared, but for those that are `given`."""
        device = OneDevice(self.program, self.cls, self.group, self.at, self.network, self.backend)
        for decl in self.cls.states:
            if decl.role in STATIC and logical(decl) not in given:
                self.fill(decl.name, beginning(device, decl))

    def put_part(self, name: str, micro: int, value: Array) -> None:
        """Put a micro-batch's own part of a list into an accumulator."""
        if name not in self.states:
            decl, shape = self.declared[name], (self.program.microbatches, *self.backend.shape(value))
            array = self.backend.empty(shape, decl.type.dtype, decl.memory)
            self.states[name] = self.new(array, decl.type.dtype, decl.memory)
        self.backend.assign(self.backend.element(self.states[name].array, micro), value)

    def put_inputs(self, name: str, var: Value, pieces: Sequence[Array]) -> None:
        """The pieces of all micro-batches of a step: arrays of nobody else's."""
        self.inputs[name, var.layout] = [self.new(p, var.type.dtype) for p in pieces]

    def end_step(self) -> None:
        """Let go of inputs, of accumulated values, and of the outputs that micro-batches have saved."""
        for held in (*self.saved.values(), *(p for pieces in self.inputs.values() for p in pieces)):
            held.buffer.drop()
        self.saved, self.inputs = {}, {}
        for name in [n for n in self.states if self.declared[n].role not in STATIC]:
            self.states.pop(name).buffer.drop()

    # --- running

    def step(self) -> Wait[None]:
        """The device's schedule, up to the point where all that it sent has left."""
        for name, chunk, micro in unrolled(self.program, self.cls.schedule, self.group):
            self.doing = f"{name}.{chunk} of micro-batch {micro}" if name.per_microbatch else name
            NOW.begun += 1
            yield from self.run(name, chunk, micro)
            self.sent = [h for h in self.sent if not h.done()]
        for handle in self.sent:
            yield from handle.wait()
        self.sent = []

    def run(self, action: FunctionPhase, chunk: int, micro: int) -> Wait[None]:
        """One action of the schedule."""
        self.chunk, self.micro, self.ctx = action.at(chunk), micro, self.backend.context(micro, self.program.seed)
        self.last = self.program.microbatches - 1 if action.per_microbatch else 0
        yield from self._body(self.functions[action, chunk].body, {}, {})

    def _body(
        self, body: Graph, values: Values, stacks: Mapping[str, list[Destination]], carries: int = 0
    ) -> Wait[None]:
        """Run a body; `stacks`: results of an iteration -> where each goes to when it is defined."""
        scope, live = variables(body := as_run(body)), liveness(body, carries)
        for p in body.inputs:
            yield from self._store(stacks, p.name, values)
        for name in live.unused:
            yield from self._drop(values.pop(name))
        for instr, dying in zip(body.nodes, live.after, strict=True):
            if isinstance(instr.op, Repeat):
                yield from self._loop(instr, instr.op, values, dying, live.sinks)
            elif isinstance(instr.op, Call):
                yield from self._call(instr, instr.op, values, dying)
            else:
                yield from self._instr(instr, scope, values, dying)
            for out in instr.outputs:
                yield from self._store(stacks, out.name, values)
            for name in dying:
                if name in values:
                    yield from self._drop(values.pop(name))

    def _instr(self, instr: Node, scope: Mapping[str, Value], values: Values, dying: Sequence[str]) -> Wait[None]:
        op = instr.op
        if isinstance(op, Accumulate) and instr.inputs[0].name not in values:
            return  # a loop has added its slices
        operands = [values[v.name] for v in instr.inputs]
        for held in operands:
            yield from held.buffer.arrive(self.backend)
        arrays = [held.array for held in operands]
        match op:
            case Accumulate():
                self._accumulate(op.name, instr.inputs[0].name, scope, values, dying)
            case Write():
                self._write(op.name, operands[0])
            case Save():
                self._save(op.name, operands[0])
            case Send():
                own, everyone = self._stage, self.network.between(range(self.program.groups))
                tag = op.name, self.micro, own, own + op.to
                self.sent.append(everyone.send(arrays[0], self.program.homes.group(own + op.to), tag))
            case Input() | Read() | Load():
                (out,) = instr.outputs
                values[out.name] = yield from self._source(op, out)
            case Recv() | StageReduce() | Comm():
                handle, out = self._started(op, arrays, scope, instr), instr.output
                values[out.name] = yield from self.coming(op, handle, out)
            case FusedNodes():
                values.update(fused(self, instr, op, operands, dying))
            case Move() if op.ahead and id(instr) in self.early:
                values[instr.output.name] = next(self.early[id(instr)])
            case _ if op.movement is Movement.VIEW:
                (out,) = instr.outputs
                values[out.name] = HeldArray(self._compute(instr, scope, arrays)[0], operands[0].buffer.seen(op))
            case _ if (reuse := self.reuses.get((id(instr), 0))) is not None:
                values[instr.output.name] = self._renewed(instr, scope, operands, reuse)
            case _:
                results = [self.backend.own(r) for r in self._compute(instr, scope, arrays)]
                for out, array in zip(instr.outputs, results, strict=True):
                    values[out.name] = self.new(array, out.type.dtype, out.memory)

    def _renewed(
        self, instr: Node, scope: Mapping[str, Value], operands: Sequence[HeldArray], reuse: Reuse
    ) -> HeldArray:
        """The result of an op in the memory of an operand, which nothing needs any more."""
        old, arrays = operands[reuse.operand], [held.array for held in operands]
        kernel = self._planned(instr, scope)
        if isinstance(kernel, Renewing):
            kernel.renew(self.ctx, *arrays)
        else:
            self.backend.assign(old.array, kernel(self.ctx, *arrays))
        return old.shared()

    def _started(
        self, op: Recv | StageReduce | Comm, arrays: Sequence[Array], scope: Mapping[str, Value], instr: Node
    ) -> Handle[Array]:
        """What gives the result of an exchange with other devices."""
        dtype = (out := instr.output).type.dtype
        match op:
            case Recv():
                own, everyone = self._stage, self.network.between(range(self.program.groups))
                tag = op.name, self.micro, own + op.source, own
                return everyone.recv(self.program.homes.group(own + op.source), tag, self.local(out).shape, dtype)
            case StageReduce():
                total = self.network.between(op.groups).all_reduce(arrays[0], op.fn)
                return Then(total, lambda x: self.backend.rounded(x, dtype))
            case _:
                var = scope[instr.inputs[0].name]
                at = {**self.at, TIME: self.micro}
                here = Here(var.type, var.layout, out.layout, self.mesh, at, self.network, self.backend)
                return start_collective(op, arrays[0], here)

    @property
    def _stage(self) -> int:
        """The virtual stage whose code runs."""
        return self.program.homes.stage(self.group, self.chunk)

    def moved(self, instr: Node, array: Array) -> HeldArray:
        """A value in another memory."""
        result = self._compute(instr, variables(Graph("", instr.inputs, (instr,), ())), [array])[0]
        return self.new(self.backend.own(result), instr.output.type.dtype, instr.output.memory)

    def _drop(self, held: HeldArray) -> Wait[None]:
        """Let go of a value, which must be there first if nobody else holds it."""
        if held.buffer.holders == 1:
            yield from held.buffer.arrive(self.backend)
        held.buffer.drop()

    def _compute(self, instr: Node, scope: Mapping[str, Value], arrays: Sequence[Array]) -> Sequence[Array]:
        results = self._planned(instr, scope)(self.ctx, *arrays)
        return results if isinstance(results, tuple) else (results,)

    def _planned(self, instr: Node, scope: Mapping[str, Value]) -> Any:
        """The kernel of an instruction."""
        key = id(instr), self.chunk
        if key not in self.plans:
            ins, outs = [self.value(scope[v.name]) for v in instr.inputs], [self.value(v) for v in instr.outputs]
            position = Position(self.program.sizes, self.at, self._start(instr.op))
            self.plans[key] = instr, self.backend.plan(instr.op, ins, outs, position)
        return self.plans[key][1]

    def _start(self, op: object) -> int:
        """The first iteration that this device holds of the loop that an `iota` numbers."""
        for r in self.cls.ranges:
            if isinstance(op, Iota) and (r.dim, r.count, r.chunk) == (op.dim.name, op.dim.size, self.chunk):
                return r.start.at(self.group)
        return 0

    def local(self, var: Value) -> Type:
        """The type of the device's own piece."""
        return local_type(var.type, var.layout, self.program.sizes)

    def value(self, var: Value) -> LocalValue:
        return LocalValue(self.local(var), (), var.type, var.layout.dims)

    # --- effects

    def _source(self, op: Input | Read | Load, out: Value) -> Wait[HeldArray]:
        if isinstance(op, Input):
            pieces = self.inputs[op.name, out.layout]
            held = pieces[self.micro if len(pieces) > 1 else 0]
        elif isinstance(op, Read):
            held = self.states[op.name]
        else:
            held = self.saved[op.name, self.micro]
        got = held.shared()
        if isinstance(op, Read) and parted(self.declared[op.name]) and not listed(self.declared[op.name]):
            got.array = self.backend.element(held.array, self.micro)
        if isinstance(op, Load) and op.last:
            yield from self._drop(self.saved.pop((op.name, self.micro)))
        return got

    def _write(self, name: str, held: HeldArray) -> None:
        decl = self.declared[name]
        if name not in self.states:
            self.put_state(name, self.copy(held.array, decl.type.dtype, decl.memory))
        elif decl.role is Role.STATE and not parted(decl) and self.micro < self.last:
            return  # micro-batches share it: all of them read what it contained before the step
        elif held.buffer is not self.states[name].buffer:
            array = self.states[name].array
            self.backend.assign(self.backend.element(array, self.micro) if parted(decl) else array, held.array)

    def _save(self, name: str, held: HeldArray) -> None:
        decl, states = self.declared[name], [s for n, s in self.states.items() if self.declared[n].role is Role.STATE]
        own = any(held.buffer is s.buffer for s in states)  # it is renewed before this is loaded
        self.saved[name, self.micro] = self.copy(held.array, decl.type.dtype, decl.memory) if own else held.shared()

    def _accumulate(
        self, name: str, operand: str, scope: Mapping[str, Value], values: Values, dying: Sequence[str]
    ) -> None:
        decl, held = self.declared[name], values[operand]
        if listed(decl):
            self.put_part(name, self.micro, held.array)
            return
        if name not in self.states:
            if held.buffer.sole and operand in dying:
                self.states[name] = held.shared()
            else:
                self.states[name] = self.copy(held.array, decl.type.dtype, decl.memory)
            return
        Destination(self.states[name].array, decl.type.dtype, adds(scope[operand])).put(self.backend, held.array)

    # --- functions and loops

    def _call(self, instr: Node, op: Call, values: Values, dying: Sequence[str]) -> Wait[None]:
        given, results = names_of(instr.inputs), names_of(op.body.outputs)
        params = zip(op.body.inputs, given, strict=True)
        inner = {p.name: values[n].shared() for p, n in params}
        for name in dict.fromkeys(n for n in given if n in dying):
            values.pop(name).buffer.drop()  # a parameter holds it now
        yield from self._body(op.body, inner, {}, len(results))
        for out, name in zip(instr.outputs, results, strict=True):
            values[out.name] = inner[name].shared()
        for name in dict.fromkeys(results):
            inner.pop(name).buffer.drop()

    def _loop(
        self, instr: Node, op: Repeat, values: Values, dying: Sequence[str], sinks: Mapping[str, str]
    ) -> Wait[None]:
        carries, stacks = op.carries, op.carries + op.stacks
        filled: dict[str, list[Destination]] = {}
        names, nexts = names_of(instr.inputs), names_of(op.body.outputs[:carries])
        made = zip(instr.outputs[carries:], op.body.outputs[carries:], strict=True)
        for k, (out, result) in enumerate(made, carries):
            lies = self.reuses.get((id(instr), k))
            if lies is not None:
                values[out.name] = held = values[names[lies.operand]].shared()
                if lies.copied:
                    filled.setdefault(result.name, []).append(Destination(held.array, out.type.dtype))
                continue
            sink = self.states.get(sinks.get(out.name, ""))
            if sink is not None:
                place = Destination(sink.array, out.type.dtype, adds(out))
            else:
                array = self.backend.empty(self.local(out).shape, out.type.dtype, out.memory)
                values[out.name] = self.new(array, out.type.dtype, out.memory)
                place = Destination(values[out.name].array, out.type.dtype)
            filled.setdefault(result.name, []).append(place)
        for name in names[carries:stacks]:
            yield from values[name].buffer.arrive(self.backend)
        carried = [values[n].shared() for n in names[:carries]]
        for name in dict.fromkeys(names[:carries]):
            if name in dying and name not in names[carries:]:
                values.pop(name).buffer.drop()
        order = range(op.count - 1, -1, -1) if op.reverse else range(op.count)
        early = early_moves(op, [values.get(n) for n in names], order, self.backend.element, self.moved)
        self.early.update(early)
        for i in order:
            inner: Values = {}
            for k, p in enumerate(op.body.inputs):
                if k < carries:
                    inner[p.name] = carried[k]
                else:
                    held = values[names[k]]
                    array = self.backend.element(held.array, i) if k < stacks else held.array
                    inner[p.name] = HeldArray(array, held.buffer.hold())
            carried = []  # the iteration alone holds them now: memory is what Python has not freed
            where = {name: [p.slice(self.backend, i) for p in places] for name, places in filled.items()}
            yield from self._body(op.body, inner, where, carries)
            carried = [inner[n].shared() for n in nexts]
            for name in dict.fromkeys(nexts):
                inner.pop(name).buffer.drop()
        for key in early:
            del self.early[key]  # it refers to the stack
        del early
        values.update((out.name, held) for out, held in zip(instr.outputs[:carries], carried, strict=True))

    def _store(self, stacks: Mapping[str, list[Destination]], name: str, values: Values) -> Wait[None]:
        for place in stacks.get(name, ()):
            yield from values[name].buffer.arrive(self.backend)
            place.put(self.backend, values[name].array)
