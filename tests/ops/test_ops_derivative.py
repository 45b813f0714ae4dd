"""Derivatives against finite differences in float64: the graph that `vjp` writes, run by the serial interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import Builder, Names, Value
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.derivatives import vjp
from compiler.ops.elementwise import Map, StopGradient
from compiler.ops.packed import Dequantise, Expand
from compiler.ops.reduce import Reduce
from compiler.ops.registry import COMPUTE
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from runtime.prove.serial import run_graph

from .rows import ROWS, Row, T, run

EPS = 1e-6


def gradients(op: Op, values: list[np.ndarray], ins: tuple, cotangents: list[np.ndarray], same: bool = False) -> list:
    """What vjp's graph computes for each operand (None where it gives none)."""
    b = Builder(Names())
    operands = [b.value("x", ins[0])] * len(ins) if same else [b.value("x", t) for t in ins]
    outputs = b.add_many(op, *operands)
    seeds = [b.value("g", v.type) if v.type.is_float else None for v in outputs]
    grads = vjp(op, b, operands, outputs, seeds)
    for g, x in zip(grads, operands):
        assert g is None or g.type == x.type
    found = [g for g in grads if g is not None]
    inputs: list[Value] = [*dict.fromkeys(operands), *(s for s in seeds if s is not None)]
    env = dict(zip((v.name for v in inputs), [*(values[:1] if same else values), *cotangents]))
    results = iter(run_graph(b.graph("grad", inputs, found), env))
    return [None if g is None else next(results) for g in grads]


def numeric(op: Op, ins: tuple, values: list[np.ndarray], cotangents: list[np.ndarray], i: int) -> np.ndarray:
    def total(x: np.ndarray) -> float:
        outs = [r for r in run(op, ins, [*values[:i], x, *values[i + 1 :]]) if r.dtype.kind == "f"]
        return float(sum((r.astype(np.float64) * c).sum() for r, c in zip(outs, cotangents)))

    out = np.zeros_like(values[i])
    for at in np.ndindex(out.shape):
        step = np.zeros_like(out)
        step[at] = EPS
        out[at] = (total(values[i] + step) - total(values[i] - step)) / (2 * EPS)
    return out


SMOOTH = [
    r
    for r in ROWS
    if any(t.dtype == "f64" for t in r.ins)
    and all(t.dtype == "f64" for t in r.outs if t.is_float)
    and not isinstance(r.op, StopGradient | UniqueRows | ReadRows | WriteRows)  # no backward pass has these
    and not isinstance(r.op, Dequantise | Expand)  # what rests in words is not trained
]


@pytest.mark.parametrize("row", SMOOTH, ids=str)
def test_derivative(row: Row) -> None:
    values = row.data(3)
    rng = np.random.default_rng(4)
    cotangents = [rng.standard_normal(t.shape) for t in row.outs if t.is_float]
    found = gradients(row.op, values, row.ins, cotangents)
    for i, t in enumerate(row.ins):
        want = numeric(row.op, row.ins, values, cotangents, i) if t.is_float else None
        if found[i] is None:
            assert want is None or not want.any()
        else:
            assert want is not None
            np.testing.assert_allclose(found[i], want, rtol=2e-6, atol=2e-8)


def test_every_op_of_floats_is_differentiated() -> None:
    without = {"stop_gradient", "iota", "full", "random", "normal", "unique_rows", "read_rows", "write_rows"}
    without |= {"dequantise", "expand", "integers", "pack"}
    assert {type(r.op) for r in SMOOTH} == {c for c in COMPUTE if c.mnemonic not in without}


@pytest.mark.parametrize(
    "op", [Map("mul", (None, None)), Contract(("b",)), Contract(()), Map("add", (None, None))], ids=str
)
def test_an_operand_used_twice(op: Op) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2))
    types = (T(b=3, d=2),) * 2
    (out,) = op.infer(*types)
    c = np.random.default_rng(1).standard_normal(out.shape)
    found = sum(g for g in gradients(op, [x], types, [c], same=True) if g is not None)
    want = sum(numeric(op, types, [x, x], [c], i) for i in range(2))
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("row", [r for r in ROWS if any(t.is_float for t in r.ins)], ids=str)
def test_what_a_gradient_reaches(row: Row) -> None:
    """`differentiable` says of which operands `vjp` makes a cotangent."""
    b = Builder(Names())
    operands = [b.value("x", t) for t in row.ins]
    outputs = b.add_many(row.op, *operands)
    seeds = [b.value("g", v.type) if v.type.is_float else None for v in outputs]
    found = vjp(row.op, b, operands, outputs, seeds)
    reaches = any(s is not None for s in seeds)
    told = [t.is_float and reaches and row.op.differentiable(i) for i, t in enumerate(row.ins)]
    assert told == [g is not None for g in found]


def test_stop_gradient_stops() -> None:
    assert gradients(StopGradient(), [np.ones(2)], (T(d=2),), [np.ones(2)]) == [None]


def test_equal_maxima_share_the_gradient() -> None:
    x = np.array([[3.0, 1.0, 3.0], [2.0, 5.0, 4.0]])
    (g,) = gradients(Reduce("max", ("d",)), [x], (T(b=2, d=3),), [np.array([4.0, 7.0])])
    np.testing.assert_array_equal(g, [[2, 0, 2], [0, 7, 0]])


@pytest.mark.parametrize("fn", ["maximum", "minimum"])
def test_equal_operands_share_the_gradient(fn: str) -> None:
    types = (T(d=2),) * 2
    found = gradients(Map(fn, (None, None)), [np.ones(2), np.ones(2)], types, [np.full(2, 4.0)])
    np.testing.assert_array_equal(found, [[2, 2], [2, 2]])


def test_infinite_operands_of_maximum() -> None:
    """Masks are -inf: no nan may come from their difference."""
    x, y = np.array([-np.inf, -np.inf]), np.array([-np.inf, 1.0])
    found = gradients(Map("maximum", (None, None)), [x, y], (T(d=2),) * 2, [np.array([2.0, 3.0])])
    np.testing.assert_array_equal(found, [[1, 0], [1, 3]])
