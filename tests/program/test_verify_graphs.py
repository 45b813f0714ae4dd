"""Every rule of the table catches what it is there for, in bodies of loops too."""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.comm import Relayout
from compiler.ops.effects import Read
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.verify import UNPLACED, Laws, verify_graphs
from tests.passes.models import gpt, repeats

B = Dim("b", 2)
T = Type("f32", (B,))


def broken(*graphs: Graph, laws: Laws = UNPLACED) -> str:
    return "\n".join(map(str, verify_graphs(graphs, laws)))


def chain() -> tuple[Value, Node, Node]:
    x, y, z = Value("x", T), Value("y", T), Value("z", T)
    return x, Node(Map("exp", (None,)), (x,), (y,)), Node(Map("sin", (None,)), (y,), (z,))


def test_a_good_graph_passes() -> None:
    x, first, second = chain()
    assert broken(Graph("g", (x,), (first, second), second.outputs)) == ""
    assert broken(gpt().graph) == ""


def test_names() -> None:
    x, first, second = chain()
    twin = Node(first.op, (x,), (Value("y", T),))
    assert "%y is defined twice" in broken(Graph("g", (x,), (first, twin, second), second.outputs))


def test_order() -> None:
    x, first, second = chain()
    assert "%y is not defined before" in broken(Graph("g", (x,), (second, first), second.outputs))


def test_outputs() -> None:
    x, first, _ = chain()
    assert "puts out %w, which is not defined" in broken(Graph("g", (x,), (first,), (Value("w", T),)))


def test_types() -> None:
    x, first, _ = chain()
    wrong = Node(first.op, (x,), (Value("y", Type("f64", (B,))),))
    assert "the results are f32[b=2], stated f64[b=2]" in broken(Graph("g", (x,), (wrong,), wrong.outputs))


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
    assert f"%{stray.name} is not defined before" in broken(Graph("g", graph.inputs, nodes, graph.outputs))


def test_loops() -> None:
    graph = gpt().graph
    (loop,) = repeats(graph)
    assert isinstance(loop.op, Repeat)
    for op, text in (
        (replace(loop.op, count=0), "`count` is 0"),
        (replace(loop.op, stacks=99), "do not go with the body"),
    ):
        nodes = tuple(Node(op, n.inputs, n.outputs) if n is loop else n for n in graph.nodes)
        assert text in broken(Graph("g", graph.inputs, nodes, graph.outputs))


def test_names_across_graphs() -> None:
    x, first, _ = chain()
    one = Graph("one", (x,), (first,), first.outputs)
    assert broken(one, one) == ""
    assert "two: %y is another value" in broken(one, Graph("two", (Value("y", T),), (), ()))


def test_ops_of_later_stages() -> None:
    x, first, _ = chain()
    later = Node(Relayout(Layout((("dp",),))), (x,), first.outputs)
    assert "no op relayout in graphs" in broken(Graph("g", (x,), (later,), later.outputs))
    placed = replace(x, layout=Layout(((),)))
    effect = Node(Read("w"), (), (replace(placed, name="w"),))
    assert "no op read in placed graphs" in broken(Graph("g", (), (effect,), ()), laws=PLACED)


def laid(name: str, *axes: str, pending: tuple[tuple[str, str], ...] = ()) -> Value:
    return Value(name, T, layout=Layout((axes,), pending))


PLACED = Laws.placed({"dp": 2})


def test_layouts_follow_once_there_are_some() -> None:
    x, y = laid("x", "dp"), laid("y", "dp")
    exp = Node(Map("exp", (None,)), (x,), (y,))
    assert broken(Graph("g", (x,), (exp,), (y,)), laws=PLACED) == ""
    worse = Node(exp.op, (x,), (laid("y"),))
    assert "E0614" in broken(Graph("g", (x,), (worse,), worse.outputs), laws=PLACED)
    unknown = laid("x", "tp")
    assert "tp is no axis" in broken(Graph("g", (unknown,), (), ()), laws=PLACED)
    part = laid("x", pending=(("dp", "sum"),))
    assert "E0615" in broken(Graph("g", (part,), (Node(exp.op, (part,), (laid("y"),)),), ()), laws=PLACED)


def test_changes_of_layout() -> None:
    x, y = laid("x", "dp"), laid("y")
    whole = Layout(((),))
    assert broken(Graph("g", (x,), (Node(Relayout(whole), (x,), (y,)),), (y,)), laws=PLACED) == ""
    assert "E0617" in broken(Graph("g", (x,), (Node(Relayout(x.layout), (x,), (y,)),), (y,)), laws=PLACED)
    sums = laid("z", pending=(("dp", "max"),))
    assert "no way from" in broken(Graph("g", (x,), (Node(Relayout(sums.layout), (x,), (sums,)),), ()), laws=PLACED)
