"""The kernels of PyTorch against those of numpy, over the inputs that the kernels' own tests draw."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compiler.graph import Dim, Type  # noqa: E402
from compiler.layout import TIME  # noqa: E402
from compiler.ops.contract import Contract  # noqa: E402
from compiler.ops.create import Normal, Random  # noqa: E402
from compiler.ops.elementwise import Cast, Map  # noqa: E402
from compiler.ops.index import Scatter, ScatterAdd  # noqa: E402
from compiler.ops.reduce import ArgMax, Cumsum, Reduce, TopK  # noqa: E402
from compiler.ops.registry import COMPUTE  # noqa: E402
from compiler.ops.window import Fold  # noqa: E402
from runtime.backend import LocalValue, Position  # noqa: E402
from runtime.numpy import CallContext, quiet  # noqa: E402
from runtime.numpy.backend import Numpy  # noqa: E402
from runtime.torch.backend import Torch  # noqa: E402
from runtime.torch.base import PLANNERS, STORAGE, TorchCall  # noqa: E402
from tests.ops.rows import ROWS, D, Row, T  # noqa: E402
from tests.ops.test_ops_stacked import ONE, SIZES, TWO, cut, loop_side, value, value_axes  # noqa: E402

UNITS = {"f64": 2.0**-53, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}

OURS = Torch()


def whole(row: Row) -> tuple[list[LocalValue], list[LocalValue]]:
    return [LocalValue.whole(t) for t in row.ins], [LocalValue.whole(t) for t in row.outs]


def both(row: Row, arrays: list[np.ndarray], ins: list[LocalValue], outs: list[LocalValue], at: Position) -> None:
    """Both kernels on the same numbers: equal, to the bit where nothing is rounded, and of the stated types."""
    micro = at.coords.get(TIME, 0)
    with quiet():
        want = Numpy().plan(row.op, ins, outs, at)(CallContext(micro, 5), *arrays)
    given = [OURS.from_host(a, v.type.dtype) for a, v in zip(arrays, ins)]
    before = [g.clone() for g in given]
    got = OURS.plan(row.op, ins, outs, at)(TorchCall(micro, 5), *given)
    for old, new in zip(before, given):
        assert torch.equal(old.nan_to_num(), new.nan_to_num()), "it wrote into an operand"
    found = got if isinstance(got, tuple) else (got,)
    for v, ours, theirs in zip(outs, found, want if isinstance(want, tuple) else (want,), strict=True):
        assert ours.dtype == STORAGE[v.type.dtype] and tuple(ours.shape) == v.type.shape
        places = {g.untyped_storage().data_ptr() for g in given}
        own = OURS.own(ours)
        assert own.untyped_storage().data_ptr() not in places | {ours.untyped_storage().data_ptr()}
        assert own.is_contiguous(), "elements share memory"
        host = OURS.to_host(ours)
        if row.op.exact(row.ins, row.outs) and not (isinstance(row.op, Map) and v.type.is_float):
            np.testing.assert_array_equal(host, theirs)
        else:
            unit = UNITS.get(v.type.dtype, 0.0)
            scale = np.abs(np.nan_to_num(theirs, posinf=0, neginf=0)).max(initial=0.0)
            terms = row.op.terms(row.ins, row.outs)
            np.testing.assert_allclose(host, theirs, rtol=6 * unit, atol=4 * terms * unit * scale)


def narrow(row: Row, dtype: str) -> Row | None:
    """The row with other floats, if the op computes with floats."""
    if not any(t.dtype == "f64" for t in row.ins) or isinstance(row.op, Cast):
        return None
    ins = tuple(t.with_dtype(dtype) if t.is_float else t for t in row.ins)
    return Row(row.op, ins, row.positive, row.low, row.high)


@pytest.mark.parametrize("op", COMPUTE, ids=lambda c: c.mnemonic)
def test_every_op_has_a_kernel(op: type) -> None:
    assert op in PLANNERS


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_whole_arrays(row: Row) -> None:
    both(row, row.data(3), *whole(row), Position())


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_other_floats(row: Row, dtype: str) -> None:
    other = narrow(row, dtype)
    if other is None:
        return
    rounded = [OURS.to_host(OURS.from_host(a, t.dtype)) for a, t in zip(other.data(4), other.ins)]
    both(other, rounded, *whole(other), Position())


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_operands_in_another_order_of_memory(row: Row) -> None:
    """Transposed operands and parts of larger ones: strides are not those of the shape."""
    ins, outs = whole(row)
    arrays = row.data(6)
    given = []
    for a, v in zip(arrays, ins):
        x = OURS.from_host(a, v.type.dtype)
        n = x.dim()
        x = x.permute(*reversed(range(n))).contiguous().permute(*reversed(range(n))) if n else x
        given.append(x)
    kernel = OURS.plan(row.op, ins, outs, Position())
    plain = kernel(TorchCall(0, 5), *(OURS.from_host(a, v.type.dtype) for a, v in zip(arrays, ins)))
    turned = kernel(TorchCall(0, 5), *given)
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (plain, turned))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "loops"), [(c.values[0], c.values[1:]) for c in [*ONE, *TWO[::5]]], ids=lambda x: str(x)[:40]
)
def test_pieces(row: Row, loops: tuple[object, ...]) -> None:
    """Every device's piece, where it stands in the whole."""
    named = dict(zip(("p", "q"), loops))
    kinds = [
        [value_axes(t, [(a, x, loop_side(x, side)[i]) for a, x in named.items()]) for i, t in enumerate(types)]
        for side, types in (("ins", row.ins), ("outs", row.outs))
    ]
    arrays = row.data(7)
    ins, outs = ([value(t, a, ()) for t, a in zip(types, axes)] for types, axes in zip((row.ins, row.outs), kinds))
    for at in product(range(2), repeat=2):
        coords = dict(zip(("p", "q"), at)) | {TIME: 0}
        pieces = [np.array(cut(x, v.axes, coords), order="C") for x, v in zip(arrays, ins)]
        both(row, pieces, ins, outs, Position(SIZES, coords))


