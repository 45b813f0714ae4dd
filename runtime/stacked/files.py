"""Buffers of the stacked executor that lie in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from compiler.declared import in_front, logical, logical_type, range_of
from compiler.graph import Dim, Type
from compiler.layout import local_type
from compiler.memory.tiers import FILES
from compiler.program import DeviceClass, StateDecl
from runtime.distribute import Array, distribute
from runtime.mesh import Mesh
from runtime.numpy import STORAGE, LocalValue
from runtime.numpy.base import laid
from runtime.numpy.disk import DiskArray
from runtime.numpy.initial import BLOCK, init_array


def in_file(decl: StateDecl) -> bool:
    """Whether a buffer rests in a memory that is a file."""
    return decl.memory in FILES


def held(x: Any) -> Any:
    """What is in a buffer, as an array in memory."""
    return x.read() if isinstance(x, DiskArray) else x


def beginning(decl: StateDecl, cls: DeviceClass, group: int, mesh: Mesh, seed: int) -> DiskArray:
    """A buffer of a group, filled as it is declared, some rows after the others: none of it is in memory as a whole."""
    assert decl.init is not None
    whole, range = logical_type(decl, cls), range_of(decl, cls)
    found: DiskArray | None = None

    def made(low: int, high: int) -> Array:
        """These along the first dim."""
        region = []
        for i, d in enumerate(decl.type.dims):
            first = range.start.at(group) if range is not None and range.dim == d.name else 0
            a, b = (low, high) if i == 0 else (0, d.size)
            region.append((first + a, first + b))
        assert decl.init is not None
        array = init_array(decl.init, logical(decl), whole, seed, (*in_front(decl), *region))
        return array.reshape(array.shape[len(decl.iterations) :])

    starts = _starts(decl, mesh)
    for low, high in _rows(decl, len(starts)):
        pieces = [made(start + low, start + high) for start in starts]
        some = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        dims = (Dim(d.name, n) for d, n in zip(decl.type.dims, some.shape, strict=True))
        part = distribute(some, Type(decl.type.dtype, tuple(dims)), decl.layout, mesh)
        rows = (slice(low, high),) if decl.type.dims and (low, high) != (0, decl.type.shape[0]) else ()
        if found is None:
            found = DiskArray.empty(_shape(decl, mesh), STORAGE[decl.type.dtype], mesh.lead, part.strides)
        found[(slice(None),) * mesh.lead + rows] = part
    assert found is not None
    return found


def _shape(decl: StateDecl, mesh: Mesh) -> tuple[int, ...]:
    return (*mesh.lead_shape(decl.layout.axes), *local_type(decl.type, decl.layout, mesh.sizes).shape)


def _starts(decl: StateDecl, mesh: Mesh) -> list[int]:
    """Where the pieces of the first dim begin that devices have, if they are alike; else that is one: all of it."""
    pieces = prod(mesh.sizes[a] for a in decl.layout.dims[0]) if decl.type.dims else 1
    size = decl.type.shape[0] if decl.type.dims else 1
    return list(range(0, size, size // pieces)) if size and size % pieces == 0 else [0]


def _rows(decl: StateDecl, pieces: int) -> Iterator[tuple[int, int]]:
    """Of each piece of the first dim, as many at once as are made at once; all, where pieces are not alike."""
    sizes = decl.type.shape
    if not sizes or (decl.layout.dims[0] and pieces == 1):
        yield 0, sizes[0] if sizes else 1
        return
    step = max(1, BLOCK // max(1, pieces * prod(sizes[1:])))
    for low in range(0, sizes[0] // pieces, step):
        yield low, min(low + step, sizes[0] // pieces)


def stack_in_file(stack: LocalValue) -> Callable[[Any], DiskArray]:
    """Makes an empty stack, whose slices lie as those of one in memory do."""
    shape, storage, like = stack.shape, STORAGE[stack.type.dtype], falling(laid(stack))
    return lambda ctx: DiskArray.empty(shape, storage, len(stack.lead), like)


def falling(order: Sequence[int]) -> tuple[int, ...]:
    """Strides, but for their size, of axes in an order, outermost first."""
    return tuple(-order.index(i) for i in range(len(order)))


def renewed(lead: int) -> Callable[[Any, int, Any, DiskArray], Any]:
    """Puts a slice into the place of what a stack in a file contained: those that are there already lie as they do."""

    def put(stack: Any, i: int, value: Any, old: DiskArray) -> Any:
        there = isinstance(value, DiskArray) and value.within(old)
        if stack is None:
            stack, step = old, old.strides[lead]
            if there:
                strides = (*value.strides[:lead], step, *value.strides[lead:])
                stack = DiskArray(old.block, value.offset - i * step, old.shape, strides, old.dtype)
        if not there:
            stack[(slice(None),) * lead + (i,)] = value
        return stack

    return put


def over(lead: int, slice: LocalValue | None) -> Callable[[Any, Array, DiskArray], DiskArray]:
    """Moves what was made into the place of what nobody needs any more. slice: of a stack, whose slices lie alike."""
    first, like = (lead, ()) if slice is None else (-1, falling(laid(slice)))
    return lambda ctx, x, old: old.over(x, first, like)
