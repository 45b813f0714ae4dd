"""Ways through a graph, the bodies of the loops in it and the functions that it calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat


def called(nodes: Iterable[Node]) -> list[Graph]:
    """The functions that the nodes call, each once."""
    return list({id(n.op.body): n.op.body for n in nodes if isinstance(n.op, Call)}.values())


def bodies(graph: Graph) -> Iterator[Graph]:
    """The graph, the bodies of all loops in it, and what it calls (once), outer ones first."""
    yield graph
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            yield from bodies(node.op.body)
    for function in called(graph.nodes):
        yield from bodies(function)


def walk(graph: Graph, times: int = 1, calls: bool = True) -> Iterator[tuple[Node, int]]:
    """Every node in order, a loop before those inside it, and how often it runs where the graph runs `times`.

    calls: whether what is called is walked, too, at each call.
    """
    for node in graph.nodes:
        yield node, times
        if isinstance(node.op, Repeat):
            yield from walk(node.op.body, times * node.op.count, calls)
        elif calls and isinstance(node.op, Call):
            yield from walk(node.op.body, times)


def graph_values(graph: Graph) -> Iterator[Value]:
    """Every value of the graph and of the bodies in it, inputs first."""
    yield from graph.inputs
    yield from node_values(graph.nodes)


def node_values(nodes: Sequence[Node]) -> Iterator[Value]:
    """Every value that the nodes compute, and all of their bodies: those of a function once."""
    functions = {id(g) for g in called(nodes)}
    for node in nodes:
        if isinstance(node.op, Repeat):
            yield from graph_values(node.op.body)
        elif isinstance(node.op, Call) and id(node.op.body) in functions:
            functions.remove(id(node.op.body))
            yield from graph_values(node.op.body)
        yield from node.outputs
