"""Every op has rows; the kernels' results have the inferred types; loops cover all dims; wrong types are refused."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import Dim, Type
from compiler.ops.base import Op, OpError
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Normal, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.functions import FUNCTIONS
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.move import Move
from compiler.ops.packed import Dequantise, Expand, Integers, Pack
from compiler.ops.reduce import ArgMax, Cumsum, Reduce, TopK
from compiler.ops.registry import COMPUTE
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Shift, Slice, Split
from compiler.ops.window import Fold, Window
from compiler.ops.zigzag import ZigZag
from runtime.numpy import PLANNERS, STORAGE

from .rows import ROWS, D, Row, T, run

every_row = pytest.mark.parametrize("row", ROWS, ids=str)


def test_every_op_has_rows_and_a_kernel() -> None:
    assert {type(r.op) for r in ROWS} == set(COMPUTE) == set(PLANNERS)
    assert {r.op.fn for r in ROWS if isinstance(r.op, Map)} == set(FUNCTIONS)


@every_row
def test_results_have_the_inferred_type(row: Row) -> None:
    results = run(row.op, row.ins, row.data())
    assert [(r.shape, r.dtype) for r in results] == [(t.shape, STORAGE[t.dtype]) for t in row.outs]


@every_row
def test_operands_are_left_alone(row: Row) -> None:
    arrays = row.data()
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    run(row.op, row.ins, arrays)
    for a, copy in zip(arrays, copies):
        np.testing.assert_array_equal(a, copy)


@every_row
def test_operands_in_any_memory_order(row: Row) -> None:
    arrays = row.data()
    for got, want in zip(run(row.op, row.ins, [np.array(a, order="F") for a in arrays]), run(row.op, row.ins, arrays)):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@every_row
def test_each_dim_belongs_to_one_loop(row: Row) -> None:
    """Later parts of a dim that is split or merged have loops of their own, which walk it, too."""
    all_loops = row.op.loops(row.ins, row.outs)
    minor = [loop for loop in all_loops if loop.kind == "minor"]
    loops = [loop for loop in all_loops if loop.kind != "minor"]
    shared = {n for loop in loops for n in loop.names}
    for side, types in (("ins", row.ins), ("outs", row.outs)):
        for i, t in enumerate(types):
            walked = [getattr(loop, side)[i] for loop in loops]
            walked += [n for loop in minor if (n := getattr(loop, side)[i]) not in shared]
            assert sorted(n for n in walked if n is not None) == sorted(t.names)
    for loop in all_loops:
        assert loop.names
        for n, t in zip((*loop.ins, *loop.outs), (*row.ins, *row.outs)):
            assert n is None or t.size(n) % loop.size == 0 or loop.kind in ("whole", "halo")


LINEAR = [r for r in ROWS if r.op.linear(len(r.ins)) and r.ins[min(r.op.linear(len(r.ins))[0])].dtype != "bool"]


@pytest.mark.parametrize("row", LINEAR, ids=str)
def test_linear_groups_are_linear(row: Row) -> None:
    for group in row.op.linear(len(row.ins)):
        a, c = row.data(1, integers=True), row.data(2, integers=True)
        c = [c[i] if i in group else a[i] for i in range(len(a))]
        both = [a[i] + c[i] if i in group else a[i] for i in range(len(a))]
        left, right, total = (run(row.op, row.ins, arrays)[0] for arrays in (a, c, both))
        np.testing.assert_allclose(left + right, total, atol=1e-12)


BD = T(b=4, d=6)
WRONG: list[tuple[Op, tuple[Type, ...], str]] = [
    (Map("ad", (None, None)), (BD, BD), "E0207"),
    (Map("add", (None,)), (BD,), ""),
    (Map("add", (None, None)), (BD,), ""),
    (Map("add", (1.0, 2.0)), (), ""),
    (Map("add", (None, None)), (BD, T("f32", d=6)), "E0202"),
    (Map("add", (None, None)), (BD, T(d=5)), "E0203"),
    (Map("where", (None, None, None)), (BD, BD, BD), "E0202"),
    (Map("where", (True, None, None)), (BD, BD), "E0202"),
    (Map("where", (None, 1.0, 2.0)), (T("bool", b=4),), "E0202"),
    (Map("exp", (None,)), (T("int32", b=4),), "E0202"),
    (Map("and", (None, None)), (BD, BD), "E0202"),
    (Map("mod", (None, 2)), (BD,), "E0202"),
    (Map("add", (None, 0.5)), (T("int32", b=4),), "E0202"),
    (Map("add", (None, True)), (BD,), "E0202"),
    (Cast("float"), (BD,), "E0207"),
    (Cast("f32"), (BD, BD), ""),
    (Broadcast(D(b=4)), (BD,), "E0204"),
    (Broadcast(D(b=4, d=5)), (BD,), "E0203"),
    (Broadcast(D(b=4, d=6, e=0)), (BD,), "E0206"),
    (Broadcast((*D(b=4, d=6), Dim("b", 4))), (BD,), "E0205"),
    (Transpose(("b",)), (BD,), "E0204"),
    (Transpose(("b", "d", "d")), (BD,), "E0205"),
    (StopGradient(), (), ""),
    (Move("hbm", "host"), (BD, T(d=6)), ""),
    (Move("hbm", "host"), (), ""),
    (Contract(("b", "e")), (BD, T(d=6)), "E0204"),
    (Contract(("b", "b")), (BD, T(d=6)), "E0205"),
    (Contract(("b",)), (BD, T(d=5)), "E0203"),
    (Contract(("b",)), (BD, T("f32", d=6)), "E0202"),
    (Contract(("b",)), (T("bool", b=4), T("bool", b=4)), "E0202"),
    (Contract(("b",)), (BD,), ""),
    (Reduce("mean", ("b",)), (BD,), "E0207"),
    (Reduce("sum", ("e",)), (BD,), "E0204"),
    (Reduce("sum", ("b", "b")), (BD,), "E0205"),
    (Reduce("max", ("b",)), (T("bool", b=4),), "E0202"),
    (Cumsum("e"), (BD,), "E0204"),
    (ArgMax("e"), (BD,), "E0204"),
    (ArgMax("b"), (T("bool", b=4),), "E0202"),
    (TopK("d", Dim("j", 7)), (BD,), "E0206"),
    (TopK("d", Dim("b", 2)), (BD,), "E0205"),
    (Rename((("e", "f"),)), (BD,), "E0204"),
    (Rename((("b", "d"),)), (BD,), "E0205"),
    (Split("d", D(h=4, k=2)), (BD,), "E0206"),
    (Split("d", ()), (BD,), "E0206"),
    (Split("d", D(b=3, k=2)), (BD,), "E0205"),
    (Merge((), "e"), (BD,), "E0205"),
    (Merge(("b", "e"), "f"), (BD,), "E0204"),
    (Merge(("d",), "b"), (BD,), "E0205"),
    (Slice("d", 2, 2, "d"), (BD,), "E0206"),
    (Slice("d", 0, 7, "d"), (BD,), "E0206"),
    (Slice("d", 0, 3, "b"), (BD,), "E0205"),
    (Slice("d", 0, 4, "d", 0), (BD,), "E0206"),
    (Shift("e", 1), (BD,), "E0204"),
    (Shift("d", 0), (BD,), "E0206"),
    (Shift("d", 6), (BD,), "E0206"),
    (Shift("d", 1, 0.5), (T("int32", d=6),), "E0202"),
    (Dequantise("d", "int4"), (T("int32", d=3), T(d=2)), "E0202"),
    (Dequantise("d", "int4"), (T("uint32", d=3), T("int32", d=2)), "E0202"),
    (Dequantise("d", "int3"), (T("uint32", d=4), T(d=2)), "E0206"),
    (Dequantise("d", "int4"), (T("uint32", d=3), T(d=5)), "E0206"),
    (Dequantise("d", "int4"), (T("uint32", d=3), T(e=5)), "E0204"),
    (Dequantise("d", "int4"), (T("uint32", d=3), T(d=2), T(d=3)), "E0203"),
    (Dequantise("d", "fp8"), (T("uint32", d=3), T(d=2), T(d=2)), "E0203"),
    (Dequantise("d", "int5"), (T("uint32", d=3), T(d=2)), "E0207"),
    (Dequantise("e", "int4"), (T("uint32", d=3), T(d=2)), "E0204"),
    (Integers("d", "int3"), (T("uint32", d=4),), "E0206"),
    (Integers("d", "fp8"), (T("uint32", d=4),), "E0207"),
    (Integers("d", "int8"), (T("int32", d=4),), "E0202"),
    (Pack("int8", "d"), (T("int32", d=6),), "E0206"),
    (Pack("fp8", "d"), (T(d=8),), "E0207"),
    (Pack("int8", "e"), (T(d=8),), "E0204"),
    (Expand("d"), (T("uint32", d=2), T(d=64)), "E0203"),
    (Expand("d"), (T("uint32", d=2), T("int32", d=32)), "E0202"),
    (ZigZag("e", 1), (BD,), "E0204"),
    (ZigZag("d", 2), (BD,), "E0435"),
    (ZigZag("d", 0), (BD,), "E0435"),
    (Iota(Dim("d", 6), 2), (), "E0435"),
    (Pad("d", -1, 0, 0.0, "d"), (BD,), "E0206"),
    (Pad("d", 1, 0, 0.0, "b"), (BD,), "E0205"),
    (Concat("d", "d"), (), ""),
    (Concat("d", "d"), (BD, T(b=3, d=6)), "E0203"),
    (Concat("d", "d"), (BD, T("f32", b=4, d=6)), "E0203"),
    (Flip("e"), (BD,), "E0204"),
    (Take("v"), (BD, T("int32", b=4)), "E0204"),
    (Take("d"), (BD, BD), "E0202"),
    (Take("d"), (BD, T("int32", d=6)), "E0205"),
    (Take("d"), (BD, T("int32", b=3)), "E0203"),
    (ScatterAdd(Dim("v", 3), ("v",)), (BD, T("int32", b=4)), "E0204"),
    (ScatterAdd(Dim("v", 3), ("v", "d", "e")), (BD, T("int32", b=4)), "E0204"),
    (ScatterAdd(Dim("v", 3), ("v", "d", "d")), (BD, T("int32", b=4)), "E0205"),
    (ScatterAdd(Dim("b", 3), ("b", "d")), (BD, T("int32", b=4)), "E0205"),
    (ScatterAdd(Dim("v", 3), ("v", "d")), (BD, T("int32", e=4)), "E0204"),
    (Scatter("v"), (BD, BD, T("int32", b=4)), "E0204"),
    (Scatter("d"), (BD, T(b=4), BD), "E0202"),
    (Scatter("d"), (BD, T("f32", b=4), T("int32", b=4)), "E0202"),
    (Scatter("d"), (BD, BD, T("int32", d=6)), "E0205"),
    (Scatter("d"), (BD, T(b=4), T("int32", b=3)), "E0203"),
    (Scatter("d"), (BD, T(e=4), T("int32", e=4)), "E0204"),
    (Iota(Dim("t", 0)), (), "E0206"),
    (Full(1.0, "float", ()), (), "E0207"),
    (Full(0.5, "int32", ()), (), "E0202"),
    (Random("r", "f32", ()), (), ""),
    (Random("r", "f32", ()), (BD,), "E0202"),
    (Random("r", "int32", ()), (T("int32"),), "E0202"),
    (Normal("r", "int32", ()), (T("int32"),), "E0202"),
    (UniqueRows(Dim("v", 3), Dim("o", 3), 2, ("o", "d")), (BD, T("int32", b=4)), "E0206"),
    (UniqueRows(Dim("v", 3), Dim("o", 3), 1, ("o", "d")), (BD, T(b=4)), "E0202"),
    (UniqueRows(Dim("v", 3), Dim("o", 3), 1, ("o", "d")), (BD, T("int32", b=4), T("f32", b=4), BD), "E0202"),
    (UniqueRows(Dim("v", 3), Dim("o", 3), 1, ("o", "e")), (BD, T("int32", b=4)), "E0204"),
    (ReadRows("v", 1, 1), (BD, T("int32", o=4)), "E0204"),
    (ReadRows("d", 1, 1), (BD, T("f32", o=4)), "E0202"),
    (ReadRows("d", 1, 1), (BD, T("int32", b=4)), "E0204"),
    (ReadRows("d", 3, 1), (BD, T("int32", o=4)), "E0206"),
    (ReadRows("d", 2, 4), (BD, T("int32", o=4)), "E0206"),
    (WriteRows("d", 1), (BD, T(b=4, o=3), T("int32", o=4)), "E0204"),
    (WriteRows("d", 1), (BD, T("f32", b=4, o=4), T("int32", o=4)), "E0204"),
    (WriteRows("d", 3), (BD, T(b=4, o=4), T("int32", o=4)), "E0206"),
    (Window("d", Dim("o", 2), Dim("k", 3), dilation=0), (BD,), "E0206"),
    (Window("d", Dim("o", 5), Dim("k", 3), dilation=3), (BD,), "E0206"),
    (Window("d", Dim("o", 5), Dim("k", 3), pad=1), (BD,), "E0206"),
    (Window("d", Dim("o", 6), Dim("k", 3), pad=3), (BD,), "E0206"),
    (Window("d", Dim("o", 6), Dim("k", 1), stride=0), (BD,), "E0206"),
    (Window("e", Dim("o", 6), Dim("k", 1)), (BD,), "E0204"),
    (Fold("d", "e", Dim("x", 6)), (BD,), "E0204"),
    (Fold("d", "b", Dim("x", 7)), (BD,), "E0206"),
]


@pytest.mark.parametrize(("op", "ins", "code"), WRONG, ids=[f"{op.mnemonic}-{i}" for i, (op, _, _) in enumerate(WRONG)])
def test_types_that_do_not_fit_are_refused(op: Op, ins: tuple[Type, ...], code: str) -> None:
    with pytest.raises(OpError) as error:
        op.infer(*ins)
    assert error.value.code == code, error.value.message


def test_every_op_has_a_refusal() -> None:
    assert {type(op) for op, _, _ in WRONG} == set(COMPUTE)
