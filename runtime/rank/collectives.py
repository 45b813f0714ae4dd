"""The program's collectives as one device sees them: cutting, joining and padding around the communicator's calls.

The code of each registers itself: `@collective(Op)`. It starts the exchange and gives a handle of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compiler.graph import Type
from compiler.layout import Layout, local_type, nested
from compiler.ops.base import ByOp
from compiler.ops.comm import (
    AllGather,
    AllReduce,
    AllToAll,
    Comm,
    MaskPad,
    OnlyFirst,
    ReduceScatter,
    Shard,
)
from compiler.ops.neighbours import Halo, HaloAdd, ShiftAcross
from compiler.ops.zigzag import ZigZagAcross, sources
from dsl.data import dataclass
from runtime.backend import Array, Backend, Index, Shape
from runtime.comm import Done, Handle, Network, Then
from runtime.mesh import Mesh

Span = tuple[int, int]
"""From the first to behind the last."""


@dataclass(frozen=True, slots=True)
class Here:
    """A collective's operand of logical `type`, and the device: `at` its coordinates, also that in time. spare: whether
    nobody needs the operand any more."""

    type: Type
    before: Layout
    after: Layout
    mesh: Mesh
    at: Mapping[str, int]
    network: Network
    backend: Backend
    spare: bool = False

    def size(self, dim: str) -> int:
        """What a piece of the result has along a dim."""
        return local_type(self.type, self.after, self.mesh.sizes).size(dim)

    def me(self, axes: Sequence[str]) -> int:
        """This device's number among those along the axes."""
        return self.mesh.piece(axes, self.at)


Code = Callable[[Any, Array, Here], Handle[Array]]

CODE: ByOp[Code] = ByOp()
"""What a device does for each collective; `@collective(Op)` above it enters it."""

collective = CODE.of


def start_collective(op: Comm, x: Array, here: Here) -> Handle[Array]:
    """One collective on this device's `x`, a piece of a value."""
    return CODE[type(op)](op, x, here)


@collective(AllReduce)
def all_reduce(op: AllReduce, x: Array, here: Here) -> Handle[Array]:
    """16-bit values are added in wider ones and rounded once."""
    total = here.network.over(op.axes).all_reduce(x, op.fn, here.spare)
    return Then(total, lambda y: here.backend.rounded(y, here.type.dtype))


@collective(ReduceScatter)
def reduce_scatter(op: ReduceScatter, x: Array, here: Here) -> Handle[Array]:
    """Each device gets its own piece of the reduction."""
    parts = cut(x, here.type.index(op.dim), op.axes, here)
    total = here.network.over(op.axes).reduce_scatter(parts, op.fn)
    return Then(total, lambda y: here.backend.rounded(y, here.type.dtype))


@collective(AllGather)
def all_gather(op: AllGather, x: Array, here: Here) -> Handle[Array]:
    """Everybody's pieces in a row."""
    found = here.network.over(op.axes).all_gather(x)
    return Then(found, lambda parts: join(parts, here.type.index(op.dim), op.axes, here.size(op.dim), here))


@collective(AllToAll)
def all_to_all(op: AllToAll, x: Array, here: Here) -> Handle[Array]:
    """Cut along one dim, joined along another."""
    source, target = here.type.index(op.gather), here.type.index(op.scatter)
    parts = cut(x, target, op.axes, here)
    found = here.network.over(op.axes).all_to_all(parts, [here.backend.shape(p) for p in parts])
    return Then(found, lambda parts: join(parts, source, op.axes, here.size(op.gather), here))


@collective(Shard)
def shard(op: Shard, x: Array, here: Here) -> Handle[Array]:
    """The own piece of what is here already."""
    dim, shape = here.type.index(op.dim), here.backend.shape(x)
    mine = here.mesh.part(shape[dim], op.axes, here.at)
    part = here.backend.part(x, span(dim, *mine))
    size = here.size(op.dim)
    return Done(part if mine[1] - mine[0] == size else within(part, resized(shape, dim, size), dim, 0, here))


@collective(OnlyFirst)
def only_first(op: OnlyFirst, x: Array, here: Here) -> Handle[Array]:
    """Zeros but on the first device."""
    return Done(x if here.me(op.axes) == 0 else here.backend.full(here.backend.shape(x), here.type.dtype, 0))


@collective(MaskPad)
def mask_pad(op: MaskPad, x: Array, here: Here) -> Handle[Array]:
    """Elements beyond the logical size become `op.value`."""
    dim, shape = here.type.index(op.dim), here.backend.shape(x)
    low, high = here.mesh.part(here.type.shape[dim], here.before.dims[dim], here.at)
    inside = here.backend.part(x, span(dim, 0, high - low))
    return Done(within(inside, shape, dim, op.value, here))


