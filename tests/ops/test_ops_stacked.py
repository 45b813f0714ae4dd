"""Kernels on stacked arrays (leading mesh axes, size 1 where replicated) equal the same kernels device by device."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from compiler.graph import Dim, Type
from compiler.layout import TIME
from compiler.ops.base import Loop
from compiler.ops.contract import Contract
from compiler.ops.create import Random
from runtime.numpy import CallContext, Env, LocalValue, plan, quiet

from .rows import ROWS, Row, T, run

SIZES = {"p": 2, "q": 2, TIME: 2}
LEAD = ("p", "q")


def split_axes(t: Type, names: dict[str, tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(names.get(d.name, ()) for d in t.dims)


def local(t: Type, axes: tuple[tuple[str, ...], ...]) -> Type:
    return Type(t.dtype, tuple(Dim(d.name, d.size // 2 ** len(a)) for d, a in zip(t.dims, axes)))


def value(t: Type, axes: tuple[tuple[str, ...], ...], lead_axes: tuple[str, ...]) -> LocalValue:
    used = {a for group in axes for a in group}
    return LocalValue(local(t, axes), tuple(2 if a in used else 1 for a in lead_axes), t, axes)


def cut(x: np.ndarray, axes: tuple[tuple[str, ...], ...], coords: dict[str, int]) -> np.ndarray:
    for i, group in enumerate(axes):
        for axis in group:
            x = np.split(x, 2, i)[coords[axis]]
    return x


def stack(x: np.ndarray, v: LocalValue, coords: dict[str, int]) -> np.ndarray:
    out = np.empty(v.shape, x.dtype)
    for at in np.ndindex(v.lead):
        out[at] = cut(x, v.axes, coords | dict(zip(LEAD, at)))
    return out


def check(row: Row, loops: dict[str, Loop], micro: int = 0) -> None:
    """Split each loop on its axis: operand by operand the same pieces, stacked and one by one."""
    kinds = [
        [value_axes(t, [(a, loop, loop_side(loop, side)[i]) for a, loop in loops.items()]) for i, t in enumerate(types)]
        for side, types in (("ins", row.ins), ("outs", row.outs))
    ]
    arrays, ctx = row.data(7), CallContext(micro, seed=3)
    time = {TIME: micro}
    ins, outs = ([value(t, a, LEAD) for t, a in zip(types, axes)] for types, axes in zip((row.ins, row.outs), kinds))
    alone_ins, alone_outs = ([LocalValue(v.type, (), v.logical, v.axes) for v in values] for values in (ins, outs))
    with quiet():
        stacked = plan(row.op, ins, outs, Env(LEAD, SIZES))(ctx, *(stack(x, v, time) for x, v in zip(arrays, ins)))
        results = stacked if isinstance(stacked, tuple) else (stacked,)
        for at in product(range(2), repeat=2):
            coords = dict(zip(LEAD, at)) | time
            kernel = plan(row.op, alone_ins, alone_outs, Env((), SIZES, coords))
            alone = kernel(ctx, *(cut(x, v.axes, coords) for x, v in zip(arrays, ins)))
            for got, want in zip(results, alone if isinstance(alone, tuple) else (alone,)):
                assert got.ndim == 2 + want.ndim and got.dtype == want.dtype
                assert all(n in (1, 2) for n in got.shape[:2])
                mine = got[tuple(min(i, n - 1) for i, n in zip(at, got.shape))]
                np.testing.assert_allclose(mine, want, rtol=1e-12, atol=1e-12)


def loop_side(loop: Loop, side: str) -> tuple[str | None, ...]:
    return loop.ins if side == "ins" else loop.outs


def value_axes(t: Type, walked: list[tuple[str, Loop, str | None]]) -> tuple[tuple[str, ...], ...]:
    names: dict[str, tuple[str, ...]] = {}
    for axis, _, name in walked:
        if name is not None:
            names[name] = (*names.get(name, ()), axis)
    return split_axes(t, names)


def splittable(row: Row) -> list[Loop]:
    return [x for x in row.op.loops(row.ins, row.outs) if x.kind in ("pass", "sum", "max") and x.size % 2 == 0]


ONE = [pytest.param(r, x, id=f"{r}-{x.names[0]}") for r in ROWS for x in splittable(r)]
TWO = [
    pytest.param(r, x, y, id=f"{r}-{x.names[0]}-{y.names[0]}")
    for r in ROWS
    for x in splittable(r)
    for y in splittable(r)
    if x != y or x.size % 4 == 0
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_all_replicated(row: Row) -> None:
    check(row, {})


@pytest.mark.parametrize(("row", "loop"), ONE)
def test_one_axis(row: Row, loop: Loop) -> None:
    check(row, {"q": loop})


@pytest.mark.parametrize(("row", "first", "second"), TWO)
def test_two_axes(row: Row, first: Loop, second: Loop) -> None:
    check(row, {"p": first, "q": second})


@pytest.mark.parametrize(("row", "loop"), [c for c in ONE if c.values[0].op.mnemonic in ("iota", "random", "take")])
def test_micro_batches_are_pieces_too(row: Row, loop: Loop) -> None:
    for micro in range(2):
        check(row, {TIME: loop}, micro)


def test_random_is_the_same_under_every_layout() -> None:
    op, shape = Random("x", "f64", (Dim("b", 8), Dim("d", 6))), T(b=8, d=6)
    step = np.array(3, np.int32)
    (whole,) = run(op, (T("int32"),), [step])
    ins = [LocalValue(T("int32"), (1, 1), T("int32"), ())]
    out = value(shape, ((TIME, "p"), ("q",)), LEAD)
    kernel = plan(op, ins, [out], Env(LEAD, SIZES))
    for micro in range(2):
        got = kernel(CallContext(micro, seed=5), step.reshape(1, 1))
        for p, q in product(range(2), repeat=2):
            np.testing.assert_array_equal(got[p, q], whole[4 * micro + 2 * p :, 3 * q :][:2, :3])


def test_data_parallel_shards_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folding that makes stacked execution as fast as serial: rows of all shards meet the weight at once."""
    x, w, y = T(b=4, s=2, d=6), T(d=6, f=2), T(b=4, s=2, f=2)
    ins = [value(x, (("p", "q"), (), ()), LEAD), value(w, ((), ()), LEAD)]
    kernel = plan(Contract(("b", "s", "f")), ins, [value(y, (("p", "q"), (), ()), LEAD)], Env(LEAD, SIZES))
    seen: list[tuple[int, ...]] = []
    matmul = np.matmul

    def spy(a: np.ndarray, c: np.ndarray, out: np.ndarray) -> np.ndarray:
        seen.append(a.shape)
        return matmul(a, c, out=out)

    monkeypatch.setattr(np, "matmul", spy)
    kernel(CallContext(), np.ones(ins[0].shape), np.ones(ins[1].shape))
    assert seen == [(8, 6)]
