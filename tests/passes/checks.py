"""What the tests of passes ask of forward and backward graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.graph import Graph
from compiler.model import Model
from compiler.passes.differentiate import Differentiated, differentiate
from compiler.strategy import RecomputeRule
from compiler.verify import verify_graphs
from tests.passes.models import Arrays, data_for, run_graph


def differentiated(model: Model, recomputes: Sequence[RecomputeRule] = (), **options: Any) -> Differentiated:
    """The pass, with its interface and both graphs verified."""
    assert verify_graphs([model.graph]) == ()
    d = differentiate(model, recomputes, **options)
    assert verify_graphs([d.forward, d.backward]) == ()
    given = {i.value for i in model.inputs} | {w.value for w in model.weights}
    plain = len(model.graph.outputs)
    assert d.forward.inputs == model.graph.inputs
    assert d.forward.outputs[plain:] == d.saved
    assert len(set(d.saved)) == len(d.saved)
    assert not set(d.saved) & given
    assert d.backward.outputs == d.gradients
    assert d.backward.inputs[: len(d.saved)] == d.saved
    assert [g.name for g in d.gradients] == [f"{w.name}.grad" for w in model.weights]
    assert [g.type for g in d.gradients] == [w.value.type for w in model.weights]
    return d


def gradients(d: Differentiated, given: Arrays, **more: Any) -> list[Any]:
    """Forward, then backward on what forward saved."""
    env = given | more
    env |= {v.name: a for v, a in zip(d.forward.outputs, run_graph(d.forward, given))}
    return run_graph(d.backward, env)


def slopes(graph: Graph, given: Arrays, name: str, direction: Any, eps: float = 1e-5) -> float:
    """The derivative of the first output along a direction of one input, by central differences."""
    high, low = (run_graph(graph, given | {name: given[name] + sign * eps * direction})[0] for sign in (1, -1))
    return float((high - low) / (2 * eps))


def agrees_with_differences(model: Model, *rules: RecomputeRule, seed: int = 0, tolerance: float = 2e-6) -> None:
    """Every gradient, along a random direction."""
    given = data_for(model, seed)
    rng = np.random.default_rng(seed + 1)
    for w, gradient in zip(model.weights, gradients(differentiated(model, rules), given), strict=True):
        direction = rng.normal(size=w.value.type.shape)
        expected = slopes(model.graph, given, w.name, direction)
        got = float((gradient * direction).sum())
        assert abs(got - expected) <= tolerance * max(1.0, abs(expected)), (w.name, got, expected)


def saved_bytes(d: Differentiated) -> int:
    return sum(v.type.bytes for v in d.saved)
