"""Collectives: stacked and with private buffers, bit for bit, and both are what the layouts say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compiler.graph import Dim, Type
from compiler.layout import TIME, Layout, local_type
from compiler.ops.base import Op
from compiler.ops.comm import (
    AllGather,
    AllReduce,
    AllToAll,
    MaskPad,
    OnlyFirst,
    Operand,
    ReduceScatter,
    Shard,
)
from compiler.ops.neighbours import Halo, HaloAdd, ShiftAcross
from compiler.ops.zigzag import ZigZagAcross
from runtime.comm import Hub, Wait
from runtime.distribute import Array, collect, distribute
from runtime.mesh import Mesh
from runtime.numpy import CallContext
from runtime.numpy.backend import Numpy
from runtime.rank.collectives import Here, start_collective
from runtime.stacked.collectives import plan_comm

AXES = ("a", "b")


def both(op: Op, x: Array, type: Type, before: Layout, after: Layout, mesh: Mesh, mb: int = 0) -> Array:
    """The stacked result, after a check that devices with private buffers have the same bits."""
    result = plan_comm(op, type, before, after, mesh)(CallContext(mb), x)
    local = local_type(type, after, mesh.sizes).shape
    assert result.shape[mesh.lead :] == local, op
    hub = Hub(mesh, Numpy())
    rest: dict[Any, Wait[Any]] = {}
    full = np.broadcast_to(x, mesh.shape + x.shape[mesh.lead :])
    for at in mesh.devices:
        piece = full[tuple(at[a] for a in mesh.axes)].copy()
        here = Here(type, before, after, mesh, {**at, TIME: mb}, hub.network(0, at), Numpy())
        rest[tuple(at.values())] = start_collective(op, piece, here).wait()
    wide = np.broadcast_to(result, mesh.shape + local)
    while rest:
        for key, running in list(rest.items()):
            try:
                next(running)
            except StopIteration as done:
                del rest[key]
                np.testing.assert_array_equal(done.value, wide[key])
    return result


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Type, Layout, Mesh, Array]:
    """A value of two or three dims, split in pieces that may be uneven, nested too; pending on what is left."""
    sizes = {a: draw(st.integers(1, 3)) for a in AXES} | {TIME: 2}
    mesh = Mesh(AXES, sizes)
    rank = draw(st.integers(2, 3))
    dims: list[tuple[str, ...]] = [() for _ in range(rank)]
    pending = []
    for a in draw(st.permutations(AXES)):
        place = draw(st.integers(-2, rank - 1))
        if place >= 0:
            dims[place] = (*dims[place], a)
        elif place == -2:
            pending.append((a, "sum"))
    type = Type("f64", tuple(Dim(f"d{i}", draw(st.integers(1, 4 + 3 * len(dims[i])))) for i in range(rank)))
    x = np.random.default_rng(draw(st.integers(0, 99))).integers(-9, 9, type.shape).astype(np.float64)
    return type, Layout(tuple(dims), tuple(sorted(pending))), mesh, x


@given(layouts(), st.data())
def test_every_collective_keeps_the_logical_value(case: tuple[Type, Layout, Mesh, Array], data: st.DataObject) -> None:
    type, before, mesh, x = case
    dims = [list(d) for d in before.dims]
    pending = dict(before.pending)
    choices: list[Op] = [AllReduce((a,), "sum") for a in pending]
    for i, d in enumerate(type.dims):
        choices += [ReduceScatter(d.name, (a,), "sum") for a in pending]
        for k in range(len(dims[i])):  # the minor-most axes, one or more
            choices.append(AllGather(d.name, tuple(dims[i][k:])))
            choices += [AllToAll(d.name, e.name, tuple(dims[i][k:])) for j, e in enumerate(type.dims) if j != i]
        free = [a for a in AXES if a not in before.axes]
        choices += [Shard(d.name, (a,)) for a in free] + ([Shard(d.name, tuple(free))] if free else [])
    choices += [OnlyFirst((a,)) for a in AXES if a not in before.axes]
    if not choices:
        return
    op = data.draw(st.sampled_from(choices))
    axes: Any = op.axes  # type: ignore[attr-defined]
    for a in axes:
        pending.pop(a, None)
    if isinstance(op, (AllGather, AllToAll)):
        del dims[type.index(op.dim if isinstance(op, AllGather) else op.gather)][-len(axes) :]
    if isinstance(op, (ReduceScatter, Shard, AllToAll)):
        dims[type.index(op.scatter if isinstance(op, AllToAll) else op.dim)] += list(axes)
    if isinstance(op, OnlyFirst):
        pending |= dict.fromkeys(axes, "sum")
    after = Layout(tuple(map(tuple, dims)), tuple(sorted(pending.items())))
    stacked = distribute(x, type, before, mesh)
    assert op.after(Operand("x", type, before), mesh.sizes) == after  # type: ignore[attr-defined]
    np.testing.assert_array_equal(collect(both(op, stacked, type, before, after, mesh), type, after, mesh), x)


def positions(size: int, counts: Sequence[int], start: int = 0) -> list[tuple[int, list[int]]]:
    """Where each piece begins, and which positions it has: parts of parts, one axis after the other."""
    pieces = [(start, list(range(start, start + size)), size)]
    for n in counts:
        cut = []
        for first, held, length in pieces:
            part = -(-length // n)
            for i in range(n):
                low = first + i * part
                cut.append((low, [p for p in held if low <= p < low + part], part))
        pieces = cut
    return [(first, held) for first, held, _ in pieces]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 13), st.integers(0, 9), st.integers(0, 9))
def test_halo_and_its_adjoint(n: int, m: int, size: int, left: int, right: int) -> None:
    """Borders equal the padded whole's; <halo(x), y> = <x, halo_add(y)>: over two axes, of uneven pieces, and of
    several neighbours where these are shorter than a border."""
    mesh = Mesh(AXES, {"a": n, "b": m})
    type = Type("f64", (Dim("k", 2), Dim("s", size)))
    split = Layout(((), AXES))
    bordered = Layout(((), AXES), (), ((1, left, right),))
    rng = np.random.default_rng(size)
    x = rng.integers(1, 9, type.shape).astype(np.float64)
    length = -(-size // (n * m))
    wide = both(Halo("s", AXES, left, right, 7.0), distribute(x, type, split, mesh), type, split, bordered, mesh)
    padded = np.pad(x, ((0, 0), (left, n * m * length + size + right)), constant_values=7.0)
    flat = wide.reshape(n * m, 2, left + length + right)
    for p, (first, _) in enumerate(positions(size, (n, m))):
        np.testing.assert_array_equal(flat[p], padded[:, first : first + length + left + right])
    y = rng.integers(1, 9, wide.shape).astype(np.float64)
    zero = both(Halo("s", AXES, left, right, 0.0), distribute(x, type, split, mesh), type, split, bordered, mesh)
    back = both(HaloAdd("s", AXES, left, right), y, type, bordered, split, mesh)
    assert (zero * y).sum() == (distribute(x, type, split, mesh) * back).sum()


@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 17), st.data())
def test_shift_moves_elements_across_pieces(n: int, m: int, size: int, data: st.DataObject) -> None:
    """As the whole is shifted, over one axis and two, by less and by more than a piece is long, forward and back."""
    mesh = Mesh(AXES, {"a": n, "b": m})
    by = data.draw(st.integers(1, size - 1)) * data.draw(st.sampled_from((1, -1)))
    type, layout = Type("f64", (Dim("k", 2), Dim("s", size))), Layout(((), AXES))
    x = np.arange(1.0, 2 * size + 1).reshape(2, size)
    want = np.full_like(x, 7.0)
    want[:, max(by, 0) : size + min(by, 0)] = x[:, max(-by, 0) : size - max(by, 0)]
    op = ShiftAcross("s", AXES, by, 7.0)
    got = both(op, distribute(x, type, layout, mesh), type, layout, layout, mesh)
    np.testing.assert_array_equal(collect(got, type, layout, mesh), want)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 17), st.integers(-20, 20))
def test_shift_around_moves_elements_across_pieces_and_the_ends(n: int, m: int, size: int, by: int) -> None:
    """As numpy rolls the whole, over one axis and two, by less and by more than there are elements."""
    mesh = Mesh(AXES, {"a": n, "b": m})
    type, layout = Type("f64", (Dim("k", 2), Dim("s", size))), Layout(((), AXES))
    x = np.arange(1.0, 2 * size + 1).reshape(2, size)
    op = ShiftAcross("s", AXES, by, 0.0, True)
    got = both(op, distribute(x, type, layout, mesh), type, layout, layout, mesh)
    np.testing.assert_array_equal(collect(got, type, layout, mesh), np.roll(x, by, 1))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))
def test_zigzag_moves_blocks_across_pieces_and_back(n: int, m: int, parts: int, length: int) -> None:
    """As the blocks of the whole lie, over one axis and two, of as many pieces and of others; what leaves counts."""
    mesh = Mesh(AXES, {"a": n, "b": m})
    size = 2 * parts * length
    type, layout = Type("f64", (Dim("k", 2), Dim("s", size))), Layout(((), AXES))
    x = np.arange(2.0 * size).reshape(2, size)
    order = [k for i in range(parts) for k in (i, 2 * parts - 1 - i)]
    want = x.reshape(2, 2 * parts, length)[:, order].reshape(2, size)
    pieces = distribute(x, type, layout, mesh)
    there = ZigZagAcross("s", AXES, parts)
    lies = both(there, pieces, type, layout, layout, mesh)
    np.testing.assert_array_equal(collect(lies, type, layout, mesh), want)
    back = both(ZigZagAcross("s", AXES, parts, True), lies, type, layout, layout, mesh)
    np.testing.assert_array_equal(collect(back, type, layout, mesh), x)
    if size % (n * m) == 0:
        before, after = (a.reshape(2, n * m, -1) for a in (x, want))
        leaving = max(len(set(before[0, p]) - set(after[0, p])) for p in range(n * m))
        piece = Type("f64", (Dim("k", 2), Dim("s", size // (n * m))))
        assert there.sent(piece, mesh.sizes) == leaving * 2 * 8


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 13), st.integers(1, 4))
def test_mask_pad_marks_what_is_unused(n: int, m: int, size: int, times: int) -> None:
    """Behind the last element, between pieces of pieces, and in the last micro-batch."""
    mesh = Mesh(AXES, {"a": n, "b": m, TIME: times})
    type, layout = Type("f64", (Dim("s", size),)), Layout(((TIME, *AXES),))
    pieces = distribute(np.ones(size), type, layout, mesh, time=True)
    found = positions(size, (times, n, m))
    for mb in range(times):
        masked = both(MaskPad("s", -5.0), pieces[mb], type, layout, layout, mesh, mb).reshape(n * m, -1)
        for row, (_, held) in zip(masked, found[mb * n * m :]):
            assert row.tolist() == [1.0] * len(held) + [-5.0] * (len(row) - len(held))


def test_ops_on_the_time_axis_follow_the_micro_batch() -> None:
    mesh = Mesh(("a",), {"a": 2, TIME: 3})
    type = Type("f64", (Dim("s", 12),))
    whole, split = Layout(((),)), Layout(((TIME, "a"),))
    x = distribute(np.arange(12.0), type, whole, mesh)
    for mb in range(3):
        piece = both(Shard("s", (TIME, "a")), x, type, whole, split, mesh, mb)
        np.testing.assert_array_equal(piece.reshape(-1), np.arange(12.0)[4 * mb : 4 * mb + 4])
        kept = both(OnlyFirst((TIME,)), x, type, whole, Layout(((),), ((TIME, "sum"),)), mesh, mb)
        assert kept.any() == (mb == 0)


def test_sums_of_16_bit_values_are_rounded_once() -> None:
    """256 + 1 + 1 + … (8 ones) is 264 when added in float32, 256 when rounded to bf16 after every addition."""
    mesh = Mesh(("a",), {"a": 9})
    x = np.array([256.0] + [1.0] * 8, np.float32).reshape(9, 1)
    before, after = Layout(((),), (("a", "sum"),)), Layout(((),))
    result = both(AllReduce(("a",), "sum"), x, Type("bf16", (Dim("s", 1),)), before, after, mesh)
    assert result.item() == 264.0
