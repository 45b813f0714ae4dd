"""Kernels: exactness on small integers, rounding of narrow floats, odd indices, precision; and initial values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compiler.graph import Dim
from compiler.model import Init
from compiler.ops.contract import Contract
from compiler.ops.create import Random
from compiler.ops.elementwise import Map
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Reduce, TopK
from runtime.numpy.elementwise import erf
from runtime.numpy.index import add_rows
from runtime.numpy.initial import init_array

from .rows import ROWS, D, Row, T, run

EXACT = [r for r in ROWS if r.op.linear(len(r.ins)) and r.op.mnemonic not in ("map", "cast")]


@pytest.mark.parametrize("row", EXACT, ids=str)
def test_small_integers_are_exact_in_every_dtype(row: Row) -> None:
    arrays = row.data(3, integers=True)
    want = run(row.op, row.ins, arrays)[0]
    for dtype in ("f32", "bf16", "f16"):
        ins = tuple(t.with_dtype(dtype) if t.is_float else t for t in row.ins)
        held = [a.astype(np.float32) if t.is_float else a for a, t in zip(arrays, ins)]
        got = run(row.op, ins, held)[0]
        if np.abs(want).max() <= 256:
            np.testing.assert_array_equal(got, want)


def test_sums_of_narrow_floats_are_carried_in_float32() -> None:
    n = 1000  # 1 + 1/256 is not a bf16 number, and counting by ones in bf16 would stop at 256
    x = np.ones(n, np.float32)
    assert run(Reduce("sum", ("d",)), (T("bf16", d=n),), [x])[0] == 1000
    assert run(Contract(()), (T("bf16", d=n), T("bf16", d=n)), [x, x])[0] == 1000
    assert run(Map("add", (None, 2.0**-8)), (T("bf16", d=1),), [x[:1]])[0] == 1
    # 256 by index_add and the gradients of embedding in PyTorch 2.13 on CPU, and by JAX 0.10: rounded at every row.
    rows = (T("bf16", i=n), T("int32", i=n))
    assert run(ScatterAdd(Dim("v", 2), ("v",)), rows, [x, np.zeros(n, np.int32)])[0].tolist() == [1000, 0]


def test_erf_to_the_precision_of_the_dtype() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [np.inf, -np.inf, 0.0, 1e-300]])
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(erf(x), want, rtol=4e-16, atol=3e-16)
    np.testing.assert_allclose(erf(x.astype(np.float32)), want, rtol=2e-6, atol=1e-9)
    assert np.isnan(erf(np.array([np.nan]))).all()


def test_indices_outside_the_table() -> None:
    index = np.array([-1, 0, 2, 3, 2**31 - 1, -(2**31)], np.int32)
    table = np.arange(1.0, 7.0).reshape(3, 2)
    (taken,) = run(Take("v"), (T(v=3, d=2), T("int32", i=6)), [table, index])
    np.testing.assert_array_equal(taken, [[0, 0], [1, 2], [5, 6], [0, 0], [0, 0], [0, 0]])
    (added,) = run(ScatterAdd(Dim("v", 3), ("v",)), (T(i=6), T("int32", i=6)), [np.ones(6), index])
    np.testing.assert_array_equal(added, [1, 0, 1])


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("count", [5, 200])
@pytest.mark.parametrize("rows", [0, 1, 50])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_add_rows(width: int, count: int, rows: int, dtype: type) -> None:
    rng = np.random.default_rng(rows)
    values, keys = rng.integers(-9, 9, (rows, width)).astype(dtype), rng.integers(0, count, rows)
    want = np.zeros((count, width), dtype)
    np.add.at(want, keys, values)
    got = add_rows(values, keys, count)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
def test_random_is_uniform_and_below_one(dtype: str) -> None:
    (x,) = run(Random("s", dtype, D(b=100, d=1000)), (T("int32"),), [np.array(1, np.int32)])
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 0.005 and abs(x.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(x[:, :-1].ravel(), x[:, 1:].ravel())[0, 1]) < 0.01


def test_random_differs_by_stream_step_and_index() -> None:
    def draw(stream: str, *scalars: int) -> bytes:
        operands = [np.array(s, np.int32) for s in scalars]
        return run(Random(stream, "f64", D(d=4)), (T("int32"),) * len(scalars), operands)[0].tobytes()

    draws = [draw("a", 0), draw("a", 1), draw("b", 0), draw("a", 0, 0), draw("a", 0, 1), draw("a", 1, 0)]
    assert len(set(draws)) == len(draws)
    assert draw("a", 0, 1) == draws[4]


@pytest.mark.parametrize("kind", [Init("normal", (0.5,)), Init("uniform", (-1.0, 3.0))])
def test_initial_values_do_not_depend_on_the_piece(kind: Init) -> None:
    t = T("f32", e=3, d=40, f=50)
    whole = init_array(kind, "w", t, 3)
    part = init_array(kind, "w", t, 3, [(1, 3), (7, 21), (0, 50)])
    np.testing.assert_array_equal(part, whole[1:3, 7:21])
    assert abs(whole.mean() - (0 if kind.kind == "normal" else 1)) < 0.05
    assert abs(whole.std() - (0.5 if kind.kind == "normal" else 4 / 12**0.5)) < 0.05
    assert (init_array(kind, "v", t, 3) != whole).mean() > 0.9
    assert (init_array(kind, "w", t, 4) != whole).mean() > 0.9


def test_constant_initial_values() -> None:
    t = T("f32", d=3)
    assert [init_array(Init(k, a), "w", t, 0)[0] for k, a in (("zeros", ()), ("ones", ()), ("constant", (2.5,)))] == [
        0,
        1,
        2.5,
    ]
    assert init_array(Init("zeros"), "step", T("int32"), 0).shape == ()
    with pytest.raises(ValueError, match="no initialiser"):
        init_array(Init("gauss"), "w", t, 0)


INT = np.iinfo(np.int32)


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "int32"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_is_the_order_that_is_stated(dtype: str, k: int) -> None:
    """Descending, of equal ones the first first, NaN before all numbers: sorted by Python, element by element."""
    rng = np.random.default_rng(k)
    known = [INT.min, INT.min + 1, INT.max, -1, 0] if dtype == "int32" else [np.nan, np.inf, -np.inf, -0.0, 0.0]
    pool = np.array([*known, 1, 1, 2])
    x = rng.choice(pool, (50, 7)).astype(np.int32 if dtype == "int32" else np.float64 if dtype == "f64" else np.float32)
    values, places = run(TopK("d", Dim("j", k)), (T(dtype, b=50, d=7),), [x])
    for row, got, at in zip(x, values, places):
        want = sorted(range(7), key=lambda i: (not np.isnan(row[i]), -float(row[i]) if row[i] == row[i] else 0, i))[:k]
        assert list(at) == want
        np.testing.assert_array_equal(got, row[want])
