"""The text of a device's functions: straight-line Python, one variable per value (`runtime.rank.compiled`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compiler.graph import Graph, Node, Value, names_of
from compiler.layout import TIME
from compiler.liveness import liveness, variables
from compiler.ops.comm import AllGather, AllReduce, Comm, ReduceScatter
from compiler.ops.effects import Accumulate, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import Function
from runtime.backend import Array, Position
from runtime.comm import Handle
from runtime.mesh import parted
from runtime.rank.collectives import Here
from runtime.straight_line import StraightLine, without_calls

if TYPE_CHECKING:
    from runtime.rank.compiled import CompiledRank

MOST = 64
"""Collectives that travel as one message, at most."""


class Pending:
    """A value that is not there yet."""

    __slots__ = ("handle", "value")

    def __init__(self, handle: Handle[Array]) -> None:
        self.handle: Handle[Array] | None = handle
        self.value: Array = None

    def get(self) -> Array:
        """The value; the process waits for it."""
        if self.handle is not None:
            self.value, self.handle = finished(self.handle), None
        return self.value


def finished(handle: Handle[Any]) -> Any:
    """What a handle of a network gives whose calls block."""
    waiting = handle.wait()
    try:
        next(waiting)
    except StopIteration as end:
        return end.value
    raise AssertionError("calls block here: there is nothing to yield for")


def early(body: Graph) -> dict[Node, None]:
    """Reads of what nothing in the body has changed before: they can be done at its start."""
    found: dict[Node, None] = {}
    changed: set[str] = set()
    for instr in body.nodes:
        if isinstance(instr.op, Read) and instr.op.name not in changed:
            found[instr] = None
        elif isinstance(instr.op, Write | Accumulate):
            changed.add(instr.op.name)
    return found


def together(body: Graph) -> list[list[Node]]:
    """Collectives that can be started at once, by the first of each set: of one kind over the same axes, with operands
    that are there before the first."""
    defined = {v.name: -1 for v in (*body.inputs, *(v for n in early(body) for v in n.outputs))}
    latest: dict[tuple[object, ...], tuple[int, list[Node]]] = {}
    found: list[list[Node]] = []
    for i, instr in enumerate(body.nodes):
        for v in instr.outputs:
            defined.setdefault(v.name, i)
        op = instr.op
        if not isinstance(op, AllGather | ReduceScatter | AllReduce):
            continue
        key = type(op), op.axes, getattr(op, "fn", ""), instr.outputs[0].type.dtype
        first, nodes = latest.get(key, (-1, []))
        if nodes and defined[instr.inputs[0].name] < first and len(nodes) < MOST:
            nodes.append(instr)
        else:
            latest[key] = i, [instr]
            found.append(latest[key][1])
    return [nodes for nodes in found if len(nodes) > 1]


class RankWriter(StraightLine):
    """Writes the text of one function."""

    def __init__(self, rank: CompiledRank, function: Function) -> None:
        super().__init__(function)
        self.rank, self.backend = rank, rank.backend
        self.names["Pending"] = Pending
        self.maybe: set[str] = set()
        """Variables that may hold something that is not there yet."""
        self.stacked: dict[str, str] = {}
        """Variables that may hold a list of slices, with their dtype."""

    def run(self) -> Callable[[CompiledRank, int, Any], None]:
        self.rank.chunk = self.function.chunk
        self.body(without_calls(self.function.body), {}, 1)
        return self.compiled("d, micro, ctx", self.rank.program.name)[0]

    def there(self, name: str, depth: int, whole: bool = True) -> str:
        """The variable, behind lines that wait for its value and (if `whole`) put a stack in one piece."""
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
        stacks: Mapping[str, list[tuple[str, str, str]]] | None = None,
    ) -> None:
        """Write the instructions. `names`: value -> variable; `stacks`: value -> (list of slices, index, sink)."""
        scope, live = variables(body), liveness(body, carries)
        at_start, sets = early(body), together(body)
        heads, done = {nodes[0]: nodes for nodes in sets}, {n for nodes in sets for n in nodes[1:]} | set(at_start)
        for instr in at_start:
            self.instr(instr, scope, names, depth)
        for instr, dying in zip(body.nodes, live.after, strict=True):
            if isinstance(instr.op, Repeat):
                self.loop(instr, instr.op, names, depth, live.sinks)
            elif instr in heads:
                self.several(heads[instr], scope, names, depth)
            elif instr not in done:
                self.instr(instr, scope, names, depth)
            for out in instr.outputs:
                self.fill(stacks or {}, out.name, names, depth)
            gone = [names[n] for n in dying if n in names]
            for name in gone:
                if name in self.maybe:
                    self.there(name, depth, whole=False)  # nothing is let go while it is under way
            if gone:
                self.put(depth, " = ".join(gone) + " = None")

    def fill(
        self, stacks: Mapping[str, list[tuple[str, str, str]]], name: str, names: dict[str, str], depth: int
    ) -> None:
        """Put a value where the loop's results go."""
        for slices, index, sink in stacks.get(name, ()):
            value = self.there(names[name], depth)
            if sink:
                self.put(depth, f"if {slices} is None: {sink.format(index=index, value=value)}")
                self.put(depth, f"else: {slices}[{index}] = {value}")
            else:
                self.put(depth, f"{slices}[{index}] = {value}")

    def instr(self, instr: Node, scope: Mapping[str, Value], names: dict[str, str], depth: int) -> None:
        op, rank, chunk = instr.op, self.rank, self.function.chunk
        if isinstance(op, Accumulate) and instr.inputs[0].name in self.sunk:
            name = names[instr.inputs[0].name]
            self.put(depth, f"if {name} is not None: {self.accumulated(op.name, instr.inputs[0].name, name)}")
            return
        keeps = isinstance(op, Save | Accumulate)
        args = [self.there(names[v.name], depth, whole=not keeps) for v in instr.inputs]
        for out in instr.outputs:
            names[out.name] = self.fresh()
        result = ", ".join(names[o.name] for o in instr.outputs)
        match op:
            case Input():
                key = self.bind((op.name, instr.outputs[0].layout))
                micro = "micro" if TIME in instr.outputs[0].layout.axes else "0"
                self.put(depth, f"{result} = d.inputs[{key}][{micro}].array")
            case Read():
                part = parted(rank.declared[op.name])
                self.put(depth, f"{result} = d.read{'_part' if part else ''}({op.name!r}{', micro' if part else ''})")
            case Write():
                decl = rank.declared[op.name]
                # Micro-batches share a state: all of them read what it contained before the step.
                shared = decl.role is Role.STATE and self.function.per_microbatch
                last = f"if micro == {rank.program.microbatches - 1}: " if shared else ""
                write = f"d.write_part({op.name!r}, micro" if parted(decl) else f"{last}d.write({op.name!r}"
                self.put(depth, f"{write}, {args[0]})")
            case Accumulate():
                self.put(depth, self.accumulated(op.name, instr.inputs[0].name, args[0]))
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
                heres = self.bind(self.heres(var, out))
                self.put(depth, f"{result} = d.start({self.bind(op)}, {heres}, micro, {args[0]})")
                self.maybe.add(result)
            case _:
                ins, outs = [rank._value(scope[v.name]) for v in instr.inputs], [rank._value(v) for v in instr.outputs]
                position = Position(rank.program.sizes, rank.at, rank._start(op))
                kernel = self.bind(self.backend.plan(op, ins, outs, position))
                self.put(depth, f"{result} = {kernel}({', '.join(['ctx', *args])})")

    def heres(self, var: Value, out: Value) -> list[Here]:
        """What a collective is told of the device, by micro-batch."""
        rank = self.rank
        at = [{**rank.at, TIME: m} for m in range(rank.program.microbatches)]
        return [Here(var.type, var.layout, out.layout, rank.mesh, a, rank.network, self.backend) for a in at]

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
        filled: dict[str, list[tuple[str, str, str]]] = {}
        for out, name in zip(instr.outputs[carries:], results[carries:], strict=True):
            slices = names[out.name] = self.fresh()
            self.stacked[slices] = out.type.dtype
            sink, unless = "", ""
            if out.name in sinks:
                self.sunk.add(out.name)
                buffer = sinks[out.name]
                fn, dtype = self.combination(buffer, out.name)
                sink = f"d.add({buffer!r}, {{index}}, {{value}}, {fn!r}, {dtype!r})"
                unless = f" if {buffer!r} not in d.states else None"
            self.put(depth, f"{slices} = [None] * {op.count}{unless}")
            filled.setdefault(name, []).append((slices, i, sink))
        order = f"range({op.count - 1}, -1, -1)" if op.reverse else f"range({op.count})"
        self.put(depth, f"for {i} in {order}:")
        self.put(depth + 1, "pass")
        for variable, name in zip(inside[carries:last], given[carries:last], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}[{i}]")
        for variable, name in zip(inside[last:], given[last:], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}")  # each time: the body lets go of it at its last use
        for p in op.body.inputs:
            self.fill(filled, p.name, inner, depth + 1)
        self.body(op.body, inner, depth + 1, carries, filled)
        if carries:
            for name in results[:carries]:
                if inner[name] in self.stacked:
                    self.there(inner[name], depth + 1)
            self.put(depth + 1, f"{', '.join(inside[:carries])} = {', '.join(inner[n] for n in results[:carries])}")
        for out, variable in zip(instr.outputs[:carries], inside[:carries], strict=True):
            names[out.name] = self.fresh()
            self.maybe.add(names[out.name])
            self.put(depth, f"{names[out.name]} = {variable}")
        if inner:
            self.put(depth, " = ".join(inner.values()) + " = None")
