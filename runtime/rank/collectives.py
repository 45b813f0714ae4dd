"""The program's collectives as one device sees them: cutting, joining and padding around the communicator's calls.

The code of each registers itself: `@collective(Op)`. It starts the exchange and gives a handle of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compiler.graph import Type
from compiler.layout import Layout, local_type
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
    parts = cut(x, here.type.index(op.dim), here.mesh.count(op.axes), here.size(op.dim), here)
    total = here.network.over(op.axes).reduce_scatter(parts, op.fn)
    return Then(total, lambda y: here.backend.rounded(y, here.type.dtype))


@collective(AllGather)
def all_gather(op: AllGather, x: Array, here: Here) -> Handle[Array]:
    """Everybody's pieces in a row."""
    found = here.network.over(op.axes).all_gather(x)
    return Then(found, lambda parts: join(parts, here.type.index(op.dim), here.size(op.dim), here))


@collective(AllToAll)
def all_to_all(op: AllToAll, x: Array, here: Here) -> Handle[Array]:
    """Cut along one dim, joined along another."""
    source, target = here.type.index(op.gather), here.type.index(op.scatter)
    parts = cut(x, target, here.mesh.count(op.axes), here.size(op.scatter), here)
    found = here.network.over(op.axes).all_to_all(parts, [here.backend.shape(p) for p in parts])
    return Then(found, lambda parts: join(parts, source, here.size(op.gather), here))


@collective(Shard)
def shard(op: Shard, x: Array, here: Here) -> Handle[Array]:
    """The own piece of what is here already."""
    parts = cut(x, here.type.index(op.dim), here.mesh.count(op.axes), here.size(op.dim), here)
    return Done(parts[here.me(op.axes)])


@collective(OnlyFirst)
def only_first(op: OnlyFirst, x: Array, here: Here) -> Handle[Array]:
    """Zeros but on the first device."""
    return Done(x if here.me(op.axes) == 0 else here.backend.full(here.backend.shape(x), here.type.dtype, 0))


@collective(MaskPad)
def mask_pad(op: MaskPad, x: Array, here: Here) -> Handle[Array]:
    """Elements beyond the logical size become `op.value`."""
    dim, shape = here.type.index(op.dim), here.backend.shape(x)
    used = here.type.shape[dim] - here.me(here.before.dims[dim]) * shape[dim]
    inside = here.backend.part(x, span(dim, 0, max(0, min(used, shape[dim]))))
    return Done(within(inside, shape, dim, op.value, here))


@collective(Halo)
def halo(op: Halo, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one what that one's borders need of its own elements (most get nothing)."""
    dim, n = here.type.index(op.dim), here.mesh.count(op.axes)
    length, logical = here.backend.shape(x)[dim], here.type.shape[dim]
    held = [meet((p * length, (p + 1) * length), (0, logical)) for p in range(n)]
    needed = [(p * length - op.left, (p + 1) * length + op.right) for p in range(n)]
    found = exchange(x, op, held, here.me(op.axes) * length, needed, here)
    shape = resized(here.backend.shape(x), dim, op.left + length + op.right)
    return Then(found, lambda parts: placed(parts, dim, shape, needed[here.me(op.axes)][0], op.fill, here))


@collective(HaloAdd)
def halo_add(op: HaloAdd, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one the part of its elements that lies in that one's own range, to be added."""
    dim, n, me = here.type.index(op.dim), here.mesh.count(op.axes), here.me(op.axes)
    length, logical = here.backend.shape(x)[dim] - op.left - op.right, here.type.shape[dim]
    held = [(p * length - op.left, (p + 1) * length + op.right) for p in range(n)]
    needed = [meet((p * length, (p + 1) * length), (0, logical)) for p in range(n)]
    found = exchange(x, op, held, held[me][0], needed, here)

    def add(parts: Sequence[tuple[Span, Array]]) -> Array:
        out = here.backend.full(resized(here.backend.shape(x), dim, length), here.type.dtype, 0)
        for where, part in parts:
            here.backend.accumulate(piece(out, dim, where, me * length, here), part, "sum")
        return here.backend.rounded(out, here.type.dtype)

    return Then(found, add)


@collective(ShiftAcross)
def shift_across(op: ShiftAcross, x: Array, here: Here) -> Handle[Array]:
    """Every device sends each other one what comes to lie in that one's range (most get nothing)."""
    dim, n, me = here.type.index(op.dim), here.mesh.count(op.axes), here.me(op.axes)
    length, logical = here.backend.shape(x)[dim], here.type.shape[dim]
    held = [(p * length, (p + 1) * length) for p in range(n)]
    needed = [meet((p * length - op.by, (p + 1) * length - op.by), (0, logical)) for p in range(n)]
    found = exchange(x, op, held, me * length, needed, here)
    shape, start = here.backend.shape(x), me * length - op.by
    return Then(found, lambda parts: placed(parts, dim, shape, start, op.fill, here))


# --- pieces ---------------------------------------------------------------------------------------


def exchange(
    x: Array, op: Halo | HaloAdd | ShiftAcross, held: Sequence[Span], start: int, needed: Sequence[Span], here: Here
) -> Handle[list[tuple[Span, Array]]]:
    """Every device gets what it needs of each other's elements, with their positions along the dim.

    Args:
        x: this device's elements; `start` is the position of the first.
        held: the positions of which each device has elements to give.
        needed: the positions of which each device takes elements.
    """
    dim, me = here.type.index(op.dim), here.me(op.axes)
    parts = [piece(x, dim, meet(held[me], theirs), start, here) for theirs in needed]
    gets = [meet(theirs, needed[me]) for theirs in held]
    shapes = [resized(here.backend.shape(x), dim, high - low) for low, high in gets]
    found = here.network.over(op.axes).all_to_all(parts, shapes)
    return Then(found, lambda parts: list(zip(gets, parts, strict=True)))


def placed(parts: Sequence[tuple[Span, Array]], dim: int, shape: Shape, start: int, fill: float, here: Here) -> Array:
    """A new array whose first element along the dim is position `start`: the parts where they belong, else `fill`."""
    out = here.backend.full(shape, here.type.dtype, fill)
    for where, part in parts:
        here.backend.assign(piece(out, dim, where, start, here), part)
    return out


def piece(x: Array, dim: int, where: Span, start: int, here: Here) -> Array:
    """The positions `where` of an array whose first element along the dim is position `start`: a view."""
    return here.backend.part(x, span(dim, where[0] - start, where[1] - start))


def cut(x: Array, dim: int, count: int, size: int, here: Here) -> list[Array]:
    """`count` pieces of `size` elements along a dim, zeros where there is nothing left."""
    shape, parts = here.backend.shape(x), []
    for i in range(count):
        low, high = meet((i * size, (i + 1) * size), (0, shape[dim]))
        part = here.backend.part(x, span(dim, low, high))
        parts.append(part if high - low == size else within(part, resized(shape, dim, size), dim, 0, here))
    return parts


def join(parts: Sequence[Array], dim: int, size: int, here: Here) -> Array:
    """The pieces in a row, cut to `size` elements."""
    return here.backend.part(here.backend.concat(parts, dim), span(dim, 0, size))


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
