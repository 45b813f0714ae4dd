"""Instructions from placed nodes: one emitter per function, aware of the part of a cut loop that its stage holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from compiler.graph import Dim, Names, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.base import Op
from compiler.ops.comm import Relayout
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.program import Body, Instr, LocalRepeat, Var
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
        changes: dict[str, Any] = {}
        for f in fields(op):
            value = getattr(op, f.name)
            if isinstance(value, Dim):
                new: Any = self._dim(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Dim):
                new = tuple(self._dim(d) for d in value)
            else:
                continue
            if new != value:
                changes[f.name] = new
        return replace(op, **changes) if changes else op

    def _dim(self, dim: Dim) -> Dim:
        return Dim(dim.name, self.count) if dim.name == self.label and dim.size == self.total else dim


class Emitter:
    """Appends instructions. `renamed`: value -> the name that it has in this function."""

    def __init__(self, placed: Placed, names: Names, part: Part | None = None, suffix: str = "") -> None:
        self.placed, self.names, self.part, self.suffix = placed, names, part, suffix
        self.instrs: list[Instr] = []
        self.renamed: dict[str, str] = {}

    def type(self, type: Type) -> Type:
        return self.part.type(type) if self.part is not None else type

    def var(self, value: Value) -> Var:
        """A definition of the value in this function."""
        name = self.names.fresh(value.name)
        if name != value.name:
            self.renamed[value.name] = name
        else:
            self.renamed.pop(value.name, None)
        return Var(name, self.type(value.type), self.placed.layouts[value.name])

    def name(self, value: Value) -> str:
        return self.renamed.get(value.name, value.name)

    def effect(self, op: Op, value: Value, layout: Layout) -> None:
        """A value that comes out of a buffer or a message."""
        self.renamed[value.name] = self.received(op, value, layout)

    def received(self, op: Op, value: Value, layout: Layout) -> str:
        """The name of what comes in where the value stands; the value itself keeps its own."""
        name = self.names.fresh(value.name)
        self.instrs.append(Instr(op, (), (Var(name, self.type(value.type), layout),)))
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
            op = self.part.op(node.op) if self.part is not None else node.op
            self.instrs.append(Instr(op, inputs, tuple(self.var(v) for v in node.outputs)))

    def _relayout(self, node: Node, target: Layout) -> None:
        source, out = node.inputs[0], node.output
        steps = plan_relayout(source.type, self.placed.layouts[source.name], target, self.placed.sizes)
        current = self.name(source)
        for i, step in enumerate(steps):
            if i == len(steps) - 1:
                var = self.var(out)
            else:
                var = Var(self.names.fresh(f"{out.name}.via"), self.type(out.type), step.layout)
            self.instrs.append(Instr(step.op, (current,), (Var(var.name, var.type, step.layout),)))
            current = var.name
        if not steps:
            self.renamed[out.name] = current

    def repeat(self, node: Node, op: Repeat, count: int, carried: Sequence[str] = ()) -> None:
        """The loop, with `count` iterations; `carried`: what takes the place of the first operands."""
        inputs = (*carried, *(self.name(v) for v in node.inputs[len(carried) :]))
        inner = Emitter(self.placed, self.names, self.part)
        params = tuple(inner.var(v) for v in op.body.inputs)
        for n in op.body.nodes:
            inner.node(n)
        body = Body(params, tuple(inner.instrs), tuple(inner.name(v) for v in op.body.outputs))
        loop = LocalRepeat(op.label, count, body, op.carries, op.stacks, op.reverse)
        self.instrs.append(Instr(loop, inputs, tuple(self.var(v) for v in node.outputs)))
