"""Instructions from placed nodes: one emitter per function, aware of the part of a cut loop that its stage holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.comm import Relayout
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from compiler.passes.across import Across
from compiler.passes.cuts import CutLoop
from compiler.passes.place.place import Placed
from compiler.program import ORIGINS, FunctionPhase, phase_in
from compiler.relayout import plan_relayout
from dsl.data import dataclass

if TYPE_CHECKING:
    from compiler.passes.loop_bodies import LoopBodies


@dataclass(frozen=True, slots=True)
class LoopPart:
    """The iterations of the loops that are cut that one stage runs. counts: (label, all) -> those of the stage."""

    counts: Mapping[tuple[str, int], int]

    def type(self, type: Type) -> Type:
        """A type with the loops' dims cut down to this stage's iterations."""
        if not any((d.name, d.size) in self.counts for d in type.dims):
            return type
        return Type(type.dtype, tuple([self._dim(d) for d in type.dims]))

    def op(self, op: Op) -> Op:
        """An op whose attributes speak of the loops' dims, cut down likewise."""
        return with_dims(op, self._dim)

    def _dim(self, dim: Dim) -> Dim:
        count = self.counts.get((dim.name, dim.size))
        return dim if count is None else Dim(dim.name, count)


def with_dims(op: Op, change: Callable[[Dim], Dim]) -> Op:
    """The op with every dim among its attributes changed."""
    changes: dict[str, Any] = {}
    for name in dim_fields(op):
        value = getattr(op, name)
        new: Any = change(value) if isinstance(value, Dim) else tuple([change(d) for d in value])
        if new != value:
            changes[name] = new
    return replace(op, **changes) if changes else op


_DIM_FIELDS: dict[type[Op], tuple[str, ...]] = {}


def dim_fields(op: Op) -> tuple[str, ...]:
    """The attributes of an op that are a dim or a list of dims."""
    known = _DIM_FIELDS.get(type(op))
    if known is None:
        found = {f.name: f.type for f in fields(op) if "Dim" in str(f.type)}
        assert set(found.values()) <= {"Dim", "tuple[Dim, ...]"}, op
        known = _DIM_FIELDS[type(op)] = tuple(found)
    return known


