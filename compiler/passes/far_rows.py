"""Rows of tables that rest in another memory: what needs rows alone reads and renews them there, none of it moves.

A table is a weight that the model reads by `take` alone (perhaps in another dtype).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.memory.tiers import FIRST
from compiler.model import Model
from compiler.ops.elementwise import Cast
from compiler.ops.index import Take
from compiler.passes.copying import substituted


def tables(model: Model) -> frozenset[str]:
    """The names of the weights of which the model takes rows and nothing else, outside of loops."""
    readers: dict[Value, list[Node]] = {}
    for node in model.graph.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    kept = set(model.graph.outputs)

    def taken(value: Value) -> bool:
        mine = readers.get(value, [])
        return value not in kept and bool(mine) and all(_takes(n, value) or _cast_of(n, taken) for n in mine)

    return frozenset(w.name for w in model.weights if not w.loops and taken(w.value))


def _takes(node: Node, value: Value) -> bool:
    return isinstance(node.op, Take) and node.inputs[0] is value and node.inputs[1] is not value


def _cast_of(node: Node, taken: Callable[[Value], bool]) -> bool:
    return isinstance(node.op, Cast) and taken(node.output)


def casts_behind(nodes: Sequence[Node], tables: Collection[Value], names: Names) -> list[Node]:
    """The nodes, in which rows of tables are taken before they are cast, where all that is cast is taken from."""
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    early = {
        node.output: node
        for node in nodes
        if isinstance(node.op, Cast)
        and node.inputs[0] in tables
        and all(_takes(n, node.output) for n in readers.get(node.output, ()))
    }
    found: list[Node] = []
    for node in nodes:
        cast = early.get(node.inputs[0]) if isinstance(node.op, Take) else None
        if cast is not None:
            (result,) = node.outputs
            table = cast.inputs[0]
            type = result.type.with_dtype(table.type.dtype)
            taken = replace(result, name=names.fresh(f"{result.name}.rows"), type=type)
            found.append(replace(node, inputs=(table, node.inputs[1]), outputs=(taken,)))
            found.append(Node(cast.op, (taken,), (result,), cast.span))
        elif not (isinstance(node.op, Cast) and node.output in early):
            found.append(node)
    return found


def in_place_of(body: Graph, far: Mapping[int, str]) -> Graph | None:
    """A function whose parameters `far` (by number) rest in these memories; None where it needs more than rows."""
    env = {body.inputs[k]: replace(body.inputs[k], memory=memory) for k, memory in far.items()}
    nodes = list(_renewed(body.nodes, env))
    if any(v.memory != FIRST and n.far != i for n in nodes for i, v in enumerate(n.inputs)):
        return None
    inputs, outputs = (tuple(env.get(v, v) for v in row) for row in (body.inputs, body.outputs))
    return replace(body, inputs=inputs, nodes=tuple(nodes), outputs=outputs)


def _renewed(nodes: Sequence[Node], env: dict[Value, Value]) -> Iterator[Node]:
    """The nodes on what rests elsewhere; env: what stands for each value."""
    for node in nodes:
        yield renewed(substituted(node, env), env)


def renewed(node: Node, env: dict[Value, Value]) -> Node:
    """The node with its result where the table lies that it renews; env: gets what stands for it."""
    at = node.far
    if at is None or node.op.renews != at:
        return node
    new = replace(node.output, memory=node.inputs[at].memory)
    env[node.output] = new
    return replace(node, outputs=(new,))
