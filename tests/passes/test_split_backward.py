"""Backward in two parts: together what the whole computes, the urgent one without the weights' gradients."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import Builder, Dim, Graph, Names, Type, Value
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.passes.split_backward import split_backward
from compiler.strategy import RecomputeRule
from compiler.verify import verify_graphs
from tests.passes.checks import differentiated
from tests.passes.models import data_for, gpt, repeats, run_graph
from tests.passes.test_differentiate import nested, rnn
from tests.passes.test_recompute import contractions


def halves(graph: Graph, urgent: list[Value]) -> tuple[Graph, Graph, tuple[Value, ...]]:
    first, second, crossing, _ = split_backward(graph, urgent)
    assert verify_graphs([first, second]) == ()
    assert first.outputs == (*urgent, *crossing)
    assert second.inputs[: len(crossing)] == crossing
    assert [v.name for v in second.outputs] == [v.name for v in graph.outputs if v not in urgent]
    return first, second, crossing


def backward_with(model: Model, *rules: RecomputeRule) -> tuple[Graph, list[Value], dict[str, np.ndarray]]:
    """The backward graph with the cotangent of `x` before the loop put out too, and arrays for its inputs."""
    d = differentiated(model, rules)
    found = [v for n in d.backward.nodes for v in n.outputs if v.name == "x.grad"]
    graph = Graph(d.backward.name, d.backward.inputs, d.backward.nodes, (*found, *d.gradients))
    given = data_for(model)
    saved = dict(zip((v.name for v in d.forward.outputs), run_graph(d.forward, given)))
    return graph, found, given | saved


@pytest.mark.parametrize(
    "rules",
    [(), (RecomputeRule("block"),), (RecomputeRule(),), (RecomputeRule("block.attention"),)],
    ids=["saved", "block", "everything", "attention"],
)
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
def test_the_parts_make_the_whole(rules: tuple[RecomputeRule, ...], dropout: bool) -> None:
    graph, urgent, given = backward_with(gpt(dropout=dropout), *rules)
    first, second, _ = halves(graph, urgent)
    whole = run_graph(graph, given)
    early = run_graph(first, given)
    late = run_graph(second, given | dict(zip((v.name for v in first.outputs), early)))
    for a, b in zip(whole, [*early[: len(urgent)], *late], strict=True):
        assert np.array_equal(a, b)


def test_weight_gradients_are_late() -> None:
    """In a block: seven products for the cotangents are urgent, six for the weights are not."""
    graph, urgent, _ = backward_with(gpt())
    first, second, _ = halves(graph, urgent)
    (early,), (late,) = repeats(first), repeats(second)
    assert isinstance(early.op, Repeat) and isinstance(late.op, Repeat)
    assert early.op.carries == 1 and late.op.carries == 0
    assert early.op.reverse and late.op.reverse
    weights = [n for n in late.op.body.nodes if isinstance(n.op, Contract) and len(n.output.type.dims) == 2]
    assert len(weights) == 6
    assert contractions(first) + contractions(second) == contractions(graph)
    assert {v.name for v in late.outputs} >= {"block.attention.wq.grad", "block.mlp.w2.grad"}


def test_what_both_need_of_forward_does_not_cross() -> None:
    graph, urgent, _ = backward_with(gpt())
    _, _, crossing = halves(graph, urgent)
    assert not set(crossing) & set(graph.inputs)


@pytest.mark.parametrize("model", [rnn(), nested()], ids=["rnn", "nested"])
def test_shared_weights_add_up_late(model: Model) -> None:
    """Sums over the iterations are carries of the late loop only."""
    d = differentiated(model)
    loop = next(n for n in d.backward.nodes if isinstance(n.op, Repeat))
    urgent = [v for v in loop.outputs if v not in d.gradients][:1]
    graph = Graph("backward", d.backward.inputs, d.backward.nodes, (*urgent, *d.gradients))
    given = data_for(model)
    given |= dict(zip((v.name for v in d.forward.outputs), run_graph(d.forward, given)))
    first, second, _ = halves(graph, urgent)
    whole = run_graph(graph, given)
    early = run_graph(first, given)
    late = run_graph(second, given | dict(zip((v.name for v in first.outputs), early)))
    for a, b in zip(whole[len(urgent) :], late, strict=True):
        assert np.array_equal(a, b)


def test_an_output_that_the_first_part_has_passes_through() -> None:
    names = Names()
    b = Builder(names)
    x = b.value("x", Type("f64", (Dim("b", 2),)))
    y = b.add(Map("exp", (None,)), x, name="y")
    z = b.add(Map("sin", (None,)), y, name="z")
    w = b.add(Map("cos", (None,)), x, name="w")
    first, second, crossing = halves(b.graph("g", (x,), (z, y, w)), [z])
    assert crossing == (y,)
    assert first.outputs == (z, y)
    assert second.outputs == (y, w)


def test_nothing_urgent() -> None:
    graph, _, _ = backward_with(gpt())
    first, second, crossing = halves(graph, [])
    assert not first.nodes and not crossing
    assert len(second.nodes) == len(graph.nodes)


def test_everything_urgent() -> None:
    graph, _, _ = backward_with(gpt())
    first, second, crossing = halves(graph, list(graph.outputs))
    assert len(first.nodes) == len(graph.nodes)
    assert not second.nodes and not crossing
