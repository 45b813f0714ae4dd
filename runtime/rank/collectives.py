"""The program's collectives as one device sees them: cutting, joining and padding around the communicator's calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.graph import Type
from compiler.layout import Layout, local_type
from compiler.ops.base import Op
from compiler.ops.comm import AllGather, AllReduce, AllToAll, Halo, HaloAdd, MaskPad, OnlyFirst, ReduceScatter, Shard
from runtime.comm import Communicator, Wait
from runtime.distribute import Array, Mesh
from runtime.numpy import rounded


def collective(
    op: Op, x: Array, type: Type, before: Layout, after: Layout, mesh: Mesh, at: Mapping[str, int], comm: Communicator
) -> Wait[Array]:
    """One collective on this device's `x`, a piece of a value of logical `type`. `at`: coordinates, `mb` included."""
    size = local_type(type, after, mesh.sizes).shape
    if isinstance(op, AllReduce):
        return rounded((yield from comm.all_reduce(x, op.axes, op.fn)), type.dtype)
    if isinstance(op, ReduceScatter):
        dim = type.index(op.dim)
        parts = cut(x, dim, mesh.count(op.axes), size[dim])
        return rounded((yield from comm.reduce_scatter(parts, op.axes, op.fn)), type.dtype)
    if isinstance(op, AllGather):
        dim = type.index(op.dim)
        return join((yield from comm.all_gather(x, op.axes)), dim, size[dim])
    if isinstance(op, AllToAll):
        source, target = type.index(op.gather), type.index(op.scatter)
        parts = cut(x, target, mesh.count(op.axes), size[target])
        return join((yield from comm.all_to_all(parts, op.axes)), source, size[source])
    if isinstance(op, Shard):
        dim = type.index(op.dim)
        return cut(x, dim, mesh.count(op.axes), size[dim])[mesh.piece(op.axes, at)].copy()
    if isinstance(op, OnlyFirst):
        return x.copy() if mesh.piece(op.axes, at) == 0 else np.zeros_like(x)
    if isinstance(op, MaskPad):
        return mask_pad(op, x, type, before, mesh, at)
    if isinstance(op, Halo):
        return (yield from halo(op, x, type, mesh, at, comm))
    if isinstance(op, HaloAdd):
        return (yield from halo_add(op, x, type, mesh, at, comm))
    raise ValueError(f"no collective {op.mnemonic}")


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


def mask_pad(op: MaskPad, x: Array, type: Type, layout: Layout, mesh: Mesh, at: Mapping[str, int]) -> Array:
    """Elements beyond the logical size become `op.value`."""
    dim = type.index(op.dim)
    used = type.shape[dim] - mesh.piece(layout.dims[dim], at) * x.shape[dim]
    out = x.copy()
    out[span(dim, max(0, used), x.shape[dim])] = op.value
    return out


def halo(op: Halo, x: Array, type: Type, mesh: Mesh, at: Mapping[str, int], comm: Communicator) -> Wait[Array]:
    """Every device sends each other one what that one's borders need of its own elements (most get nothing)."""
    dim, n, length = type.index(op.dim), mesh.count(op.axes), x.shape[type.index(op.dim)]
    logical, me = type.shape[dim], mesh.piece(op.axes, at)
    own = _range(me * length, (me + 1) * length, 0, logical)
    parts = []
    for peer in range(n):
        low, high = _range(peer * length - op.left, (peer + 1) * length + op.right, *own)
        parts.append(x[span(dim, low - me * length, high - me * length)])
    found = yield from comm.all_to_all(parts, op.axes)
    shape = list(x.shape)
    shape[dim] = op.left + length + op.right
    out = np.full(shape, op.fill, x.dtype)
    start = me * length - op.left
    for peer, part in enumerate(found):
        low = _range(peer * length, (peer + 1) * length, 0, logical)[0]
        first = max(low, start)
        out[span(dim, first - start, first - start + part.shape[dim])] = part
    return out


def halo_add(op: HaloAdd, x: Array, type: Type, mesh: Mesh, at: Mapping[str, int], comm: Communicator) -> Wait[Array]:
    """Every device sends each other one the part of its elements that lies in that one's own range, to be added."""
    dim = type.index(op.dim)
    n, length = mesh.count(op.axes), x.shape[dim] - op.left - op.right
    logical, me = type.shape[dim], mesh.piece(op.axes, at)
    start = me * length - op.left
    parts = []
    for peer in range(n):
        low, high = _range(start, start + x.shape[dim], *_range(peer * length, (peer + 1) * length, 0, logical))
        parts.append(x[span(dim, low - start, high - start)])
    found = yield from comm.all_to_all(parts, op.axes)
    shape = list(x.shape)
    shape[dim] = length
    out = np.zeros(shape, x.dtype)
    for peer, part in enumerate(found):
        low = max(peer * length - op.left, me * length)
        out[span(dim, low - me * length, low - me * length + part.shape[dim])] += part
    return rounded(out, type.dtype)


def _range(low: int, high: int, least: int, most: int) -> tuple[int, int]:
    """[low, high) cut to [least, most); empty ranges are (x, x)."""
    low, high = max(low, least), min(high, most)
    return (low, high) if low < high else (low, low)