@collective(Halo)
def halo(op: Halo, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one what that one's borders need of its own elements (most get nothing)."""
    dim, me = here.type.index(op.dim), here.me(op.axes)
    length, held = here.backend.shape(x)[dim], here.mesh.spans(here.type.size(op.dim), op.axes)
    needed = [(start - op.left, start + length + op.right) for start, _ in held]
    found = exchange(x, op, held, held[me][0], needed, here)
    shape = resized(here.backend.shape(x), dim, op.left + length + op.right)
    return Then(found, lambda parts: placed(parts, dim, shape, needed[me][0], op.fill, here))


@collective(HaloAdd)
def halo_add(op: HaloAdd, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one the part of its elements that lies in that one's own range, to be added."""
    dim, me = here.type.index(op.dim), here.me(op.axes)
    length, needed = here.backend.shape(x)[dim] - op.left - op.right, here.mesh.spans(here.type.size(op.dim), op.axes)
    held = [(start - op.left, start + length + op.right) for start, _ in needed]
    found, shape = exchange(x, op, held, held[me][0], needed, here), resized(here.backend.shape(x), dim, length)

    def add(parts: Sequence[tuple[Span, Array]]) -> Array:
        out = here.backend.full(shape, here.type.dtype, 0)  # `x` may be gone
        for where, part in parts:
            here.backend.accumulate(piece(out, dim, where, needed[me][0], here), part, "sum")
        return here.backend.rounded(out, here.type.dtype)

    return Then(found, add)


@collective(ShiftAcross)
def shift_across(op: ShiftAcross, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one what comes to lie in that one's range (most get nothing)."""
    dim, me, held = here.type.index(op.dim), here.me(op.axes), here.mesh.spans(here.type.size(op.dim), op.axes)
    size = here.type.size(op.dim) if op.around else 0
    by = op.by % size if op.around else op.by
    needed = [(start - by, stop - by) for start, stop in held]
    found = exchange(x, op, held, held[me][0], needed, here, size)
    shape, (start, stop) = here.backend.shape(x), needed[me]

    def moved(parts: Sequence[tuple[Span, Array]]) -> Array:
        used = placed(parts, dim, resized(shape, dim, stop - start), start, op.fill, here)
        return used if stop - start == shape[dim] else within(used, shape, dim, 0, here)

    return Then(found, moved)


@collective(ZigZagAcross)
def zigzag_across(op: ZigZagAcross, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one the blocks that this one has afterwards (most get nothing)."""
    dim, me, size = here.type.index(op.dim), here.me(op.axes), here.type.size(op.dim)
    held, shape, backend = here.mesh.spans(size, op.axes), here.backend.shape(x), here.backend
    start = held[me][0]

    def given(to: Span, of: Span) -> list[tuple[Span, Span]]:
        """What one piece gets of another: where it lies afterwards, and where before."""
        found = []
        for at, there, n in sources(op, size, *to):
            low, high = meet((there, there + n), of)
            if low < high:
                found.append(((at + low - there, at + high - there), (low, high)))
        return found

    def rows(of: Sequence[tuple[Span, Span]]) -> Array:
        parts = [piece(x, dim, before, start, here) for _, before in of]
        return (
            parts[0]
            if len(parts) == 1
            else backend.concat(parts, dim)
            if parts
            else piece(x, dim, (start,) * 2, start, here)
        )

    gets = [given(held[me], theirs) for theirs in held]
    shapes = [resized(shape, dim, sum(high - low for (low, high), _ in of)) for of in gets]
    found = here.network.over(op.axes).all_to_all([rows(given(theirs, held[me])) for theirs in held], shapes)

    def ordered(parts: Sequence[Array]) -> Array:
        there: list[tuple[Span, Array]] = []
        for of, part in zip(gets, parts, strict=True):
            at = 0
            for after, (low, high) in of:
                there.append((after, backend.part(part, span(dim, at, at + high - low))))
                at += high - low
        return placed(there, dim, shape, start, 0, here)

    return Then(found, ordered)


# --- pieces ---------------------------------------------------------------------------------------


def exchange(
    x: Array,
    op: Halo | HaloAdd | ShiftAcross,
    held: Sequence[Span],
    start: int,
    needed: Sequence[Span],
    here: Here,
    around: int = 0,
) -> Handle[list[tuple[Span, Array]]]:
    """Every device gets what it needs of each other's elements, with their positions along the dim.

    Args:
        x: this device's elements; `start` is the position of the first.
        held: the positions of which each device has elements to give.
        needed: the positions of which each device takes elements.
        around: the size of the whole, where the positions before its beginning are those at its end; 0: they are none.
    """
    dim, me = here.type.index(op.dim), here.me(op.axes)
    turns = (0, -around) if around else (0,)

    def common(of: Span, with_: Span) -> list[Span]:
        return [meet((of[0] + t, of[1] + t), with_) for t in turns]

    def given(theirs: Span) -> Array:
        found = [piece(x, dim, s, start + t, here) for t, s in zip(turns, common(held[me], theirs)) if s[0] < s[1]]
        return (
            found[0]
            if len(found) == 1
            else here.backend.concat(found, dim)
            if found
            else piece(x, dim, (start, start), start, here)
        )

    gets = [common(theirs, needed[me]) for theirs in held]
    shapes = [resized(here.backend.shape(x), dim, sum(high - low for low, high in of)) for of in gets]
    found = here.network.over(op.axes).all_to_all([given(theirs) for theirs in needed], shapes)

    def taken(parts: Sequence[Array]) -> list[tuple[Span, Array]]:
        rows: list[tuple[Span, Array]] = []
        for of, part in zip(gets, parts, strict=True):
            at = 0
            for low, high in of:
                rows.append(((low, high), here.backend.part(part, span(dim, at, at + high - low))))
                at += high - low
        return rows

    return Then(found, taken)


def placed(parts: Sequence[tuple[Span, Array]], dim: int, shape: Shape, start: int, fill: float, here: Here) -> Array:
    """A new array whose first element along the dim is position `start`: the parts where they belong, else `fill`."""
    out = here.backend.full(shape, here.type.dtype, fill)
    for where, part in parts:
        here.backend.assign(piece(out, dim, where, start, here), part)
    return out


def piece(x: Array, dim: int, where: Span, start: int, here: Here) -> Array:
    """The positions `where` of an array whose first element along the dim is position `start`: a view."""
    return here.backend.part(x, span(dim, where[0] - start, where[1] - start))


def cut(x: Array, dim: int, axes: Sequence[str], here: Here) -> list[Array]:
    """The pieces that the axes make along a dim, of the same length, zeros where there is nothing left."""
    parts = [x]
    for count in (here.mesh.sizes[a] for a in axes):
        length = -(-here.backend.shape(parts[0])[dim] // count)
        parts = [sliced(part, dim, i * length, length, here) for part in parts for i in range(count)]
    return parts


def sliced(x: Array, dim: int, start: int, length: int, here: Here) -> Array:
    """`length` elements from `start` on along a dim, zeros where there is nothing left."""
    shape = here.backend.shape(x)
    low, high = meet((start, start + length), (0, shape[dim]))
    part = here.backend.part(x, span(dim, low, high))
    return part if high - low == length else within(part, resized(shape, dim, length), dim, 0, here)


def join(parts: Sequence[Array], dim: int, axes: Sequence[str], size: int, here: Here) -> Array:
    """The pieces that the axes made in a row; each row is cut to what it had, all to `size` elements."""
    counts = [here.mesh.sizes[a] for a in axes]
    lengths = nested(size, counts)
    if not any(length % n for length, n in list(zip(lengths, counts))[1:]):  # nothing to be cut in the middle
        return here.backend.part(here.backend.concat(parts, dim), span(dim, 0, size))
    for count, length in zip(reversed(counts), lengths[-2::-1]):
        rows = [parts[i : i + count] for i in range(0, len(parts), count)]
        parts = [here.backend.part(here.backend.concat(row, dim), span(dim, 0, length)) for row in rows]
    return parts[0]


def within(x: Array, shape: Shape, dim: int, fill: float, here: Here) -> Array:
    """A new array that begins along a dim with `x` and goes on with `fill`."""
    out = here.backend.full(shape, here.type.dtype, fill)
    here.backend.assign(here.backend.part(out, span(dim, 0, here.backend.shape(x)[dim])), x)
    return out


def span(dim: int, start: int, stop: int) -> Index:
    """The index of elements start…stop along one dim."""
    return (*(slice(None),) * dim, slice(start, stop))


def meet(a: Span, b: Span) -> Span:
    """What two ranges have in common; (x, x) if that is nothing."""
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return low, max(low, high)


def resized(shape: Shape, dim: int, size: int) -> Shape:
    """The shape with another size along one dim."""
    return (*shape[:dim], size, *shape[dim + 1 :])
