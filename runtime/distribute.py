"""Between logical arrays and what devices hold.

A *stacked* array holds the pieces of all devices of one group: its leading axes are the mesh axes of the program in
order (size 1 where the value does not vary), the others the local dims. A *piece* is one device's array.

Which piece: each of the axes that split a dim, major to minor, cuts the pieces before it into parts of equal length,
rounded up (`compiler.layout.piece_of_dim`). Where it does not divide them, the last parts hold unused elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.declared import logical, logical_type, range_of
from compiler.graph import Type
from compiler.layout import TIME, Layout, local_type, nested
from compiler.program import DeviceClass, StateDecl
from dsl.diagnostics import fail
from runtime.mesh import Mesh
from runtime.readable import Readable

Array = NDArray[Any]


def distribute(array: Array, type: Type, layout: Layout, mesh: Mesh, time: bool = False) -> Array:
    """The stacked array of a logical one; a view where it can be, so treat it as read-only.

    With `time`, the array has one more axis in front: the micro-batches (size 1 if the layout does not split over
    them). Pending sums put the whole value at coordinate 0 and zeros elsewhere. Padding is zero.
    """
    if array.shape != type.shape:
        raise ValueError(f"{type} needs an array of shape {type.shape}, got {array.shape}")
    if layout.halo:
        raise ValueError("a value with borders is made by its own op, not distributed")
    axes = (TIME, *mesh.axes)
    where: dict[str | int, int] = {}
    for i, split in enumerate(layout.dims):
        for a in split:
            where[a] = len(where)
            array = parted_along(array, where[a], mesh.sizes[a])
        where[i] = len(where)
    order = [where[a] for a in axes if a in where] + [where[i] for i in range(len(type.dims))]
    lead = tuple(mesh.sizes[a] if a in where else 1 for a in axes)
    out = array.transpose(order)
    out = out.reshape(lead + out.shape[out.ndim - len(type.dims) :])
    for a, fn in layout.pending:
        i = axes.index(a)
        wide = np.broadcast_to(out, (*out.shape[:i], mesh.sizes[a], *out.shape[i + 1 :]))
        if fn == "sum":
            first = np.zeros((mesh.sizes[a],) + (1,) * (wide.ndim - i - 1), bool)
            first[0] = True
            wide = np.where(first, wide, np.zeros((), array.dtype))
        out = wide
    if time:
        return np.asarray(out)
    if out.shape[0] != 1:
        raise ValueError("a layout with the micro-batch axis needs time=True")
    return np.asarray(out[0])


def collect(stacked: Array, type: Type, layout: Layout, mesh: Mesh, name: str = "value") -> Array:
    """The logical array of a stacked one: resolves pending reductions, drops borders and padding.

    Raises E0703 where devices that must hold the same hold different bits.
    """
    lead = mesh.lead
    x = stacked
    for i, left, right in layout.halo:
        x = x[(slice(None),) * (lead + i) + (slice(left, x.shape[lead + i] - right),)]
    for a, fn in layout.pending:
        if a == TIME:
            raise ValueError("a value that is still split over micro-batches cannot be collected")
        x = reduce_lead(x, mesh.index(a), mesh.sizes[a], fn)
    for i, a in enumerate(mesh.axes):
        if a not in layout.split_axes and x.shape[i] != 1:
            first = x[(slice(None),) * i + (slice(0, 1),)]
            if not np.array_equal(np.broadcast_to(first, x.shape), x, equal_nan=x.dtype.kind == "f"):
                raise fail(
                    "E0703", f"`{name}` should be the same on all devices along `{a}`, but it differs",
                    help="the program lacks a collective, or its layout is stated wrongly",
                )  # fmt: skip
            x = first
    full = np.broadcast_to(x, (*mesh.lead_shape(layout.split_axes), *x.shape[lead:]))
    held = [a for a in mesh.axes if a in layout.split_axes]
    full = full.reshape([mesh.sizes[a] for a in held] + list(x.shape[lead:]))
    order: list[int] = []
    for i, split in enumerate(layout.dims):
        order += [held.index(a) for a in split] + [len(held) + i]
    out = full.transpose(order)
    for i, (dim, split) in enumerate(zip(type.dims, layout.dims, strict=True)):
        lengths = nested(dim.size, [mesh.sizes[a] for a in split])
        for k in reversed(range(len(split))):  # the parts of the minor-most axis become one again first
            at = i + k
            out = out.reshape(*out.shape[:at], -1, *out.shape[at + 2 :])
            out = out[(slice(None),) * at + (slice(0, lengths[k]),)]
    return np.array(out, order="C")


def parted_along(x: Array, at: int, count: int) -> Array:
    """Axis `at` as two: so many parts of equal length, the last of them filled up with zeros."""
    length = -(-x.shape[at] // count)
    if length * count != x.shape[at]:
        pads = [(0, 0)] * x.ndim
        pads[at] = (0, length * count - x.shape[at])
        x = np.pad(x, pads)
    return x.reshape(*x.shape[:at], count, length, *x.shape[at + 1 :])


def reduce_lead(x: Array, axis: int, count: int, fn: str) -> Array:
    """Sum or max along a leading axis, which keeps size 1; a value held once counts `count` times in a sum."""
    if x.shape[axis] == 1:
        return x * np.asarray(count, x.dtype) if fn == "sum" and count != 1 else x
    if fn == "sum":
        return np.asarray(np.add.reduce(x, axis, keepdims=True, dtype=x.dtype))
    return np.asarray(np.maximum.reduce(x, axis, keepdims=True))


def piece_of(array: Readable, type: Type, layout: Layout, mesh: Mesh, at: Mapping[str, int]) -> Array:
    """One device's own copy of its piece of a logical array; `at`: its coordinates (and `mb`)."""
    local = local_type(type, layout, mesh.sizes)
    if layout.halo:
        raise ValueError("a value with borders is made by its own op, not distributed")
    out = np.zeros(local.shape, array.dtype)
    if any(fn == "sum" and at[a] != 0 for a, fn in layout.pending):
        return out
    source = []
    for dim, split in zip(type.dims, layout.dims, strict=True):
        source.append(slice(*mesh.part(dim.size, split, at)))
    part = array[tuple(source)]
    out[tuple(slice(0, n) for n in part.shape)] = part
    return out


