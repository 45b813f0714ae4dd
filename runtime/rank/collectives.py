"""The program's collectives as one device sees them: cutting, joining and padding around the communicator's calls.

The code of each registers itself: `@collective(Op)` above a generator `(op, x, here)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from compiler.graph import Type
from compiler.layout import Layout, local_type
from compiler.ops.comm import (
    AllGather,
    AllReduce,
    AllToAll,
    Comm,
    Halo,
    HaloAdd,
    MaskPad,
    OnlyFirst,
    ReduceScatter,
    Shard,
    ShiftAcross,
)
from runtime.comm import Communicator, Wait
from runtime.distribute import Array, Mesh
from runtime.numpy import rounded


@dataclass(frozen=True, slots=True)
class Here:
    """A collective's operand of logical `type`, and the device: `at` its coordinates, `mb` included."""

    type: Type
    before: Layout
    after: Layout
    mesh: Mesh
    at: Mapping[str, int]
    comm: Communicator

    def size(self, dim: str) -> int:
        """What a piece of the result has along a dim."""
        return local_type(self.type, self.after, self.mesh.sizes).size(dim)

    def me(self, axes: Sequence[str]) -> int:
        """This device's number among those along the axes."""
        return self.mesh.piece(axes, self.at)


Code = Callable[[Any, Array, Here], Wait[Array]]
F = TypeVar("F", bound=Code)

CODE: dict[type[Comm], Code] = {}
"""What a device does for each collective; filled by `collective`."""


def collective(op: type[Comm]) -> Callable[[F], F]:
    """Register the code that follows as the collective's."""

    def register(code: F) -> F:
        CODE[op] = code
        return code

    return register


def run_collective(op: Comm, x: Array, here: Here) -> Wait[Array]:
    """One collective on this device's `x`, a piece of a value."""
    return CODE[type(op)](op, x, here)


@collective(AllReduce)
def all_reduce(op: AllReduce, x: Array, here: Here) -> Wait[Array]:
    """Every device brings its part."""
    return rounded((yield from here.comm.all_reduce(x, op.axes, op.fn)), here.type.dtype)


@collective(ReduceScatter)
def reduce_scatter(op: ReduceScatter, x: Array, here: Here) -> Wait[Array]:
    """Each piece goes to the device that adds it up."""
    parts = cut(x, here.type.index(op.dim), here.mesh.count(op.axes), here.size(op.dim))
    return rounded((yield from here.comm.reduce_scatter(parts, op.axes, op.fn)), here.type.dtype)


@collective(AllGather)
def all_gather(op: AllGather, x: Array, here: Here) -> Wait[Array]:
    """All pieces in a row."""
    return join((yield from here.comm.all_gather(x, op.axes)), here.type.index(op.dim), here.size(op.dim))


@collective(AllToAll)
def all_to_all(op: AllToAll, x: Array, here: Here) -> Wait[Array]:
    """Pieces of one dim against pieces of another."""
    parts = cut(x, here.type.index(op.scatter), here.mesh.count(op.axes), here.size(op.scatter))
    return join((yield from here.comm.all_to_all(parts, op.axes)), here.type.index(op.gather), here.size(op.gather))


@collective(Shard)
def shard(op: Shard, x: Array, here: Here) -> Wait[Array]:
    """This device's piece of its own copy."""
    yield from ()
    parts = cut(x, here.type.index(op.dim), here.mesh.count(op.axes), here.size(op.dim))
    return parts[here.me(op.axes)].copy()


@collective(OnlyFirst)
def only_first(op: OnlyFirst, x: Array, here: Here) -> Wait[Array]:
    """The value on the first device, zeros on the others."""
    yield from ()
    return x.copy() if here.me(op.axes) == 0 else np.zeros_like(x)


@collective(MaskPad)
def mask_pad(op: MaskPad, x: Array, here: Here) -> Wait[Array]:
    """Elements beyond the logical size become `op.value`."""
    yield from ()
    dim = here.type.index(op.dim)
    used = here.type.shape[dim] - here.me(here.before.dims[dim]) * x.shape[dim]
    out = x.copy()
    out[span(dim, max(0, used), x.shape[dim])] = op.value
    return out