class Emitter:
    """Appends nodes of a function. `defined`: a placed value's name -> what stands for it in this function; bodies: of
    loops that were emitted before, from somebody who shares them."""

    def __init__(
        self,
        placed: Placed,
        names: Names,
        function: FunctionPhase,
        part: LoopPart | None = None,
        bodies: LoopBodies | None = None,
    ) -> None:
        self.placed, self.names, self.function, self.part, self.bodies = placed, names, function, part, bodies
        self.nodes: list[Node] = []
        self.defined: dict[str, Value] = {}
        self.called = Names()  # of functions of the class
        self.functions: dict[int, Graph] = {}  # placed function -> what it is here

    def type(self, value: Value) -> Type:
        """The type of the value on this stage."""
        return self.part.type(value.type) if self.part is not None else value.type

    def op(self, node: Node) -> Op:
        """The op, as it makes what this stage has of the results."""
        return self.part.op(node.op) if self.part is not None else node.op

    def inner(self) -> Emitter:
        """One for the body of a loop."""
        return Emitter(self.placed, self.names, self.function, self.part)

    def origin(self, op: Op | None, value: Value | None = None) -> Origin:
        """Of a loop's parameter, of what an op gives; value: of which it is a part."""
        if value is not None and value.origin.phase is Phase.AGAIN:
            return ORIGINS[Phase.AGAIN]
        return ORIGINS[phase_in(self.function, op)]

    def define(self, value: Value, op: Op | None = None) -> Value:
        """A definition of the value in this function: a loop's parameter, or what `op` gives."""
        origin = self.origin(op, value if op else None)
        made = self.defined[value.name] = self._new(value.name, value, value.layout, origin)
        return made

    def _new(self, name: str, like: Value, layout: Layout, origin: Origin) -> Value:
        return Value(self.names.fresh(name), self.type(like), origin=origin, layout=layout)

    def value(self, value: Value) -> Value:
        """What stands for the value in this function."""
        return self.defined[value.name]

    def add(self, op: Op, inputs: Sequence[Value], name: str, like: Value, layout: Layout) -> Value:
        """A node on values of the function; its result has the type of another value."""
        made = self._new(name, like, layout, self.origin(op))
        self.nodes.append(Node(op, tuple(inputs), (made,)))
        return made

    def effect(self, op: Op, value: Value, layout: Layout) -> None:
        """A value that comes out of a buffer or a message."""
        self.defined[value.name] = self.received(op, value, layout)

    def received(self, op: Op, value: Value, layout: Layout) -> Value:
        """What comes in where the value stands; the value itself keeps what stands for it."""
        return self.add(op, (), value.name, value, layout)

    def do(self, op: Op, value: Value) -> None:
        """An effect without result."""
        self.write(op, self.value(value))

    def write(self, op: Op, value: Value) -> None:
        """An effect without result, of a value of the function."""
        self.nodes.append(Node(op, (value,), ()))

    def body(self) -> Graph:
        """The function, as far as it is."""
        return Graph("", (), tuple(self.nodes), ())

    def node(self, node: Node) -> None:
        if isinstance(node.op, Relayout):
            self._relayout(node, node.op.layout)
        elif isinstance(node.op, Repeat):
            self.repeat(node, node.op, node.op.count)
        elif isinstance(node.op, Call):
            self._call(node, node.op)
        else:
            inputs = tuple([self.defined[v.name] for v in node.inputs])
            self.nodes.append(Node(self.op(node), inputs, tuple([self.define(v, node.op) for v in node.outputs])))

    def _relayout(self, node: Node, target: Layout) -> None:
        source, out = node.inputs[0], node.output
        steps = plan_relayout(source.type, source.layout, target, self.placed.sizes)
        current = self.value(source)
        for step in steps:
            name = out.name if step is steps[-1] else f"{out.name}.via"
            current = self.add(step.op, (current,), name, out, step.layout)
        self.defined[out.name] = current

    def repeat(self, node: Node, op: Repeat, count: int, carried: Sequence[Value] = ()) -> None:
        """The loop, with `count` iterations; `carried`: what takes the place of the first operands."""
        inputs = (*carried, *(self.value(v) for v in node.inputs[len(carried) :]))
        body = self.loop_body(op) if self.bodies is None else self.bodies.of(op, self)
        loop = Repeat(op.label, count, body, op.carries, op.stacks, op.reverse)
        self.nodes.append(Node(loop, inputs, tuple(self.define(v, loop) for v in node.outputs)))

    def loop_body(self, op: Repeat) -> Graph:
        """What an iteration does here."""
        inner = self.inner()
        params = tuple(inner.define(v) for v in op.body.inputs)
        for n in op.body.nodes:
            inner.node(n)
        return Graph(op.label, params, tuple(inner.nodes), tuple(inner.value(v) for v in op.body.outputs))

    def _call(self, node: Node, op: Call) -> None:
        """The call of a function, which is there once for all that call it."""
        if id(op.body) not in self.functions:
            inner = self.inner()
            inner.names = Names()
            params = tuple(inner.define(v) for v in op.body.inputs)
            for n in op.body.nodes:
                inner.node(n)
            results = tuple(inner.value(v) for v in op.body.outputs)
            self.functions[id(op.body)] = Graph(self.called.fresh(op.body.name), params, tuple(inner.nodes), results)
        call = Call(self.functions[id(op.body)], op.at)
        inputs = tuple(self.value(v) for v in node.inputs)
        self.nodes.append(Node(call, inputs, tuple(self.define(v, call) for v in node.outputs)))


class PieceEmitter(Emitter):
    """For the update: `over` tells of each value which dim stands for the iterations of which loop.

    counts: label of a loop that is cut -> its iterations here.
    """

    def __init__(self, placed: Placed, names: Names, over: Across, counts: Mapping[str, int]) -> None:
        super().__init__(placed, names, FunctionPhase.UPDATE)
        self.over, self.counts = over, counts

    def piece(self, type: Type, value: str) -> Type:
        """The type of what this stage has of a value (or of what has the same dims)."""
        name = self.over.pieces.get(value)
        if name is None:
            return type
        loop = self.over.loops[value]
        return Type(type.dtype, tuple([self._cut(d, loop) if d.name == name else d for d in type.dims]))

    def type(self, value: Value) -> Type:
        return self.piece(value.type, value.name)

    def op(self, node: Node) -> Op:
        pieces, loops = self.over.pieces, self.over.loops
        found = {pieces[v.name]: loops[v.name] for v in node.outputs if v.name in pieces}
        if not found or not dim_fields(node.op):
            return node.op
        return with_dims(node.op, lambda d: self._cut(d, found[d.name]) if d.name in found else d)

    def inner(self) -> Emitter:
        return PieceEmitter(self.placed, self.names, self.over, self.counts)

    def _cut(self, dim: Dim, loop: CutLoop) -> Dim:
        return Dim(dim.name, dim.size * self.counts[loop.label] // loop.total)