# --- states across groups -------------------------------------------------------------------------


def own_part(array: Array, decl: StateDecl, cls: DeviceClass, group: int) -> Array:
    """The iterations that the group holds of a logical array (a view)."""
    r = range_of(decl, cls)
    if decl.iterations:
        at: tuple[Any, ...] = (*(i.first for i in decl.iterations), ...)  # so that it is a view of a scalar, too
        array = array[at]
    if r is None:
        return array
    first = r.start.at(group)
    return array[(slice(None),) * decl.type.index(r.dim) + (slice(first, first + r.count),)]


def assemble(parts: Sequence[tuple[StateDecl, DeviceClass, int, Array]], add: bool) -> Array:
    """One logical array from what the groups hold of it: (declaration, class, group, the group's logical part).

    Parts that overlap are added (`add`: gradients, loss) or must be equal (weights and their states, E0703).
    """
    decl, cls, _, first = parts[0]
    whole = np.zeros(logical_type(decl, cls).shape, first.dtype)
    filled = np.zeros(whole.shape, bool) if len(parts) > 1 and not add else None
    for decl, cls, group, part in parts:
        target = own_part(whole, decl, cls, group)
        if add:
            target += part
            continue
        if filled is not None:
            done = own_part(filled, decl, cls, group)
            if done.any() and not np.array_equal(target[done], part[done], equal_nan=part.dtype.kind == "f"):
                raise fail(
                    "E0703", f"`{logical(decl)}` should be the same in all stages, but it differs",
                    help="a gradient of a weight that two stages use must be summed over them",
                )  # fmt: skip
            done[...] = True
        target[...] = part
    return whole