@pytest.mark.parametrize("micro", range(2))
@pytest.mark.parametrize("op", [Random("a.b", "f32", D(b=8, d=6)), Normal("a.c", "f32", D(b=8, d=6))], ids=["u", "n"])
def test_random_bits_of_micro_batches(op: Random | Normal, micro: int) -> None:
    out = Type("f32", D(b=4, d=6))
    ins, outs = [LocalValue.whole(T("int32"))], [LocalValue(out, (), Type("f32", D(b=8, d=6)), ((TIME,), ()))]
    row, at = Row(op, (T("int32"),)), Position({TIME: 2}, {TIME: micro})
    both(row, [np.array(-3, np.int32)], ins, outs, at)
    seeds = [Numpy().plan(op, ins, outs, at)(CallContext(micro, s), np.array(7, np.int32)) for s in (-1, 2**63)]
    ours = [OURS.plan(op, ins, outs, at)(TorchCall(micro, s), torch.tensor(7, dtype=torch.int32)) for s in (-1, 2**63)]
    for a, b in zip(ours, seeds):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-6)


NAN, INF = float("nan"), float("inf")
EDGES = np.array([NAN, INF, -INF, 0.0, -0.0, 1e30, -1e30, 3.0, 3.0, -1e-8, NAN, 89.0])


@pytest.mark.parametrize(
    "op",
    [
        *(Map(f, (None,)) for f in ("sign", "relu", "sigmoid", "tanh", "erf", "erfc", "rsqrt", "log1p", "floor")),
        *(Map(f, (None, 1.0)) for f in ("maximum", "minimum", "lt", "ge", "eq", "ne")),
        *(Map(f, (0.0, None)) for f in ("maximum", "minimum", "sub", "div", "gt", "le")),
        Reduce("max", ("d",)), Reduce("sum", ("d",)), ArgMax("d"), TopK("d", Dim("k", 5)), Cumsum("d"), Cast("bool"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_edges(op: object, dtype: str) -> None:
    """NaN, infinities, zeros with signs and ties are what numpy's kernels make of them."""
    row = Row(op, (T(dtype, d=12),))  # type: ignore[arg-type]
    both(row, [EDGES.astype(dtype.replace("f", "float"))], *whole(row), Position())


@pytest.mark.parametrize("fn", ["add", "sub", "mul", "floordiv", "mod", "maximum", "minimum", "lt", "eq"])
@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_whole_numbers_wrap_and_divide_by_zero(fn: str, dtype: str) -> None:
    kind = np.dtype(dtype)
    top = np.iinfo(kind)
    a = np.array([0, 1, 7, top.max, top.min, 5, 2, top.max], kind)
    b = np.array([0, 3, 0, top.max, 1, 2, 5, 1], kind)
    row = Row(Map(fn, (None, None)), (T(dtype, d=8), T(dtype, d=8)))
    both(row, [a, b], *whole(row), Position())
    for literal in (3, 0) if fn not in ("floordiv", "mod") else (3,):
        row = Row(Map(fn, (None, literal)), (T(dtype, d=8),))
        both(row, [a], *whole(row), Position())
    row = Row(Map(fn, (7, None)), (T(dtype, d=8),))
    both(row, [a], *whole(row), Position())


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize(
    ("op", "ins"),
    [
        (ScatterAdd(Dim("v", 2), ("v",)), ("x", T("int32", b=400))),
        (Fold("o", "k", Dim("s", 6), pad=1), (T(o=6, k=3),)),
        (Cumsum("b"), ("x",)),
        (Reduce("sum", ("b",)), ("x",)),
        (Contract(()), ("x", "x")),
        (Contract(("d",)), ("x", T(d=3))),
    ],
    ids=lambda x: getattr(x, "mnemonic", ""),
)
def test_sums_of_sixteen_bits_are_rounded_once(op: object, ins: tuple[object, ...], dtype: str) -> None:
    """Of 400 ones, bf16 that rounds after every addition would make 256."""
    types = tuple((T(b=400) if t == "x" else t) for t in ins)
    types = tuple(t.with_dtype(dtype) if t.is_float else t for t in types)  # type: ignore[union-attr]
    row = Row(op, types, low=0, high=1)  # type: ignore[arg-type]
    arrays = [np.ones(t.shape, np.float32) if t.is_float else np.zeros(t.shape, np.int32) for t in types]
    both(row, arrays, *whole(row), Position())


def test_rows_named_twice_keep_the_last() -> None:
    row = Row(Scatter("v"), (T(v=3, d=2), T(b=50, d=2), T("int32", b=50)), low=0, high=3)
    for seed in range(5):
        both(row, row.data(seed), *whole(row), Position())
