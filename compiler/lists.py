"""Which of an update's operands are lists of rows, as its `unique_rows` take them in."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.graph import Graph, Value
from compiler.ops.rows import UniqueRows


def row_lists(update: Graph) -> Iterator[tuple[UniqueRows, Value, list[str]]]:
    """Each such op, the rows that it makes, and the names of the inputs that it takes in, in whatever layout: rows and
    numbers by turns."""
    inputs = {v.name for v in update.inputs}
    before: dict[str, str] = {}
    for node in update.nodes:
        if isinstance(node.op, UniqueRows):
            yield node.op, node.outputs[0], [before.get(v.name, v.name) for v in node.inputs]
        elif len(node.inputs) == 1 and len(node.outputs) == 1:
            name = before.get(node.inputs[0].name, node.inputs[0].name)
            if name in inputs:
                before[node.outputs[0].name] = name
