"""Ways through a graph and the bodies of the loops in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat


def bodies(graph: Graph) -> Iterator[Graph]:
    """The graph and the bodies of all loops in it, outer ones first."""
    yield graph
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            yield from bodies(node.op.body)


def walk(graph: Graph, times: int = 1) -> Iterator[tuple[Node, int]]:
    """Every node in order, a loop before those inside it, and how often it runs where the graph runs `times`."""
    for node in graph.nodes:
        yield node, times
        if isinstance(node.op, Repeat):
            yield from walk(node.op.body, times * node.op.count)


def graph_values(graph: Graph) -> Iterator[Value]:
    """Every value of the graph and of the bodies in it, inputs first."""
    yield from graph.inputs
    yield from node_values(graph.nodes)


def node_values(nodes: Sequence[Node]) -> Iterator[Value]:
    """Every value that the nodes compute, and all of their bodies."""
    for node in nodes:
        if isinstance(node.op, Repeat):
            yield from graph_values(node.op.body)
        yield from node.outputs
