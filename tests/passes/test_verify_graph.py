"""Every rule of the table catches what it is there for, in bodies of loops too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.passes.verify_graph import GraphError, verify_graph, verify_names
from tests.passes.models import gpt, repeats

B = Dim("b", 2)
T = Type("f32", (B,))


def broken(graph: Graph) -> str:
    with pytest.raises(GraphError) as caught:
        verify_graph(graph)
    return str(caught.value)


def chain() -> tuple[Value, Node, Node]:
    x, y, z = Value("x", T), Value("y", T), Value("z", T)
    return x, Node(Map("exp", (None,)), (x,), (y,)), Node(Map("sin", (None,)), (y,), (z,))


def test_a_good_graph_passes() -> None:
    x, first, second = chain()
    verify_graph(Graph("g", (x,), (first, second), second.outputs))
    verify_graph(gpt().graph)


def test_names() -> None:
    x, first, second = chain()
    twin = Node(first.op, (x,), (Value("y", T),))
    assert "%y is defined twice" in broken(Graph("g", (x,), (first, twin, second), second.outputs))


def test_order() -> None:
    x, first, second = chain()
    assert "uses %y before" in broken(Graph("g", (x,), (second, first), second.outputs))


def test_outputs() -> None:
    x, first, _ = chain()
    assert "puts out %w" in broken(Graph("g", (x,), (first,), (Value("w", T),)))


def test_types() -> None:
    x, first, _ = chain()
    wrong = Node(first.op, (x,), (Value("y", Type("f64", (B,))),))
    assert "states f64[b=2], its op gives f32[b=2]" in broken(Graph("g", (x,), (wrong,), wrong.outputs))


def test_operands_that_the_op_refuses() -> None:
    x = Value("x", Type("bool", (B,)))
    node = Node(Map("exp", (None,)), (x,), (Value("y", T),))
    assert "not defined for bool" in broken(Graph("g", (x,), (node,), node.outputs))


def test_dims() -> None:
    x = Value("x", Type("f32", (B, B)))
    assert "is not a tensor" in broken(Graph("g", (x,), (), (x,)))


def test_bodies_see_their_parameters_only() -> None:
    graph = gpt().graph
    (loop,) = repeats(graph)
    assert isinstance(loop.op, Repeat)
    body = loop.op.body
    stray = graph.inputs[-1]
    node = Node(Map("exp", (None,)), (stray,), (Value("stray", stray.type),))
    worse = replace(loop.op, body=Graph(body.name, body.inputs, (*body.nodes, node), body.outputs))
    nodes = tuple(Node(worse, n.inputs, n.outputs) if n is loop else n for n in graph.nodes)
    assert f"uses %{stray.name} before" in broken(Graph("g", graph.inputs, nodes, graph.outputs))


def test_loops() -> None:
    graph = gpt().graph
    (loop,) = repeats(graph)
    assert isinstance(loop.op, Repeat)
    for op, text in ((replace(loop.op, count=0), "runs 0 times"), (replace(loop.op, stacks=99), "99 stacks")):
        nodes = tuple(Node(op, n.inputs, n.outputs) if n is loop else n for n in graph.nodes)
        assert text in broken(Graph("g", graph.inputs, nodes, graph.outputs))


def test_names_across_graphs() -> None:
    x, first, _ = chain()
    one = Graph("one", (x,), (first,), first.outputs)
    verify_names(one, one)
    with pytest.raises(GraphError, match="%y is another value"):
        verify_names(one, Graph("two", (Value("y", T),), (), ()))
