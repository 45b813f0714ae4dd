"""The program's collectives as one device sees them: cutting, joining and padding around the communicator's calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from compiler.graph import Type
from compiler.layout import TIME, Layout, local_type
from compiler.ops.base import Op
from compiler.ops.comm import AllGather, AllReduce, AllToAll, Halo, HaloAdd, MaskPad, OnlyFirst, ReduceScatter, Shard
from runtime.backend import Array, Backend, Index, Shape
from runtime.comm import Done, Handle, Network, Then
from runtime.mesh import Mesh

T = TypeVar("T")
Span = tuple[int, int]


class Collectives:
    """Starts collectives for one device. `at`: its mesh coordinates."""

    def __init__(self, backend: Backend, mesh: Mesh, at: Mapping[str, int], network: Network) -> None:
        self.backend, self.mesh, self.at, self.network = backend, mesh, at, network

    def start(self, op: Op, x: Array, type: Type, before: Layout, after: Layout, micro: int = 0) -> Handle[Array]:
        """One collective on this device's `x`, its piece of a value of logical `type` and layout `before`."""
        size = local_type(type, after, self.mesh.sizes).shape
        at = {**self.at, TIME: micro}
        match op:
            case AllReduce():
                return self._rounded(self.network.over(op.axes).all_reduce(x, op.fn), type)
            case ReduceScatter():
                dim = type.index(op.dim)
                parts = self.cut(x, dim, self.mesh.count(op.axes), size[dim], type.dtype)
                return self._rounded(self.network.over(op.axes).reduce_scatter(parts, op.fn), type)
            case AllGather():
                dim = type.index(op.dim)
                return Then(self.network.over(op.axes).all_gather(x), lambda parts: self.join(parts, dim, size[dim]))
            case AllToAll():
                source, target, n = type.index(op.gather), type.index(op.scatter), self.mesh.count(op.axes)
                parts = self.cut(x, target, n, size[target], type.dtype)
                found = self.network.over(op.axes).all_to_all(parts, [self.backend.shape(p) for p in parts])
                return Then(found, lambda parts: self.join(parts, source, size[source]))
            case Shard():
                dim = type.index(op.dim)
                parts = self.cut(x, dim, self.mesh.count(op.axes), size[dim], type.dtype)
                return Done(parts[self.mesh.piece(op.axes, at)])
            case OnlyFirst():
                return Done(x if self.mesh.piece(op.axes, at) == 0 else self.backend.full(size, type.dtype, 0))
            case MaskPad():
                return Done(self.mask_pad(op, x, type, before, at))
            case Halo():
                return self.halo(op, x, type)
            case HaloAdd():
                return self.halo_add(op, x, type)
        raise ValueError(f"no collective {op.mnemonic}")

    def _rounded(self, handle: Handle[Array], type: Type) -> Handle[Array]:
        return Then(handle, lambda x: self.backend.rounded(x, type.dtype))

    def cut(self, x: Array, dim: int, count: int, size: int, dtype: str) -> list[Array]:
        """`count` pieces of `size` elements along a dim, zeros where there is nothing left."""
        shape = self.backend.shape(x)
        parts = []
        for i in range(count):
            low, high = _meet((i * size, (i + 1) * size), (0, shape[dim]))
            part = self.backend.part(x, span(dim, low, high))
            if high - low < size:
                part = self._within(part, _with(shape, dim, size), dtype, dim, 0, 0)
            parts.append(part)
        return parts

    def join(self, parts: Sequence[Array], dim: int, size: int) -> Array:
        """The pieces in a row, cut to `size` elements."""
        return self.backend.part(self.backend.concat(parts, dim), span(dim, 0, size))

    def _within(self, x: Array, shape: Shape, dtype: str, dim: int, start: int, fill: float) -> Array:
        """A new array of this shape: `x` from `start` on along a dim, else `fill`."""
        out = self.backend.full(shape, dtype, fill)
        self.backend.assign(self.backend.part(out, span(dim, start, start + self.backend.shape(x)[dim])), x)
        return out

    def mask_pad(self, op: MaskPad, x: Array, type: Type, layout: Layout, at: Mapping[str, int]) -> Array:
        """Elements beyond the logical size become `op.value`."""
        dim, shape = type.index(op.dim), self.backend.shape(x)
        used = type.shape[dim] - self.mesh.piece(layout.dims[dim], at) * shape[dim]
        inside = self.backend.part(x, span(dim, 0, max(0, min(used, shape[dim]))))
        return self._within(inside, shape, type.dtype, dim, 0, op.value)

    def halo(self, op: Halo, x: Array, type: Type) -> Handle[Array]:
        """Every device sends each other one what that one's borders need of its own elements (most get nothing)."""
        dim, peers = type.index(op.dim), self.network.over(op.axes)
        shape = self.backend.shape(x)
        length, me = shape[dim], peers.rank
        held = [_meet((p * length, (p + 1) * length), (0, type.shape[dim])) for p in range(peers.size)]
        needs = [(p * length - op.left, (p + 1) * length + op.right) for p in range(peers.size)]
        parts = [self._piece(x, dim, _meet(need, held[me]), me * length) for need in needs]
        gets = [_meet(needs[me], own) for own in held]

        def join(found: Sequence[Array]) -> Array:
            out = self.backend.full(_with(shape, dim, op.left + length + op.right), type.dtype, op.fill)
            for got, part in zip(gets, found, strict=True):
                self.backend.assign(self._piece(out, dim, got, needs[me][0]), part)
            return out

        return Then(peers.all_to_all(parts, [_with(shape, dim, high - low) for low, high in gets]), join)

    def halo_add(self, op: HaloAdd, x: Array, type: Type) -> Handle[Array]:
        """Every device sends each other one the part of its elements that lies in that one's own range, to be added."""
        dim, peers = type.index(op.dim), self.network.over(op.axes)
        shape = self.backend.shape(x)
        length, me = shape[dim] - op.left - op.right, peers.rank
        own = [_meet((p * length, (p + 1) * length), (0, type.shape[dim])) for p in range(peers.size)]
        held = [(p * length - op.left, (p + 1) * length + op.right) for p in range(peers.size)]
        parts = [self._piece(x, dim, _meet(held[me], theirs), held[me][0]) for theirs in own]
        gets = [_meet(theirs, own[me]) for theirs in held]

        def add(found: Sequence[Array]) -> Array:
            out = self.backend.full(_with(shape, dim, length), type.dtype, 0)
            for got, part in zip(gets, found, strict=True):
                self.backend.accumulate(self._piece(out, dim, got, me * length), part, "sum")
            return self.backend.rounded(out, type.dtype)

        return Then(peers.all_to_all(parts, [_with(shape, dim, high - low) for low, high in gets]), add)

    def _piece(self, x: Array, dim: int, where: Span, start: int) -> Array:
        """The logical positions `where` of an array whose first element along the dim is position `start`."""
        return self.backend.part(x, span(dim, where[0] - start, where[1] - start))


def span(dim: int, start: int, stop: int) -> Index:
    """The index of elements start…stop along one dim."""
    return (*(slice(None),) * dim, slice(start, stop))


def _meet(a: Span, b: Span) -> Span:
    """What two ranges have in common; (x, x) if that is nothing."""
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return low, max(low, high)


def _with(shape: Shape, dim: int, size: int) -> Shape:
    return (*shape[:dim], size, *shape[dim + 1 :])
