"""Copies of nodes under new names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.memory.tiers import FIRST
from compiler.ops.call import Call
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from compiler.program import ORIGINS
from compiler.walk import called

Rename = Callable[[Value], tuple[str, Origin]]
"""The name and the origin of a value's copy."""


def suffixed(suffix: str, phase: Phase | None = None) -> Rename:
    """Adds `suffix` to a name; the copy is for `phase`, or for what the original is for."""
    return lambda v: (v.name + suffix, _origin(v, phase))


def copy_value(value: Value, names: Names, rename: Rename) -> Value:
    """Makes the same tensor once more, under a fresh name, with the name and origin that `rename` gives."""
    name, origin = rename(value)
    return Value(names.fresh(name), value.type, value.span, origin, value.layout, value.memory)


def renamed(value: Value, name: str, phase: Phase | None = None) -> Value:
    """The same tensor under another name: in another graph, or (for `phase`) in another layout."""
    return Value(name, value.type, value.span, _origin(value, phase), value.layout, value.memory)


def here(value: Value, names: Names) -> Value:
    """What stands in device memory for a value that rests elsewhere."""
    return _moved(value, f"{value.name}.here", FIRST, names)


def away(value: Value, memory: str, names: Names) -> Value:
    """What rests in another memory of a value that was made here."""
    return _moved(value, f"{value.name}.away", memory, names)


def _moved(value: Value, name: str, memory: str, names: Names) -> Value:
    return Value(names.fresh(name), value.type, origin=ORIGINS[Phase.MOVED], layout=value.layout, memory=memory)


def _origin(value: Value, phase: Phase | None) -> Origin:
    """Of what is the same tensor as `value`."""
    old = value.origin
    return Origin(old.path, phase or old.phase, value.name if phase else old.of or value.name)


def copy_node(node: Node, env: MutableMapping[Value, Value], names: Names, rename: Rename) -> Node:
    """A copy whose values have new names; operands are looked up in `env`, results are added to it. What it calls
    stays as it is."""
    op = node.op
    if isinstance(op, Repeat):
        op = replace(op, body=copy_graph(op.body, names, rename))
    outputs = tuple([copy_value(v, names, rename) for v in node.outputs])
    env.update(zip(node.outputs, outputs, strict=True))
    return Node(op, tuple([env[v] for v in node.inputs]), outputs, node.span)


def copy_graph(graph: Graph, names: Names, rename: Rename) -> Graph:
    """A copy in which every value is new."""
    env: dict[Value, Value] = {v: copy_value(v, names, rename) for v in graph.inputs}
    inputs = tuple(env[v] for v in graph.inputs)
    nodes = tuple(copy_node(n, env, names, rename) for n in graph.nodes)
    return Graph(graph.name, inputs, nodes, tuple(env[v] for v in graph.outputs))


def laid(graph: Graph, values: Mapping[str, Value]) -> Graph:
    """The graph with other values of the same names."""
    functions = {id(g): laid(g, values) for g in called(graph.nodes)}

    def node(n: Node) -> Node:
        op = n.op
        if isinstance(op, Repeat):
            op = replace(op, body=laid(op.body, values))
        elif isinstance(op, Call):
            op = replace(op, body=functions[id(op.body)])
        inputs, outputs = ([values[v.name] for v in row] for row in (n.inputs, n.outputs))
        return Node(op, tuple(inputs), tuple(outputs), n.span)

    inputs, outputs = ([values[v.name] for v in row] for row in (graph.inputs, graph.outputs))
    return Graph(graph.name, tuple(inputs), tuple(map(node, graph.nodes)), tuple(outputs))


def substituted(node: Node, env: Mapping[Value, Value]) -> Node:
    """The node with some operands replaced; the same node if none is."""
    inputs = tuple([env.get(v, v) for v in node.inputs])
    if all([a is b for a, b in zip(inputs, node.inputs)]):
        return node
    return Node(node.op, inputs, node.outputs, node.span)


def expanded(nodes: Iterable[Node], names: Names) -> list[Node]:
    """The nodes with what each call does in its place, under names after what that is done for."""
    found: list[Node] = []
    for node in nodes:
        op = node.op
        if not isinstance(op, Call):
            found.append(node)
            continue
        inner = dict(zip(op.body.inputs, node.inputs, strict=True))
        results = dict(zip(reversed(op.body.outputs), reversed(node.outputs), strict=True))
        for n in op.body.nodes:
            copy = copy_node(n, inner, names, after(op.at))
            outputs = tuple(results.get(v, made) for v, made in zip(n.outputs, copy.outputs, strict=True))
            inner.update(zip(n.outputs, outputs, strict=True))
            found.append(Node(copy.op, copy.inputs, outputs, copy.span))
        for v, out in zip(op.body.outputs, node.outputs, strict=True):
            if inner[v] is not out:  # it gives an operand, or a value twice
                found.append(Node(Cast(out.type.dtype), (inner[v],), (out,), node.span))
    return found


def after(path: str) -> Rename:
    """Puts a path in front of a name; the copy is of what is there."""
    return lambda v: (f"{path}.{v.name}", Origin(path, v.origin.phase, path))
