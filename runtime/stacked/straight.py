"""Functions of a program as straight-line Python: one local variable per value, one line per instruction.

The text is generated once per class and run by every group; all that depends on types (kernels, collectives) is planned
beforehand. Values are let go at their last use. A function that waits for others (`recv`, `stage_reduce`) becomes a
generator: it yields what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from compiler.graph import Graph, Node, Value, names_of
from compiler.in_place import reuses_of
from compiler.layout import TIME, local_type
from compiler.liveness import liveness, variables
from compiler.memory.tiers import FILES
from compiler.ops.comm import Comm
from compiler.ops.create import Full, Iota
from compiler.ops.effects import Accumulate, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.ops.rows import WriteRows
from compiler.origin import Role
from compiler.program import DeviceClass, Function, Program, listed
from dsl.data import dataclass
from runtime.backend import Planner, Renewing
from runtime.mesh import Mesh, parted
from runtime.numpy import CallContext, Env, Into, LocalValue
from runtime.numpy.summed import inner
from runtime.renewing import Renewed
from runtime.stacked.called import (
    accumulator,
    adder,
    fill_stack,
    in_place,
    owned,
    renewing,
    stack_of,
    there,
    whole_list,
)
from runtime.stacked.collectives import plan_comm
from runtime.stacked.files import over, renewed, stack_in_file
from runtime.stacked.in_pieces import InPieces, grouped, plan_pieces
from runtime.stacked.slices import copy_of, in_slices, read_last, slice_of
from runtime.stacked.tallies import BY_ROW, tallied
from runtime.straight_line import StraightLine

Compiled = Callable[..., Iterator[Any] | None]
"""Called with (group, context)."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Where a class's groups keep things: names -> places in the lists of a group."""

    states: Mapping[str, int]
    inputs: Mapping[tuple[str, Any], int]  # (name, layout)
    firsts: Mapping[tuple[str, int, int], int]  # (loop dim, iterations, chunk)


@dataclass(frozen=True, slots=True)
class Straight:
    """One compiled function: `run(group, ctx)`; a generator if `waits`."""

    name: str
    chunk: int
    waits: bool
    run: Compiled
    text: str


def compile_function(
    function: Function,
    cls: DeviceClass,
    program: Program,
    slots: Slots,
    planner: Planner,
    sliced: frozenset[str] = frozenset(),
) -> Straight:
    """Plan every instruction and generate the text. sliced: saved buffers that are lists of slices."""
    waits = any(isinstance(i.op, (Recv, StageReduce)) for i in function.body.nodes)
    writer = _Writer(function, cls, program, slots, planner)
    writer.lists = in_slices(function.body, sliced)
    writer.body(function.body, {}, 1)
    run, text = writer.compiled("g, ctx", program.name)
    return Straight(function.phase, function.chunk, waits, run, text)


