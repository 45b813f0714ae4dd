"""Equal computations once; ops that change nothing never."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.ops.base import Op
from compiler.ops.elementwise import Broadcast, Cast, Transpose
from compiler.ops.repeat import Repeat
from compiler.passes.copying import substituted
from compiler.passes.prune import prune


def only_cheap(op: Op) -> bool:
    """Constants, views and casts: nobody misses the name of the second one."""
    return op.cheap() or isinstance(op, Cast)


def anything(op: Op) -> bool:
    """Says whether equal nodes of this op may become one: all but loops, as a `mergeable` of `merge_equal`."""
    return not isinstance(op, Repeat)


def merge_equal(
    nodes: Iterable[Node], mergeable: Callable[[Op], bool], apart: Callable[[Node], object] = lambda _: None
) -> tuple[list[Node], dict[Value, Value]]:
    """Nodes with equal op and operands become one (the first), ops that change nothing go; likewise in bodies.

    Also returns what each value that went is replaced by. Nodes for which `apart` differs stay apart.
    """
    env: dict[Value, Value] = {}
    seen: dict[tuple[Op, tuple[Value, ...], object], Node] = {}
    kept: list[Node] = []
    for old in nodes:
        node = substituted(old, env)
        op = node.op
        if isinstance(op, Repeat):
            kept.append(_in_body(node, op, mergeable))
            continue
        if len(node.inputs) == 1 and isinstance(op, (Cast, Broadcast, Transpose)):
            (x,), (y,) = node.inputs, node.outputs
            if x.type == y.type:
                env[y] = x
                continue
        if mergeable(op):
            first = seen.setdefault((op, node.inputs, apart(node)), node)
            if first is not node:
                env.update(zip(node.outputs, first.outputs, strict=True))
                continue
        kept.append(node)
    return kept, env


def _in_body(node: Node, op: Repeat, mergeable: Callable[[Op], bool]) -> Node:
    body = op.body
    nodes, env = merge_equal(body.nodes, mergeable)
    outputs = tuple(env.get(v, v) for v in body.outputs)
    if len(nodes) == len(body.nodes) and all(a is b for a, b in zip(nodes, body.nodes)):
        return node
    smaller = replace(op, body=Graph(body.name, body.inputs, tuple(nodes), outputs))
    return Node(smaller, node.inputs, node.outputs, node.span)


def simplify(graph: Graph, keep: Sequence[Value] = ()) -> Graph:
    """Without dead code, and constants, views and casts that are the same only once. Names of what stays do not change.

    Dead code in `keep` stays.
    """
    nodes, env = merge_equal(graph.nodes, only_cheap)
    outputs = tuple(env.get(v, v) for v in graph.outputs)
    pruned = prune(Graph(graph.name, graph.inputs, tuple(nodes), (*outputs, *keep)))
    return Graph(graph.name, graph.inputs, pruned.nodes, outputs)
