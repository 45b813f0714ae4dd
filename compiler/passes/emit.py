"""Instructions from placed nodes: one emitter per function, aware of the part of a cut loop that its stage holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from compiler.graph import Dim, Names, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.base import Op
from compiler.ops.comm import Relayout
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from compiler.passes.place.place import Placed
from compiler.program import ORIGINS, Body, FunctionPhase, Instr, LocalRepeat, Var, phase_in
from compiler.relayout import plan_relayout


@dataclass(frozen=True, slots=True)
class Part:
    """The iterations of the cut loop `label` that one stage runs."""

    label: str
    total: int
    count: int

    def type(self, type: Type) -> Type:
        """A type with the loop's dim cut down to this stage's iterations."""
        if not any(d.name == self.label and d.size == self.total for d in type.dims):
            return type
        return Type(type.dtype, tuple(self._dim(d) for d in type.dims))

    def op(self, op: Op) -> Op:
        """An op whose attributes speak of the loop's dim, cut down likewise."""
        return with_dims(op, self._dim)

    def _dim(self, dim: Dim) -> Dim:
        return Dim(dim.name, self.count) if dim.name == self.label and dim.size == self.total else dim


def with_dims(op: Op, change: Callable[[Dim], Dim]) -> Op:
    """The op with every dim among its attributes changed."""
    changes: dict[str, Any] = {}
    for f in fields(op):
        value = getattr(op, f.name)
        if isinstance(value, Dim):
            new: Any = change(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Dim):
            new = tuple(change(d) for d in value)
        else:
            continue
        if new != value:
            changes[f.name] = new
    return replace(op, **changes) if changes else op


class Emitter:
    """Appends instructions of a function. `renamed`: value -> the name that it has in this function."""

    def __init__(self, placed: Placed, names: Names, function: FunctionPhase, part: Part | None = None) -> None:
        self.placed, self.names, self.function, self.part = placed, names, function, part
        self.instrs: list[Instr] = []
        self.renamed: dict[str, str] = {}

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
        again = value is not None and value.origin.phase is Phase.AGAIN
        return ORIGINS[Phase.AGAIN if again else phase_in(self.function, op)]

    def var(self, value: Value, op: Op | None = None) -> Var:
        """A definition of the value in this function: a loop's parameter, or what `op` gives."""
        name = self.names.fresh(value.name)
        if name != value.name:
            self.renamed[value.name] = name
        else:
            self.renamed.pop(value.name, None)
        return Var(name, self.type(value), self.placed.layouts[value.name], self.origin(op, value if op else None))

    def name(self, value: Value) -> str:
        return self.renamed.get(value.name, value.name)

    def effect(self, op: Op, value: Value, layout: Layout) -> None:
        """A value that comes out of a buffer or a message."""
        self.renamed[value.name] = self.received(op, value, layout)

    def received(self, op: Op, value: Value, layout: Layout) -> str:
        """The name of what comes in where the value stands; the value itself keeps its own."""
        name = self.names.fresh(value.name)
        self.instrs.append(Instr(op, (), (Var(name, self.type(value), layout, self.origin(op)),)))
        return name

    def do(self, op: Op, value: Value) -> None:
        """An effect without result."""
        self.instrs.append(Instr(op, (self.name(value),), ()))

    def node(self, node: Node) -> None:
        if isinstance(node.op, Relayout):
            self._relayout(node, node.op.layout)
        elif isinstance(node.op, Repeat):
            self.repeat(node, node.op, node.op.count)
        else:
            inputs = tuple(self.name(v) for v in node.inputs)
            self.instrs.append(Instr(self.op(node), inputs, tuple(self.var(v, node.op) for v in node.outputs)))

    def _relayout(self, node: Node, target: Layout) -> None:
        source, out = node.inputs[0], node.output
        steps = plan_relayout(source.type, self.placed.layouts[source.name], target, self.placed.sizes)
        current = self.name(source)
        for i, step in enumerate(steps):
            name = self.var(out).name if i == len(steps) - 1 else self.names.fresh(f"{out.name}.via")
            var = Var(name, self.type(out), step.layout, self.origin(step.op))
            self.instrs.append(Instr(step.op, (current,), (var,)))
            current = name
        if not steps:
            self.renamed[out.name] = current

    def repeat(self, node: Node, op: Repeat, count: int, carried: Sequence[str] = ()) -> None:
        """The loop, with `count` iterations; `carried`: what takes the place of the first operands."""
        inputs = (*carried, *(self.name(v) for v in node.inputs[len(carried) :]))
        inner = self.inner()
        params = tuple(inner.var(v) for v in op.body.inputs)
        for n in op.body.nodes:
            inner.node(n)
        body = Body(params, tuple(inner.instrs), tuple(inner.name(v) for v in op.body.outputs))
        loop = LocalRepeat(op.label, count, body, op.carries, op.stacks, op.reverse)
        self.instrs.append(Instr(loop, inputs, tuple(self.var(v, loop) for v in node.outputs)))


class PieceEmitter(Emitter):
    """For the update: `pieces` tells of each value which dim stands for the iterations, `count` of `total` here."""

    def __init__(self, placed: Placed, names: Names, pieces: Mapping[str, str], count: int, total: int) -> None:
        super().__init__(placed, names, FunctionPhase.UPDATE)
        self.pieces, self.count, self.total = pieces, count, total

    def piece(self, type: Type, value: str) -> Type:
        """The type of what this stage has of a value (or of what has the same dims)."""
        name = self.pieces.get(value)
        return type if name is None else Type(type.dtype, tuple(self._cut(d, name) for d in type.dims))

    def type(self, value: Value) -> Type:
        return self.piece(value.type, value.name)

    def op(self, node: Node) -> Op:
        names = {name for v in node.outputs if (name := self.pieces.get(v.name)) is not None}
        return with_dims(node.op, lambda d: self._cut(d, d.name) if d.name in names else d)

    def inner(self) -> Emitter:
        return PieceEmitter(self.placed, self.names, self.pieces, self.count, self.total)

    def _cut(self, dim: Dim, name: str) -> Dim:
        return Dim(dim.name, dim.size * self.count // self.total) if dim.name == name else dim