class _Writer(StraightLine):
    def __init__(self, function: Function, cls: DeviceClass, program: Program, slots: Slots, planner: Planner) -> None:
        super().__init__(function)
        self.cls, self.program, self.slots, self.plan = cls, program, slots, planner
        self.mesh = Mesh.of(program)
        self.env = Env(self.mesh.axes, program.sizes)
        self.declared = {s.name: s for s in cls.states}
        self.reuses = reuses_of(function.body, cls.states, program.microbatches)
        self.buffers: dict[str, int] = {}
        """Values that are a weight or a state of its optimizer itself -> the slot."""
        self.lists: frozenset[str] = frozenset()
        """Stacks that are lists of their slices."""
        self.body_of = function.body  # whose nodes these are
        alone = program.microbatches == 1
        kept = [s.name for s in cls.states if alone and s.role is Role.STATE and s.memory not in FILES]
        self.renewed = Renewed.of(function.body, kept, self.reuses, cache(lambda body: grouped(body, self.local)))

    def local(self, var: Value) -> LocalValue:
        lead, dims = self.mesh.lead_shape(var.layout.axes), var.layout.dims
        type = local_type(var.type, var.layout, self.env.sizes)
        return LocalValue(type, lead, var.type, dims, memory_order(self.mesh.axes, lead, dims))

    # --- text

    def body(
        self,
        body: Graph,
        names: dict[str, str],
        depth: int,
        carries: int = 0,
        stacks: _Stacks | None = None,
    ) -> None:
        """Write the instructions. `names`: value -> Python variable; `stacks`: where values go besides."""
        body = grouped(body, self.local)
        scope = variables(body)
        live = liveness(body, carries)
        for instr, dying in zip(body.nodes, live.after, strict=True):
            if isinstance(instr.op, Repeat):
                self.loop(instr, instr.op, names, depth, dying, live.sinks)
            else:
                self.instr(instr, scope, names, depth, stacks)
            for out in instr.outputs:
                if stacks:
                    self.fill(stacks, out.name, names, depth)
            gone = [names[n] for n in dying]
            if gone:
                self.put(depth, " = ".join(gone) + " = None")

    def instr(
        self, instr: Node, scope: dict[str, Value], names: dict[str, str], depth: int, stacks: _Stacks | None = None
    ) -> None:
        op = instr.op
        args = [names[v.name] for v in instr.inputs]
        for out in instr.outputs:
            names[out.name] = self.fresh()
        result = ", ".join(names[o.name] for o in instr.outputs)
        effect = self.effect(instr, args, result)
        if effect is not None:
            for line in effect:
                self.put(depth, line)
            return
        if isinstance(op, Comm):
            var, (out,) = scope[instr.inputs[0].name], instr.outputs
            kernel: Any = plan_comm(op, var.type, var.layout, out.layout, self.mesh)
        elif isinstance(op, InPieces):
            kernel = plan_pieces(instr, op, self.local, self.plan, self.env)
        else:
            ins, outs = [self.local(scope[v.name]) for v in instr.inputs], [self.local(v) for v in instr.outputs]
            kernel = self.plan(op, ins, outs, self.env)
        if isinstance(op, Move) and (id(instr), 0) in self.reuses and op.target in FILES:
            in_stack = stacks is not None and instr.output.name in stacks.filled
            kernel = over(self.mesh.lead, self.local(instr.output) if in_stack else None)
        if isinstance(op, Full):  # a constant, of the size along lead axes that its layout states
            constant = np.broadcast_to(kernel(CallContext()), self.local(instr.outputs[0]).shape)
            self.put(depth, f"{result} = {self.bind(constant)}")
            return
        places: list[str] = []
        if isinstance(kernel, Into):
            kernel = kernel.run
            places = [self.place(stacks, o, depth) if stacks else "None" for o in instr.outputs]
        if id(instr) in self.renewed.nodes and isinstance(kernel, Renewing):
            kernel = in_place(kernel, self.mesh.lead)
        if isinstance(op, WriteRows) and (id(instr), 0) in self.reuses and instr.inputs[0].name in self.buffers:
            kernel = renewing(self.buffers[instr.inputs[0].name], kernel)
            args = ["g", *args]
        into = [f"out=({', '.join(places)},)"] if any(p != "None" for p in places) else []
        asks = inner(op)
        if isinstance(asks, BY_ROW) and (slot := self.buffers.get(instr.inputs[0].name)) is not None:
            decl = self.cls.states[slot]
            if decl.cache is not None:
                tally = tallied(
                    asks, slot, decl, [self.local(scope[v.name]) for v in instr.inputs], self.mesh, self.env
                )
                self.put(depth, f"{self.bind(tally)}(g, ctx, {names[instr.inputs[-1].name]})")
        call = f"{self.bind(kernel)}({', '.join(['ctx', *args, *into])})"
        if isinstance(op, Iota):
            first = self.slots.firsts.get((op.dim.name, op.dim.size, self.function.phase.at(self.function.chunk)))
            call += f" + g.firsts[{first}]" if first is not None else ""
        self.put(depth, f"{result} = {call}")

    def effect(self, instr: Node, args: Sequence[str], result: str) -> list[str] | None:
        """The lines of an instruction that touches buffers, data or other stages; None for all others."""
        op, slots, chunk = instr.op, self.slots, self.function.phase.at(self.function.chunk)
        match op:
            case Input():
                layout = instr.outputs[0].layout
                micro = "ctx.micro" if TIME in layout.axes else "0"
                return [f"{result} = g.inputs[{slots.inputs[op.name, layout]}][{micro}]"]
            case Read():
                if listed(self.declared[op.name]):
                    return [f"{result} = {self.bind(whole_list)}({self.mesh.lead}, g.states[{slots.states[op.name]}])"]
                self.buffers[instr.outputs[0].name] = slots.states[op.name]
                if instr.outputs[0].name in self.renewed.reads:
                    return [f"{result} = {self.bind(owned)}(g, {slots.states[op.name]})"]
                part = "[ctx.micro]" if parted(self.declared[op.name]) else ""
                return [f"{result} = g.states[{slots.states[op.name]}]{part}"]
            case Write():
                decl, target = self.declared[op.name], f"g.states[{slots.states[op.name]}]"
                if parted(decl):
                    return [f"{target}[ctx.micro] = {args[0]}"]
                # Micro-batches share a state: all of them read what it contained before the step.
                shared = decl.role is Role.STATE and self.function.per_microbatch
                last = f"if ctx.micro == {self.program.microbatches - 1}: " if shared else ""
                return [f"{last}{target} = {args[0]}"]
            case Accumulate():
                if listed(self.declared[op.name]):
                    slot, count = slots.states[op.name], self.program.microbatches
                    return [
                        f"if g.states[{slot}] is None: g.states[{slot}] = [None] * {count}",
                        f"g.states[{slot}][ctx.micro] = {args[0]}",
                    ]
                if instr.inputs[0].name in self.sunk:  # a loop adds to the buffer, or has made it
                    slot = slots.states[op.name]
                    return [f"if {args[0]} is not None: g.states[{slot}] = {args[0]}; g.owned[{slot}] = True"]
                add = self.bind(accumulator(slots.states[op.name], *self.combination(op.name, instr.inputs[0].name)))
                return [f"{add}(g, {args[0]})"]
            case Save():
                kept = f"list({args[0]})" if instr.inputs[0].name in self.lists else args[0]
                return [f"g.saved[{op.name!r}, ctx.micro] = {kept}"]
            case Load():
                key = f"{op.name!r}, ctx.micro"
                if op.last:
                    return [f"{result} = g.saved.pop(({key}))"]
                return [f"{result} = g.saved[{key}]" + ("[:]" if instr.output.name in self.lists else "")]
            case Send():
                return [f"g.send({op.name!r}, ctx.micro, {chunk}, {op.to}, {args[0]})"]
            case Recv():
                key = self.fresh()
                return [
                    f"{key} = g.message({op.name!r}, ctx.micro, {chunk}, {op.source})",
                    f"while {key} not in g.mail: yield {key}",
                    f"{result} = g.mail.pop({key})",
                ]
            case StageReduce():
                key, dtype = self.fresh(), instr.outputs[0].type.dtype
                return [
                    f"{key} = g.contribute({op.key!r}, {op.groups!r}, {op.fn!r}, {dtype!r}, {args[0]})",
                    f"while {key} not in g.mail: yield {key}",
                    f"{result} = g.mail.pop({key})",
                ]
        return None

    def combination(self, name: str, value: str) -> tuple[str, str]:
        """Type of an accumulator, and how micro-batches add up: by the reduction that they leave pending over them."""
        return self.declared[name].type.dtype, self.pending.get(value, "sum")

    def loop(
        self,
        instr: Node,
        op: Repeat,
        names: dict[str, str],
        depth: int,
        dying: Sequence[str],
        sinks: Mapping[str, str],
    ) -> None:
        """A `for` over the slices; carries pass from round to round in variables, stacks of results are filled.

        A stack with a sink is None once its accumulator is set, and slices are added there.
        """
        carries, stacks = op.carries, op.carries + op.stacks
        given, results = names_of(instr.inputs), names_of(op.body.outputs)
        inner = {p.name: self.fresh() for p in op.body.inputs}
        variables = [inner[p.name] for p in op.body.inputs]
        for variable, name in zip(variables[:carries], given, strict=False):
            self.put(depth, f"{variable} = {names[name]}")
        for name in dict.fromkeys(given[:carries]):
            if name in dying and name not in given[carries:]:
                self.put(depth, f"{names[name]} = None")  # only the loop needs it any more
        i = self.fresh()
        stacked = _Stacks(i, {}, {}, {}, {}, set())
        for k, (out, name) in enumerate(zip(instr.outputs[carries:], results[carries:], strict=True), carries):
            names[out.name] = self.fresh()
            if out.name in self.lists:
                self.put(depth, f"{names[out.name]} = [None] * {op.count}")
                stacked.filled.setdefault(name, []).append(names[out.name])
                stacked.lists.add(names[out.name])
                continue
            local = self.local(out)
            lies = self.reuses.get((id(instr), k)) if out.memory in FILES else None
            if lies is not None:  # its slices are renewed in the file
                self.put(depth, f"{names[out.name]} = None")
                stacked.filled.setdefault(name, []).append(names[out.name])
                put = f"{self.bind(renewed(self.mesh.lead))}({{}}, {names[given[lies.operand]]})"
                stacked.alike[names[out.name]] = put
                continue
            operand = self.renewed.stacks.get((id(instr), k))
            if operand is not None:
                self.put(depth, f"{names[out.name]} = {names[given[operand]]}")
                stacked.filled.setdefault(name, []).append(names[out.name])
                old = inner[op.body.inputs[operand].name]
                stacked.alike[names[out.name]] = f"{self.bind(there(self.mesh.lead))}({{}}, {old})"
                continue
            make = stack_in_file(local) if out.memory in FILES else stack_of(local)
            unless = ""
            if out.name in sinks:
                self.sunk.add(out.name)
                slot = self.slots.states[sinks[out.name]]
                add = adder(slot, self.mesh.lead, *self.combination(sinks[out.name], out.name))
                stacked.sinks[names[out.name]] = self.bind(add)
                unless = f" if g.states[{slot}] is None else None"
            self.put(depth, f"{names[out.name]} = {self.bind(make)}(ctx){unless}")
            stacked.filled.setdefault(name, []).append(names[out.name])
        order = f"range({op.count - 1}, -1, -1)" if op.reverse else f"range({op.count})"
        self.put(depth, f"for {i} in {order}:")
        index = ", ".join([":"] * self.mesh.lead + [i])
        last = read_last(instr, dying, self.lists)
        for variable, name in zip(variables[carries:stacks], given[carries:stacks], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}[{i if name in self.lists else index}]")
            if name in last:
                self.put(depth + 1, f"{names[name]}[{i}] = None")
        for variable, name in zip(variables[stacks:], given[stacks:], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}")  # each time: the body lets go of it at its last use
        for p in op.body.inputs:
            self.fill(stacked, p.name, inner, depth + 1)
        self.body(op.body, inner, depth + 1, carries, stacked)
        if carries:
            nexts = ", ".join(inner[n] for n in results[:carries])
            self.put(depth + 1, f"{', '.join(variables[:carries])} = {nexts}")
        else:
            self.put(depth + 1, "pass")
        for out, variable in zip(instr.outputs[:carries], variables[:carries], strict=True):
            names[out.name] = self.fresh()
            self.put(depth, f"{names[out.name]} = {variable}")
        if inner:
            self.put(depth, " = ".join(inner.values()) + " = None")

    # --- stacks of results

    def place(self, stacks: _Stacks, out: Value, depth: int) -> str:
        """A variable with the slice that the value will fill, for its kernel to write there; None if there is none."""
        found = stacks.filled.get(out.name)
        if not found or found[0] in stacks.alike or found[0] in stacks.lists:
            return "None"
        place, shape = self.fresh(), self.local(out).shape
        unless = f" if {found[0]} is not None else None" if found[0] in stacks.sinks else ""
        self.put(depth, f"{place} = {found[0]}[{', '.join([':'] * self.mesh.lead + [stacks.index])}]{unless}")
        self.put(depth, f"if {place} is not None and {place}.shape != {shape}: {place} = None")
        stacks.places[out.name] = place
        return place

    def fill(self, stacks: _Stacks, name: str, names: Mapping[str, str], depth: int) -> None:
        """Copy a value into its slices, but where its kernel wrote it; add it to those of the stack's sink."""
        place = stacks.places.pop(name, None)
        for k, stack in enumerate(stacks.filled.get(name, ())):
            if stack in stacks.lists:
                kept = copy_of if self.renewed.reads else slice_of
                self.put(depth, f"{stack}[{stacks.index}] = {self.bind(kept)}({names[name]})")
                continue
            when = f"if {names[name]} is not {place}: " if place and k == 0 else ""
            if stack in stacks.sinks:
                self.put(depth, f"if {stack} is None: {stacks.sinks[stack]}(g, {stacks.index}, {names[name]})")
                when = when.replace("if", "elif", 1) or "else: "
            copy = f"{self.bind(fill_stack)}({stack}, {self.mesh.lead}, {stacks.index}, {names[name]})"
            if stack in stacks.alike:
                copy = stacks.alike[stack].format(f"{stack}, {stacks.index}, {names[name]}")
            self.put(depth, f"{when}{stack} = {copy}")
        if place:
            self.put(depth, f"{place} = None")


@dataclass
class _Stacks:
    """The stacks of a loop's results: the loop's counter, value -> variables of its stacks, value -> its slice,
    variable of a stack -> what adds a slice to its sink; alike: -> the call by which a slice goes where it lies as it
    did when it was made; lists: stacks that are lists of slices."""

    index: str
    filled: dict[str, list[str]]
    places: dict[str, str]
    sinks: dict[str, str]
    alike: dict[str, str]
    lists: set[str]


def memory_order(axes: Sequence[str], lead: Sequence[int], dims: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """How an array of all devices best lies in memory, its axes outermost first: as the logical array does.

    The pieces of a dim lie one behind the other. So what is cut or gathered is a view, and products and chains see the
    same matrices whatever the number of devices. Empty: as axes are numbered.
    """
    order: list[int] = []
    for i, split in enumerate(dims):
        order += [at for a in split if a in axes and lead[at := axes.index(a)] > 1]
        order.append(len(lead) + i)
    order = [*(i for i in range(len(lead)) if i not in order), *order]
    return () if order == sorted(order) else tuple(order)
