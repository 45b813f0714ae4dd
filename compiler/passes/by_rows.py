"""`by_rows`: an optimizer that treats every row of a table by itself, for those rows alone that a list names."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.ops.base import Op
from compiler.ops.create import Full
from compiler.ops.elementwise import Map
from compiler.ops.rows import ReadRows
from compiler.passes.sparse import SparseGradient
from dsl.data import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class ByRows:
    """graph.inputs = step, weight, rows of the gradient, states…, the rows' numbers; graph.outputs = rows of the new
    weight, of new states; before: the same rows of the old ones."""

    graph: Graph
    before: tuple[Value, ...]

    @property
    def numbers(self) -> Value:
        """Those of the rows."""
        return self.graph.inputs[-1]


def by_rows(graph: Graph, table: SparseGradient) -> ByRows:
    """The optimizer `graph` (of which `zero_preserving.why_not` has nothing to say) on rows."""
    dim, slot = table.dim.name, table.slot
    step, weight, gradient, *rest = graph.inputs
    states, asked = rest[: len(graph.outputs) - 1], rest[len(graph.outputs) - 1 :]
    numbers = Value(f"{graph.name}.numbers", Type("int32", (slot,)))
    rows = replace(gradient, type=table.rows_of(gradient.type))
    env: dict[Value, Value] = {step: step, gradient: rows}
    nodes: list[Node] = []
    for v in (weight, *states):
        env[v] = Value(f"{v.name}.rows", table.rows_of(v.type), v.span, v.origin)
        pieces = table.pieces if v is weight else table.parts
        nodes.append(Node(ReadRows(dim, table.parts, pieces), (v, numbers), (env[v],)))
    before = tuple(env[v] for v in (weight, *states))
    for v in asked:  # these rows are those that the step has taken
        env[v] = Value(v.name, table.rows_of(v.type), v.span, v.origin)
        nodes.append(Node(Full(1.0, "bool", env[v].type.dims), (), (env[v],)))
    for node in graph.nodes:
        if asked and isinstance(node.op, Map) and node.op.fn == "where" and node.inputs[0] in asked:
            new = node.inputs[1] if node.op.slots[1] is None else None
            if new is not None and new.type == node.output.type:
                env[node.output] = env[new]
                continue
        outputs = tuple(replace(v, type=table.rows_of(v.type)) for v in node.outputs)
        nodes.append(Node(_with_dim(node.op, dim, slot), tuple(env[v] for v in node.inputs), outputs, node.span))
        env.update(zip(node.outputs, outputs, strict=True))
    inputs = (step, weight, rows, *states, numbers)
    return ByRows(Graph(graph.name, inputs, tuple(nodes), tuple(env[v] for v in graph.outputs)), before)


def _with_dim(op: Op, dim: str, slot: Dim) -> Op:
    """The op with another dim in the place of `dim`, wherever its attributes name that."""

    def other(value: Any) -> Any:
        if isinstance(value, Dim):
            return slot if value.name == dim else value
        if isinstance(value, tuple):
            return tuple(map(other, value))
        return value

    changed = {}
    for f in fields(op):
        value = getattr(op, f.name)
        if "Dim" in str(f.type):
            changed[f.name] = other(value)
        elif f.name == "dims":
            changed[f.name] = tuple(slot.name if n == dim else n for n in value)
    return replace(op, **changed) if changed else op
