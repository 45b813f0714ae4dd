"""An implementation by itself against the scope that it replaces: results and derivatives, on numbers made up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.graph import Type
from compiler.implement.alone import ScopeAlone
from compiler.model import Model
from compiler.passes.differentiate import differentiate
from dsl.data import dataclass
from runtime.numpy import STORAGE, CallContext
from runtime.prove.compare import Array, compare
from runtime.prove.serial import run_graph

RELATIVE = 1e-9
"""How far both may be apart, in f64, relative to a tensor's largest value."""


@dataclass(frozen=True, slots=True)
class Differs:
    """A tensor of an implementation that is not the scope's: a result, or the derivative of an operand (`of`)."""

    name: str
    derivative: bool
    error: float


def differences(found: ScopeAlone, seed: int = 0) -> tuple[Differs, ...]:
    """What is not the same: nothing, if the implementation is right. The job has to be one of f64."""
    rng = np.random.default_rng(seed)
    bounds = {i.value.name: (i.low or 0, i.high) for i in found.written.inputs if i.high is not None}
    given = {v.name: _drawn(v.type, rng, *bounds.get(v.name, (0, 3))) for v in found.written.graph.inputs}
    before, after = (_computed(m, given) for m in (found.written, found.implemented))
    rows = []
    for (name, derivative), value in before.items():
        compared = compare(value, after[name, derivative], RELATIVE)
        if not compared.ok:
            rows.append(Differs(name, derivative, compared.error))
    return tuple(rows)


def _drawn(type: Type, rng: np.random.Generator, low: int, high: int) -> Array:
    """Numbers of a type; integers from low to high, which is not among them."""
    if type.dtype == "bool":
        return rng.integers(0, 2, type.shape).astype(np.bool_)
    if not type.is_float:
        return rng.integers(low, high, type.shape).astype(STORAGE[type.dtype])
    return np.asarray(rng.standard_normal(type.shape), STORAGE[type.dtype])


def _computed(model: Model, given: Mapping[str, Array]) -> dict[tuple[str, bool], Array]:
    """Results, and derivatives by the operands, by name."""
    made = differentiate(model)
    ctx = CallContext()
    outputs = run_graph(made.forward, given, ctx)
    env = {**given, **{v.name: x for v, x in zip(made.forward.outputs, outputs, strict=True)}}
    gradients = run_graph(made.backward, env, ctx)
    found = {(name, False): x for name, x in zip(model.outputs, outputs[1:], strict=False)}
    return found | {(w.name, True): x for w, x in zip(model.weights, gradients, strict=True)}
