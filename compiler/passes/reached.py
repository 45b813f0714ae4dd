"""Which values the loss's derivative reaches: those that it depends on by ops that pass a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compiler.graph import Node, Value
from compiler.ops.repeat import Repeat


def reached(nodes: Sequence[Node], results: Iterable[Value]) -> set[Value]:
    """The float values that a cotangent of `results` comes to (see `transpose`), those included."""
    found = set(results)
    for node in reversed(nodes):
        if not any(v in found for v in node.outputs):
            continue
        if isinstance(node.op, Repeat):
            found.update(_of_loop(node, node.op, found))
        else:
            found.update(v for i, v in enumerate(node.inputs) if v.type.is_float and node.op.differentiable(i))
    return found


def _of_loop(node: Node, op: Repeat, found: set[Value]) -> list[Value]:
    """The loop's operands that a cotangent comes to: a carry's goes round, to whatever iteration reads it."""
    body = op.body
    wanted = {i for i, v in enumerate(node.outputs) if v in found}
    while True:
        inside = reached(body.nodes, [body.outputs[i] for i in wanted])
        more = {i for i in range(op.carries) if body.inputs[i] in inside} - wanted
        if not more:
            return [v for v, p in zip(node.inputs, body.inputs, strict=True) if v.type.is_float and p in inside]
        wanted |= more
