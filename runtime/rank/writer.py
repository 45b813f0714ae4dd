"""The text of a device's functions: straight-line Python, one variable per value (`runtime.rank.compiled`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.graph import Graph, Node, Value, names_of
from compiler.layout import TIME
from compiler.liveness import liveness, variables
from compiler.ops.comm import Comm
from compiler.ops.effects import Accumulate, Effect, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import Function, FunctionPhase, listed
from runtime.backend import Kernel, Position, Renewing, Slicewise
from runtime.mesh import parted
from runtime.rank import dying as memory
from runtime.rank.ahead import Reduction, brought_forward, gathers, together, unchanged
from runtime.rank.collectives import Here
from runtime.rank.renewed import renewed
from runtime.rank.starts import (
    Filling,
    Pending,
    Stack,
    Starting,
    arrive,
    later,
    reduce_ready,
    reduce_slices,
    reduce_whole,
    started,
)
from runtime.renewing import Renewed
from runtime.straight_line import StraightLine, without_calls

if TYPE_CHECKING:
    from runtime.rank.compiled import CompiledRank


class RankWriter(StraightLine):
    """Writes the text of one function."""

    def __init__(self, rank: CompiledRank, function: Function) -> None:
        super().__init__(function)
        self.rank, self.backend = rank, rank.backend
        self.names |= {
            f.__name__: f for f in (Pending, later, arrive, reduce_slices, reduce_whole, reduce_ready, started)
        }
        self.maybe: set[str] = set()
        """Variables that may hold something that is not there yet."""
        self.stacked: dict[str, str] = {}
        """Variables that may hold a list of slices, with their dtype."""
        self.lates: dict[str, str] = {}
        """Lists of slices of which the last is on its way, with the names of their `Filling`s."""
        self.weights: set[str] = set()
        """Values that are made of weights alone."""
        found = rank.reductions
        self.started = found.early if function.phase is FunctionPhase.UPDATE else {}
        self.ready: dict[str, list[Reduction]] = {}
        for r in found.of.get(function.key, ()):
            self.ready.setdefault(r.buffer, []).append(r)
        self.last_micro = found.last.get(function.key, 0)
        self.last = "" if rank.program.microbatches == 1 else f"if micro == {self.last_micro}: "
        """What stands before what only the last run of the function in a step does."""
        self.final: dict[str, Node] = {}
        """By accumulator, the last addition to it."""
        self.dying: dict[Node, tuple[int, ...]] = {}
        """Operands that the result may be written over."""
        self.renewed = Renewed()
        """What of the states is renewed in its memory."""
        self.sliced: set[str] = set()
        """Accumulators whose reductions have been started slice by slice."""

    def run(self) -> Callable[[CompiledRank, int, Any], None]:
        self.rank.chunk = self.function.phase.at(self.function.chunk)
        body = without_calls(self.function.body)
        self.renewed = renewed(body, self.rank)
        self.body(body, {}, 1)
        if self.ready:
            self.put(1, f"{self.last}reduce_ready(d)")
        return self.compiled("d, micro, ctx", self.rank.program.name)[0]

    def there(self, name: str, depth: int, whole: bool = True) -> str:
        """The variable, behind lines that wait for its value and (if `whole`) put a stack in one piece."""
        if name in self.lates:
            self.put(depth, f"arrive(d, {self.lates.pop(name)}, micro)")
        if name in self.maybe:
            self.put(depth, f"if {name}.__class__ is Pending: {name} = {name}.get()")
        if whole and name in self.stacked:
            self.put(depth, f"if {name}.__class__ is list: {name} = d.whole({name}, {self.stacked[name]!r})")
        return name

    # --- bodies

    def body(
        self,
        body: Graph,
        names: dict[str, str],
        depth: int,
        carries: int = 0,
        stacks: Mapping[str, list[Stack]] | None = None,
    ) -> None:
        """Write the instructions. `names`: value -> variable; `stacks`: by the values that go there."""
        scope, live = variables(body), liveness(body, carries)
        at_start, sets = unchanged(body), together(body, self.started)
        heads, done = {nodes[0]: nodes for nodes in sets}, {n for nodes in sets for n in nodes[1:]} | set(at_start)
        behind = brought_forward(body, self.ready)
        done.update(n for nodes in behind.values() for n in nodes)
        self.final.update({i.op.name: i for i in body.nodes if isinstance(i.op, Accumulate)})
        read = {v.name for n in body.nodes for v in n.inputs if not any(o.name in self.started for o in n.outputs)}
        handed = self.handed(body, stacks or {})
        self.dying.update(memory.dying(body, self.backend.makes, stacks or ()))
        for instr in at_start:
            if instr.outputs[0].name in read or not self.started:
                self.instr(instr, scope, names, depth)
        for instr, dying in zip(body.nodes, live.after, strict=True):
            if isinstance(instr.op, Repeat):
                self.loop(instr, instr.op, names, depth, live.sinks)
            elif instr in heads:
                self.several(heads[instr], scope, names, depth)
            elif instr not in done:
                self.instr(instr, scope, names, depth)
            for out in instr.outputs:
                self.fill(stacks or {}, out.name, names, depth, out.name in handed)
            for addition in behind.get(instr, ()):
                self.instr(addition, scope, names, depth)
            gone = [names[n] for n in dying if n in names]
            for n in dying:
                if names.get(n) in self.lates or (names.get(n) in self.maybe and n not in handed):
                    self.there(names[n], depth, whole=False)  # nothing is let go while it is under way
            if gone:
                self.put(depth, " = ".join(gone) + " = None")

    def handed(self, body: Graph, stacks: Mapping[str, list[Stack]]) -> set[str]:
        """What messages bring for the loop's results or for accumulators, and for nobody here: nothing waits for it."""
        read = {v.name for i in body.nodes for v in i.inputs}
        found = (v.name for i in body.nodes if isinstance(i.op, Comm) and i.op.message for v in i.outputs)
        sums = (i for i in body.nodes if isinstance(i.op, Accumulate) and self.comes_late(i, i.op))
        return {*(name for name in found if name in stacks and name not in read), *(i.inputs[0].name for i in sums)}

    def fill(
        self, stacks: Mapping[str, list[Stack]], name: str, names: dict[str, str], depth: int, late: bool = False
    ) -> None:
        """Put a value where the loop's results go. late: once it is there, after the next iteration's at the latest."""
        for stack in stacks.get(name, ()):
            if late:
                stack.late = True
                self.put(depth, f"later(d, {stack.fill}, {stack.slices}, {stack.index}, {names[name]}, micro)")
                continue
            value = self.there(names[name], depth)
            if stack.sink:
                self.put(depth, f"if {stack.slices} is None: {stack.sink.format(index=stack.index, value=value)}")
                self.put(depth, f"else: {stack.slices}[{stack.index}] = {value}")
            else:
                self.put(depth, f"{stack.slices}[{stack.index}] = {value}")

    def instr(self, instr: Node, scope: Mapping[str, Value], names: dict[str, str], depth: int) -> None:
        op, rank, chunk = instr.op, self.rank, self.function.phase.at(self.function.chunk)
        if isinstance(op, Accumulate) and instr.inputs[0].name in self.sunk:
            name = self.there(names[instr.inputs[0].name], depth, whole=False)
            self.put(depth, f"if {name} is not None: {self.accumulated(op.name, instr.inputs[0].name, name)}")
            self.complete(instr, op.name, depth)
            return
        if instr.outputs and instr.outputs[0].name in self.started:
            out = instr.outputs[0]
            names[out.name] = self.fresh()
            self.put(depth, f"{names[out.name]} = started(d, {self.started[out.name].key!r})")
            self.maybe.add(names[out.name])
            self.stacked[names[out.name]] = out.type.dtype
            return
        if isinstance(op, Accumulate) and self.comes_late(instr, op):
            fn, dtype = self.combination(op.name, instr.inputs[0].name)
            self.put(depth, f"d.accumulate_later({op.name!r}, {names[instr.inputs[0].name]}, {fn!r}, {dtype!r})")
            self.complete(instr, op.name, depth)
            return
        kernel = None if isinstance(op, Comm | Effect) else self.kernel(instr, scope)
        sliced = kernel.operands if isinstance(kernel, Slicewise) else frozenset[int]()
        keeps = isinstance(op, Save | Accumulate)
        args = [self.there(names[v.name], depth, not keeps and k not in sliced) for k, v in enumerate(instr.inputs)]
        for out in instr.outputs:
            names[out.name] = self.fresh()
        result = ", ".join(names[o.name] for o in instr.outputs)
        match op:
            case Input():
                key = self.bind((op.name, instr.outputs[0].layout))
                micro = "micro" if TIME in instr.outputs[0].layout.axes else "0"
                self.put(depth, f"{result} = d.inputs[{key}][{micro}].array")
            case Read():
                if rank.declared[op.name].role is Role.WEIGHT:
                    self.weights.update(v.name for v in instr.outputs)
                if rank.declared[op.name].role is Role.GRADIENT and not parted(rank.declared[op.name]):
                    self.put(depth, f"{result} = d.slices({op.name!r})")
                    self.stacked[result] = instr.outputs[0].type.dtype
                    return
                part = parted(rank.declared[op.name]) and not listed(rank.declared[op.name])
                self.put(depth, f"{result} = d.read{'_part' if part else ''}({op.name!r}{', micro' if part else ''})")
            case Write():
                decl = rank.declared[op.name]
                # Micro-batches share a state: all of them read what it contained before the step.
                shared = decl.role is Role.STATE and self.function.per_microbatch
                last = f"if micro == {rank.program.microbatches - 1}: " if shared else ""
                write = f"d.write_part({op.name!r}, micro" if parted(decl) else f"{last}d.write({op.name!r}"
                self.put(depth, f"{write}, {args[0]})")
            case Accumulate():
                put = f"d.put_part({op.name!r}, micro, {args[0]})" if listed(rank.declared[op.name]) else ""
                self.put(depth, put or self.accumulated(op.name, instr.inputs[0].name, args[0]))
                self.complete(instr, op.name, depth)
            case Save():
                self.put(depth, f"d.saved[{op.name!r}, micro] = d.cell({args[0]})")
            case Load():
                key = f"{op.name!r}, micro"
                self.put(
                    depth, f"{result} = d.saved.pop(({key})).array" if op.last else f"{result} = d.saved[{key}].array"
                )
                self.stacked[result] = instr.outputs[0].type.dtype
            case Send():
                self.put(depth, f"d.post({self.bind(op)}, {chunk}, micro, {args[0]})")
            case Recv():
                local = rank.local(instr.outputs[0])
                self.put(
                    depth, f"{result} = d.fetch({self.bind(op)}, {chunk}, micro, {local.shape!r}, {local.dtype!r})"
                )
                self.maybe.add(result)
            case StageReduce():
                self.put(
                    depth, f"{result} = d.reduce_stages({self.bind(op)}, {args[0]}, {instr.outputs[0].type.dtype!r})"
                )
                self.maybe.add(result)
            case Comm():
                var, (out,) = scope[instr.inputs[0].name], instr.outputs
                heres = self.bind(self.heres(var, out, bool(self.dying.get(instr))))
                self.put(depth, f"{result} = d.start({self.bind(op)}, {heres}, micro, {args[0]})")
                self.maybe.add(result)
            case _:
                if args and all(v.name in self.weights for v in instr.inputs):
                    self.weights.update(v.name for v in instr.outputs)
                run = self.bind(kernel.run if isinstance(kernel, Slicewise) else kernel)
                self.put(depth, f"{result} = {run}({', '.join(['ctx', *args])})")

    def kernel(self, instr: Node, scope: Mapping[str, Value]) -> Kernel:
        """What computes an instruction: in the place of an operand that dies, if it can."""
        op, rank, renews = instr.op, self.rank, id(instr) in self.renewed.nodes
        ins, outs = [rank.value(scope[v.name]) for v in instr.inputs], [rank.value(v) for v in instr.outputs]
        position = Position(rank.program.sizes, rank.at, rank._start(op))
        for operand in self.dying.get(instr, ()):
            found = self.backend.plan_over(op, ins, outs, position, operand)
            if found is not None:
                return found
        kernel = self.backend.plan(op, ins, outs, position)
        return kernel.over if renews and isinstance(kernel, Renewing) else kernel

    def comes_late(self, instr: Node, op: Accumulate) -> bool:
        """Whether a message brings what is added, for nobody else here, and nothing else is ever added there."""
        name = instr.inputs[0].name
        if self.rank.additions[op.name] > 1 or op.name in self.ready:
            return False
        body = self.function.body
        makers = [i for i in body.nodes if any(v.name == name for v in i.outputs)]
        readers = [i for i in body.nodes if any(v.name == name for v in i.inputs)]
        return len(readers) == 1 and all(isinstance(i.op, Comm) and i.op.message for i in makers)

    def complete(self, instr: Node, buffer: str, depth: int) -> None:
        """Nothing is added to a gradient behind this: start what the update begins with."""
        if buffer in self.ready and buffer not in self.sliced and self.final[buffer] is instr:
            found = [(buffer, self.starting(r)) for r in self.ready[buffer]]
            self.put(depth, f"{self.last}reduce_whole(d, {self.bind(found)})")

    def starting(self, reduction: Reduction, count: int = 0) -> Starting:
        """What is needed to start a reduction (count: of slices) from here."""
        here = self.heres(reduction.operand, reduction.result)
        op, local = reduction.op, self.rank.local(reduction.operand)
        kind = type(op), op.over(), getattr(op, "fn", ""), local.dtype
        return Starting(reduction.key, op, here, kind, local.bytes, count)

    def heres(self, var: Value, out: Value, spare: bool = False) -> list[Here]:
        """What a collective is told of the device, by micro-batch. spare: nobody needs the operand any more."""
        rank = self.rank
        at = [{**rank.at, TIME: m} for m in range(rank.program.microbatches)]
        return [Here(var.type, var.layout, out.layout, rank.mesh, a, rank.network, self.backend, spare) for a in at]

    def several(self, nodes: Sequence[Node], scope: Mapping[str, Value], names: dict[str, str], depth: int) -> None:
        """Start collectives that travel together. Their operands are there: parameters, and values before the first."""
        args = [self.there(names[n.inputs[0].name], depth) for n in nodes]
        calls = [(n.op, self.heres(scope[n.inputs[0].name], n.outputs[0])) for n in nodes]
        results = [self.fresh() for _ in nodes]
        for n, result in zip(nodes, results, strict=True):
            names[n.outputs[0].name] = result
            self.maybe.add(result)
        self.put(depth, f"{', '.join(results)}, = d.start_all({self.bind(calls)}, micro, {', '.join(args)})")

    def accumulated(self, name: str, value: str, variable: str) -> str:
        fn, dtype = self.combination(name, value)
        return f"d.accumulate({name!r}, {variable}, {fn!r}, {dtype!r})"

    def combination(self, name: str, value: str) -> tuple[str, str]:
        """How micro-batches add up (by the reduction that they leave pending over them), and the accumulator's type."""
        return self.pending.get(value, "sum"), self.rank.declared[name].type.dtype

    def loop(self, instr: Node, op: Repeat, names: dict[str, str], depth: int, sinks: Mapping[str, str]) -> None:
        """A `for` over the slices; carries pass from round to round in variables, lists of results are filled."""
        carries, last = op.carries, op.carries + op.stacks
        given, results = names_of(instr.inputs), names_of(op.body.outputs)
        for k, name in enumerate(given):
            if k >= carries or names[name] in self.stacked:
                self.there(names[name], depth, whole=not carries <= k < last)
        inner = {p.name: self.fresh() for p in op.body.inputs}
        inside = [inner[p.name] for p in op.body.inputs]
        for variable, name in zip(inside[:carries], given, strict=False):
            self.put(depth, f"{variable} = {names[name]}")
            self.maybe.add(variable)
        i = self.fresh()
        filled: dict[str, list[Stack]] = {}
        into: list[tuple[Stack, Filling]] = []
        for k, (out, name) in enumerate(zip(instr.outputs[carries:], results[carries:], strict=True), carries):
            operand = self.renewed.stacks.get((id(instr), k))
            if operand is not None:  # its slices are renewed where they are
                names[out.name] = self.fresh()
                self.put(depth, f"{names[out.name]} = {names[given[operand]]}")
                continue
            slices = names[out.name] = self.fresh()
            self.stacked[slices] = out.type.dtype
            sink, unless, filling = "", "", Filling()
            if out.name in sinks:
                self.sunk.add(out.name)
                buffer = sinks[out.name]
                fn, dtype = self.combination(buffer, out.name)
                sink = f"d.add({buffer!r}, {{index}}, {{value}}, {fn!r}, {dtype!r})"
                unless = f" if {buffer!r} not in d.states else None"
                filling = Filling(buffer, fn, dtype, self.slices_of(buffer, op.count), self.last_micro)
            self.put(depth, f"{slices} = [None] * {op.count}{unless}")
            into.append((Stack(slices, i, sink, self.bind(filling)), filling))
            filled.setdefault(name, []).append(into[-1][0])
        stacked = {p.name: names[n] for p, n in zip(op.body.inputs[carries:last], given[carries:last], strict=True)}
        self.weights.update(p.name for p, n in zip(op.body.inputs, given, strict=True) if n in self.weights)
        ahead = gathers(op, self.weights)
        coming = {v.name: self.fresh() for v in ahead.outputs} if ahead is not None else {}
        if ahead is not None:
            self.prefetch(ahead, coming, stacked, depth, str(op.count - 1 if op.reverse else 0))
        order = f"range({op.count - 1}, -1, -1)" if op.reverse else f"range({op.count})"
        self.put(depth, f"for {i} in {order}:")
        self.put(depth + 1, "pass")
        for variable, name in zip(inside[carries:last], given[carries:last], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}[{i}]")
        for variable, name in zip(inside[last:], given[last:], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}")  # each time: the body lets go of it at its last use
        body = op.body
        if ahead is not None:
            for name, variable in coming.items():
                inner[name] = self.fresh()
                self.maybe.add(inner[name])
                self.put(depth + 1, f"{inner[name]}, {variable} = {variable}, None")
            self.put(depth + 1, f"if {i} != {0 if op.reverse else op.count - 1}:")
            self.prefetch(ahead, coming, stacked, depth + 2, f"{i} {'-' if op.reverse else '+'} 1")
            done = set(ahead.nodes)
            rest = tuple(n for n in body.nodes if n not in done)
            body = replace(body, inputs=(*body.inputs, *ahead.outputs), nodes=rest)
        for p in op.body.inputs:
            self.fill(filled, p.name, inner, depth + 1)
        self.body(body, inner, depth + 1, carries, filled)
        prompt = [(s, f) for s, f in into if f.starts and not s.late]
        if prompt:
            self.put(
                depth + 1,
                f"{self.last}reduce_slices(d, {self.bind([f for _, f in prompt])}, {i}, "
                f"{', '.join(s.slices for s, _ in prompt)})",
            )
        if carries:
            for name in results[:carries]:
                if inner[name] in self.stacked:
                    self.there(inner[name], depth + 1)
            self.put(depth + 1, f"{', '.join(inside[:carries])} = {', '.join(inner[n] for n in results[:carries])}")
        self.lates |= {s.slices: s.fill for s, _ in into if s.late}
        for out, variable in zip(instr.outputs[:carries], inside[:carries], strict=True):
            names[out.name] = self.fresh()
            self.maybe.add(names[out.name])
            self.put(depth, f"{names[out.name]} = {variable}")
        if inner:
            self.put(depth, " = ".join(inner.values()) + " = None")

    def slices_of(self, buffer: str, count: int) -> list[Starting]:
        """What the slices of an accumulator start as they are complete, if what it starts can be done in slices."""
        found = [r.of_slices() for r in self.ready.get(buffer, ())]
        slices = [r for r in found if r is not None]
        if not slices or len(slices) < len(found) or self.rank.additions[buffer] > 1:
            return []
        self.sliced.add(buffer)
        return [self.starting(r, count) for r in slices]

    def prefetch(
        self, ahead: Graph, coming: Mapping[str, str], stacked: Mapping[str, str], depth: int, index: str
    ) -> None:
        """Start what an iteration gathers. coming: the variables for it; stacked: those that hold the stacks."""
        names = {p.name: self.fresh() for p in ahead.inputs}
        for name, variable in names.items():
            self.put(depth, f"{variable} = {stacked[name]}[{index}]")
        self.body(ahead, names, depth, len(ahead.outputs))
        for name, variable in coming.items():
            self.put(depth, f"{variable} = {names[name]}")