@collective(Halo)
def halo(op: Halo, x: Array, here: Here) -> Wait[Array]:
    """Every device sends each other one what that one's borders need of its own elements (most get nothing)."""
    dim, n = here.type.index(op.dim), here.mesh.count(op.axes)
    length = x.shape[dim]
    logical, me = here.type.shape[dim], here.me(op.axes)
    own = _range(me * length, (me + 1) * length, 0, logical)
    parts = []
    for peer in range(n):
        low, high = _range(peer * length - op.left, (peer + 1) * length + op.right, *own)
        parts.append(x[span(dim, low - me * length, high - me * length)])
    found = yield from here.comm.all_to_all(parts, op.axes)
    shape = list(x.shape)
    shape[dim] = op.left + length + op.right
    out = np.full(shape, op.fill, x.dtype)
    start = me * length - op.left
    for peer, part in enumerate(found):
        low = _range(peer * length, (peer + 1) * length, 0, logical)[0]
        first = max(low, start)
        out[span(dim, first - start, first - start + part.shape[dim])] = part
    return out


@collective(HaloAdd)
def halo_add(op: HaloAdd, x: Array, here: Here) -> Wait[Array]:
    """Every device sends each other one the part of its elements that lies in that one's own range, to be added."""
    dim = here.type.index(op.dim)
    n, length = here.mesh.count(op.axes), x.shape[dim] - op.left - op.right
    logical, me = here.type.shape[dim], here.me(op.axes)
    start = me * length - op.left
    parts = []
    for peer in range(n):
        low, high = _range(start, start + x.shape[dim], *_range(peer * length, (peer + 1) * length, 0, logical))
        parts.append(x[span(dim, low - start, high - start)])
    found = yield from here.comm.all_to_all(parts, op.axes)
    shape = list(x.shape)
    shape[dim] = length
    out = np.zeros(shape, x.dtype)
    for peer, part in enumerate(found):
        low = max(peer * length - op.left, me * length)
        out[span(dim, low - me * length, low - me * length + part.shape[dim])] += part
    return rounded(out, here.type.dtype)


@collective(ShiftAcross)
def shift_across(op: ShiftAcross, x: Array, here: Here) -> Wait[Array]:
    """Every device sends each other one what comes to lie in that one's range (most get nothing)."""
    dim, n = here.type.index(op.dim), here.mesh.count(op.axes)
    length, me = x.shape[dim], here.me(op.axes)
    start = me * length + op.by  # where this device's elements go to
    parts = []
    for peer in range(n):
        low, high = _range(start, start + length, peer * length, (peer + 1) * length)
        parts.append(x[span(dim, low - start, high - start)])
    found = yield from here.comm.all_to_all(parts, op.axes)
    out = np.full_like(x, op.fill)
    for peer, part in enumerate(found):
        low = max(peer * length + op.by, me * length)
        out[span(dim, low - me * length, low - me * length + part.shape[dim])] = part
    return out


def cut(x: Array, dim: int, count: int, size: int) -> list[Array]:
    """`count` pieces of `size` elements along a dim, zeros where there is nothing left."""
    pads = [(0, 0)] * x.ndim
    pads[dim] = (0, count * size - x.shape[dim])
    return [np.asarray(p) for p in np.split(np.pad(x, pads), count, axis=dim)]


def join(parts: Sequence[Array], dim: int, size: int) -> Array:
    """The pieces in a row, cut to `size` elements."""
    return np.concatenate(parts, axis=dim)[span(dim, 0, size)].copy()


def span(dim: int, start: int, stop: int) -> tuple[slice, ...]:
    """The index of elements start…stop along one dim."""
    return (*(slice(None),) * dim, slice(start, stop))


def _range(low: int, high: int, least: int, most: int) -> tuple[int, int]:
    """[low, high) cut to [least, most); empty ranges are (x, x)."""
    low, high = max(low, least), min(high, most)
    return (low, high) if low < high else (low, low)
