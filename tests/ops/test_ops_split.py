"""The split rule of every op against brute force: the serial kernel on uneven pieces, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import pytest

from compiler.graph import Dim, Type
from compiler.ops.base import Loop
from compiler.ops.window import Window
from runtime.numpy import CallContext, Env, LocalValue, plan, quiet

from .rows import ROWS, Row, run

AXIS = "a"


class PieceEnv(Env):
    """An environment in which the piece of every split dim begins where a test says."""

    starts: dict[str, int] = {}  # noqa: RUF012  (set once per instance)

    def offset(self, value: LocalValue, dim: int):  # type: ignore[no-untyped-def]
        start = self.starts[value.type.dims[dim].name] if value.axes[dim] else 0
        return lambda ctx: start


def cuts(size: int) -> list[tuple[int, int]]:
    """Two or three uneven pieces."""
    points = [0, 1, size] if size < 4 else [0, 1, 3, size]
    return list(zip(points, points[1:]))


def piece(t: Type, name: str | None, loop: Loop, start: int, stop: int) -> tuple[Type, slice, LocalValue]:
    """The local type and place of a piece of the loop, in a value that walks it as dim `name`."""
    if name is None:
        return t, slice(None), LocalValue(t, (), t, ((),) * len(t.dims))
    unit = t.size(name) // loop.size
    local = Type(t.dtype, tuple(Dim(d.name, (stop - start) * unit) if d.name == name else d for d in t.dims))
    axes = tuple((AXIS,) if d.name == name else () for d in t.dims)
    return local, slice(start * unit, stop * unit), LocalValue(local, (), t, axes)


def at(t: Type, name: str | None, where: slice) -> tuple[slice, ...]:
    return tuple(where if d.name == name else slice(None) for d in t.dims)


def run_piece(row: Row, ins: Sequence[LocalValue], outs: Sequence[LocalValue], arrays: list, starts: dict) -> list:
    env = PieceEnv()
    object.__setattr__(env, "starts", starts)
    with quiet():
        result = plan(row.op, ins, outs, env)(CallContext(seed=5), *arrays)
    return list(result) if isinstance(result, tuple) else [result]


CASES = [
    pytest.param(row, loop, id=f"{row}-{loop.names[0]}")
    for row in ROWS
    for loop in row.op.loops(row.ins, row.outs)
    if loop.kind in ("pass", "sum", "max") and loop.size > 1
]


@pytest.mark.parametrize(("row", "loop"), CASES)
def test_pieces_make_the_whole(row: Row, loop: Loop) -> None:
    arrays = row.data(integers=True)
    want = run(row.op, row.ins, arrays)
    got: list[np.ndarray | None] = [np.zeros_like(w) if n else None for w, n in zip(want, loop.outs)]
    for start, stop in cuts(loop.size):
        pieces = [piece(t, n, loop, start, stop) for t, n in zip(row.ins, loop.ins)]
        out_pieces = [piece(t, n, loop, start, stop) for t, n in zip(row.outs, loop.outs)]
        named = zip((*row.ins, *row.outs), (*loop.ins, *loop.outs))
        starts = {n: start * (t.size(n) // loop.size) for t, n in named if n}
        local = [a[at(t, n, p[1])] for a, t, n, p in zip(arrays, row.ins, loop.ins, pieces)]
        results = run_piece(row, [p[2] for p in pieces], [p[2] for p in out_pieces], local, starts)
        for i, (result, n, p) in enumerate(zip(results, loop.outs, out_pieces)):
            assert result.shape == p[0].shape
            if loop.kind == "pass" and n is None:  # what is the same whichever pieces there are
                got[i] = result
                np.testing.assert_array_equal(result, want[i])
            elif loop.kind == "pass":
                got[i][at(row.outs[i], n, p[1])] = result  # type: ignore[index]
            else:
                assert n is None
                join = np.add if loop.kind == "sum" else np.maximum
                got[i] = result if got[i] is None else join(got[i], result)
    for g, w in zip(got, want):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)


HALO = [row for row in ROWS if any(loop.kind == "halo" for loop in row.op.loops(row.ins, row.outs))]


def test_halo_cases_exist() -> None:
    assert {r.op.mnemonic for r in HALO} == {"window", "fold"}
    assert {loop.halo for r in HALO for loop in r.op.loops(r.ins, r.outs)} > {(1, 1), (0, 0), (1, 0)}


@pytest.mark.parametrize("row", HALO, ids=str)
def test_pieces_with_borders_make_the_whole(row: Row) -> None:
    (loop,) = (x for x in row.op.loops(row.ins, row.outs) if x.kind == "halo")
    (x,), (want,) = row.data(integers=True), run(row.op, row.ins, row.data(integers=True))
    left, right = loop.halo
    wide_type = row.ins[0] if isinstance(row.op, Window) else row.outs[0]
    wide, narrow = (loop.ins[0], loop.outs[0]) if isinstance(row.op, Window) else (loop.outs[0], loop.ins[0])
    assert wide is not None and narrow is not None
    axis, unit = wide_type.index(wide), wide_type.size(wide) // loop.size
    widths = [(left, right) if i == axis else (0, 0) for i in range(len(wide_type.dims))]
    if isinstance(row.op, Window):
        x = np.pad(x, widths, constant_values=row.op.fill)
        got = np.zeros_like(want)
    else:
        got = np.pad(np.zeros_like(want), widths)
    for start, stop in cuts(loop.size):
        (local, where, value), (out, place, result) = (
            piece(t, n, loop, start, stop) for t, n in ((row.ins[0], loop.ins[0]), (row.outs[0], loop.outs[0]))
        )
        bordered = slice(start * unit, stop * unit + left + right)
        wide_local = Type(
            wide_type.dtype,
            tuple(Dim(d.name, (stop - start) * unit + left + right) if d.name == wide else d for d in wide_type.dims),
        )
        if isinstance(row.op, Window):
            value, where = LocalValue(wide_local, (), value.logical, value.axes), bordered
        else:
            result, place = LocalValue(wide_local, (), result.logical, result.axes), bordered
        (part,) = run_piece(row, [value], [result], [x[at(row.ins[0], loop.ins[0], where)]], {wide: 0, narrow: 0})
        assert part.shape == result.type.shape
        got[at(row.outs[0], loop.outs[0], place)] += part
    if not isinstance(row.op, Window):
        got = got[at(row.outs[0], wide, slice(left, left + want.shape[axis]))]
    np.testing.assert_array_equal(got, want)


def test_sizes_of_loops_are_what_must_divide() -> None:
    """A loop's size divides every dim that it walks; a split of dims counts majors."""
    for row in ROWS:
        for loop in row.op.loops(row.ins, row.outs):
            if loop.kind == "pass":
                assert all(
                    t.size(n) % loop.size == 0 for t, n in zip((*row.ins, *row.outs), (*loop.ins, *loop.outs)) if n
                )
    assert prod(loop.size for loop in ROWS[0].op.loops(ROWS[0].ins, ROWS[0].outs)) == ROWS[0].outs[0].elements
