"""Collectives on stacked arrays: each moves data between the leading (mesh) axes and the local dims.

Every function here returns `f(ctx, x)`: a closure for one instruction, planned once. The planner of each collective
registers itself: `@collective(Op)`. Results may be views of operands;
nobody writes into a value once it is defined, so views are safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce as reduced
from itertools import pairwise
from typing import Any

import numpy as np

from compiler.graph import Type
from compiler.layout import TIME, Layout, local_type, nested, piece_of_dim
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
from compiler.ops.zigzag import ZigZagAcross
from dsl.data import dataclass
from runtime.distribute import Array, parted_along, reduce_lead
from runtime.mesh import Mesh
from runtime.numpy import CallContext, rounded
from runtime.numpy.base import inverse
from runtime.numpy.borders import with_borders
from runtime.numpy.shape import shifted, zigzag

Step = Callable[[CallContext, Array], Array]


@dataclass(frozen=True, slots=True)
class Around:
    """A collective's operand of logical `type`, which goes from layout `before` to `after`."""

    type: Type
    before: Layout
    after: Layout
    mesh: Mesh

    def size(self, dim: str) -> int:
        """What a piece of the result has along a dim."""
        return local_type(self.type, self.after, self.mesh.sizes).size(dim)


Plan = Callable[[Any, Around], Step]

PLANS: ByOp[Plan] = ByOp()
"""What plans each collective; `@collective(Op)` above it enters it."""

collective = PLANS.of


def plan_comm(op: Comm, type_: Type, before: Layout, after: Layout, mesh: Mesh) -> Step:
    """The closure for a collective on a value of logical type `type_` that goes from layout `before` to `after`."""
    return PLANS[type(op)](op, Around(type_, before, after, mesh))


@collective(AllReduce)
def all_reduce(op: AllReduce, x: Around) -> Step:
    """Sum or max along the axes."""
    return reduce(op.axes, op.fn, x.type.dtype, x.mesh)


@collective(ReduceScatter)
def reduce_scatter(op: ReduceScatter, x: Around) -> Step:
    """Reduced, then cut."""
    first = reduce(op.axes, op.fn, x.type.dtype, x.mesh)
    second = cut(x.type.index(op.dim), op.axes, x.mesh)
    return lambda ctx, a: second(ctx, first(ctx, a))


@collective(AllGather)
def all_gather(op: AllGather, x: Around) -> Step:
    """The axes become part of the dim again."""
    return gather(x.type.index(op.dim), op.axes, x.size(op.dim), x.mesh)


@collective(AllToAll)
def all_to_all(op: AllToAll, x: Around) -> Step:
    """Gathered along one dim, cut along another."""
    join = gather(x.type.index(op.gather), op.axes, x.size(op.gather), x.mesh)
    part = cut(x.type.index(op.scatter), op.axes, x.mesh)
    return lambda ctx, a: part(ctx, join(ctx, a))


@collective(Shard)
def shard(op: Shard, x: Around) -> Step:
    """Each device's own piece."""
    return cut(x.type.index(op.dim), op.axes, x.mesh)


def reduce(axes: Sequence[str], fn: str, dtype: str, mesh: Mesh) -> Step:
    """Sum or max along mesh axes; each keeps size 1. 16-bit values are added in float32 and rounded once."""
    steps = [(mesh.index(a), mesh.sizes[a]) for a in axes]
    narrow = dtype in ("bf16", "f16") and fn == "sum"

    def step(ctx: CallContext, x: Array) -> Array:
        for i, n in steps:
            x = reduce_lead(x, i, n, fn)
        return rounded(x, dtype) if narrow else x

    return step


def gather(dim: int, axes: Sequence[str], size: int, mesh: Mesh) -> Step:
    """The axes (minor-most of the dim) become part of the dim again, which is then cut to `size`."""
    counts = [mesh.sizes[a] for a in axes]
    lengths = nested(size, counts)
    if any(length % n for length, n in list(zip(lengths, counts))[1:]):  # parts in the middle have to be cut, too
        steps = [gather(dim, (a,), length, mesh) for a, length in zip(axes, lengths)]
        return lambda ctx, x: reduced(lambda part, step: step(ctx, part), reversed(steps), x)
    lead, n = mesh.lead, mesh.count(axes)
    where = [mesh.index(a) for a in axes]
    at = lead + dim
    rest = [i for i in range(lead) if i not in where]

    def step(ctx: CallContext, x: Array) -> Array:
        x = spread(x, where, mesh)
        shape = list(x.shape)
        order = rest + list(range(lead, at)) + where + list(range(at, x.ndim))
        for i in where:
            shape[i] = 1
        shape[at] *= n
        out = joined(ctx, x.transpose(order), at - len(where), at, tuple(shape))
        return out if shape[at] == size else out[(slice(None),) * at + (slice(0, size),)]

    return step


def joined(ctx: CallContext, x: Array, first: int, last: int, shape: tuple[int, ...]) -> Array:
    """`x` with axes first..last as one: a view if that is possible, else a copy in memory of the executor."""
    steps = [(x.strides[i], x.shape[i]) for i in range(first, last + 1) if x.shape[i] > 1]
    if all(outer == inner * n for (outer, _), (inner, n) in pairwise(steps)):
        return x.reshape(shape)
    out = ctx.empty(shape, x.dtype)
    np.copyto(out.reshape(x.shape), x)
    return out


def cut(dim: int, axes: Sequence[str], mesh: Mesh) -> Step:
    """Each device keeps its own piece of its own copy: a view, after padding where uneven."""
    at = mesh.lead + dim

    def step(ctx: CallContext, x: Array) -> Array:
        for a in axes:
            x = parted_along(x, at, mesh.sizes[a])
            if a == TIME:
                x = x[(slice(None),) * at + (ctx.micro,)]
                continue
            i = mesh.index(a)
            if x.shape[i] == 1:  # one copy for all: the pieces become the leading axis
                x = np.swapaxes(x, i, at).squeeze(at)
            else:
                x = np.moveaxis(np.diagonal(x, axis1=i, axis2=at), -1, i)
        return x

    return step


@collective(OnlyFirst)
def only_first(op: OnlyFirst, around: Around) -> Step:
    """The value where all coordinates on the axes (and the micro-batch, if named) are 0; zeros elsewhere."""
    mesh = around.mesh
    number, per_microbatch = pieces(mesh, op.axes)

    def step(ctx: CallContext, x: Array) -> Array:
        keep = number + per_microbatch * ctx.micro == 0
        return np.where(keep.reshape(keep.shape + (1,) * (x.ndim - mesh.lead)), x, np.zeros((), x.dtype))

    return step


@collective(MaskPad)
def mask_pad(op: MaskPad, around: Around) -> Step:
    """Elements beyond the logical size become `op.value`."""
    type, mesh, value = around.type, around.mesh, op.value
    dim = type.index(op.dim)
    size, axes = around.size(op.dim), around.before.dims[dim]
    after = (1,) * (len(type.dims) - dim - 1)
    count = np.arange(size).reshape(*(1,) * (mesh.lead + dim), size, *after)
    coords, lead = coordinates(mesh, axes), mesh.lead_shape(frozenset(axes))

    def step(ctx: CallContext, x: Array) -> Array:
        at = {**coords, TIME: ctx.micro}
        start, stop = piece_of_dim(type.shape[dim], axes, mesh.sizes, at, np.minimum)
        used = np.broadcast_to(stop - start, lead).reshape(*lead, *(1,) * (dim + 1), *after)
        return np.where(count < used, x, np.asarray(value, x.dtype))

    return step


@collective(Halo)
def halo(op: Halo, around: Around) -> Step:
    """Pieces with their neighbours' borders: the pieces are joined, padded with `fill`, and cut with overlap."""
    mesh, dim = around.mesh, around.type.index(op.dim)
    logical = around.type.shape[dim]
    _whole(op.axes, around.before.dims[dim])
    at = mesh.lead + dim
    where = [mesh.index(a) for a in op.axes]
    joining, starts = gather(dim, op.axes, logical, mesh), [start for start, _ in mesh.spans(logical, op.axes)]

    def step(ctx: CallContext, x: Array) -> Array:
        length = x.shape[at]
        joined = joining(ctx, x)
        joined = with_borders(ctx, joined, at, op.left, starts[-1] + length - logical + op.right, op.fill)
        width = op.left + length + op.right
        windows = np.lib.stride_tricks.sliding_window_view(joined, width, axis=at)
        even = starts == list(range(0, len(starts) * length, length))
        chosen = slice(None, None, length) if even else starts
        windows = windows[(slice(None),) * at + (chosen,)]  # dim -> pieces, elements last
        windows = np.moveaxis(windows, -1, at + 1)
        windows = windows.reshape(*windows.shape[:at], *(mesh.sizes[a] for a in op.axes), *windows.shape[at + 1 :])
        for k, i in enumerate(where):  # each swap fills the size-1 axis i and leaves a 1 in its place
            windows = np.swapaxes(windows, i, at + k)
        return windows.squeeze(tuple(range(at, at + len(where))))

    return step


@collective(HaloAdd)
def halo_add(op: HaloAdd, around: Around) -> Step:
    """The adjoint of `halo`: borders are added to the neighbours' elements; what lies outside is dropped."""
    mesh, dim = around.mesh, around.type.index(op.dim)
    _whole(op.axes, around.before.dims[dim])
    n, at = mesh.count(op.axes), mesh.lead + dim
    logical, dtype = around.type.shape[dim], around.type.dtype
    starts = [start for start, _ in mesh.spans(logical, op.axes)]

    along = mesh.index(op.axes[0]) if len(op.axes) == 1 else None

    def step(ctx: CallContext, x: Array) -> Array:
        width = x.shape[at]
        length = width - op.left - op.right
        if along is not None and x.shape[along] * length == logical and max(op.left, op.right) <= length:
            return rounded(_add_borders(ctx, x, along, at, op.left, op.right), dtype)
        separate = gather(dim, op.axes, n * width, mesh)(ctx, x)
        shape = list(separate.shape)
        shape[at] = op.left + starts[-1] + length + op.right
        total = np.zeros(shape, x.dtype)
        before = (slice(None),) * at
        for p, start in enumerate(starts):
            piece = separate[(*before, slice(p * width, (p + 1) * width))]
            total[(*before, slice(start, start + width))] += piece
        inside = rounded(total[(*before, slice(op.left, op.left + logical))], dtype)
        return cut(dim, op.axes, mesh)(ctx, inside)

    return step


def _add_borders(ctx: CallContext, x: Array, along: int, at: int, left: int, right: int) -> Array:
    """The pieces' own elements, and what the pieces before and behind have of them. Even pieces of one axis."""
    length = x.shape[at] - left - right

    def part(a: Array, pieces: slice, elements: slice) -> Array:
        index = [slice(None)] * a.ndim
        index[along], index[at] = pieces, elements
        return a[tuple(index)]

    own = part(x, slice(None), slice(left, left + length))
    order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
    out = ctx.empty(tuple(own.shape[i] for i in order), x.dtype).transpose(inverse(order))
    np.copyto(out, own)
    if right:
        into = part(out, slice(1, None), slice(0, right))
        np.add(into, part(x, slice(None, -1), slice(left + length, None)), out=into)
    if left:
        into = part(out, slice(None, -1), slice(length - left, None))
        np.add(into, part(x, slice(1, None), slice(0, left)), out=into)
    return out


@collective(ShiftAcross)
def shift_across(op: ShiftAcross, around: Around) -> Step:
    """The pieces are joined, shifted and cut again."""
    mesh, dim = around.mesh, around.type.index(op.dim)
    n = around.type.shape[dim]
    if op.around and n == mesh.count(op.axes) and len(op.axes) == 1:  # one element each: devices change places
        return lambda ctx, x: np.roll(spread(x, [mesh.index(op.axes[0])], mesh), op.by, mesh.index(op.axes[0]))
    joining = gather(dim, op.axes, around.type.shape[dim], mesh)
    cutting = cut(dim, op.axes, mesh)

    def step(ctx: CallContext, x: Array) -> Array:
        whole, at = joining(ctx, x), mesh.lead + dim
        return cutting(ctx, np.roll(whole, op.by, at) if op.around else shifted(whole, at, op.by, op.fill))

    return step


@collective(ZigZagAcross)
def zigzag_across(op: ZigZagAcross, around: Around) -> Step:
    """The pieces are joined, their blocks ordered and cut again."""
    dim, mesh = around.type.index(op.dim), around.mesh
    joining, cutting = gather(dim, op.axes, around.type.shape[dim], mesh), cut(dim, op.axes, mesh)
    return lambda ctx, x: cutting(ctx, zigzag(joining(ctx, x), mesh.lead + dim, op.parts, op.back))


def spread(x: Array, where: Sequence[int], mesh: Mesh) -> Array:
    """A view in which these leading axes have their full size."""
    shape = list(x.shape)
    for i in where:
        shape[i] = mesh.shape[i]
    return np.broadcast_to(x, shape) if tuple(shape) != x.shape else x


def _whole(axes: Sequence[str], split: Sequence[str]) -> None:
    if tuple(axes) != tuple(split):
        raise ValueError(f"borders go along all axes {split} of the dim, not only {axes}")


def coordinates(mesh: Mesh, axes: Sequence[str]) -> dict[str, Array]:
    """Of each of these axes the coordinates of all devices, as an array over the leading axes."""
    found = {}
    for a in axes:
        if a != TIME:
            shape = [1] * mesh.lead
            shape[mesh.index(a)] = mesh.sizes[a]
            found[a] = np.arange(mesh.sizes[a], dtype=np.int64).reshape(shape)
    return found


def pieces(mesh: Mesh, axes: Sequence[str]) -> tuple[Array, int]:
    """The piece numbers as an array over the leading axes (size 1 where equal), and what one micro-batch adds."""
    number = np.zeros((1,) * mesh.lead, np.int64)
    per_microbatch = 0
    for a in axes:
        n = mesh.sizes[a]
        number, per_microbatch = number * n, per_microbatch * n
        if a == TIME:
            per_microbatch += 1
        else:
            shape = [1] * mesh.lead
            shape[mesh.index(a)] = n
            number = number + np.arange(n, dtype=np.int64).reshape(shape)
    return number, per_microbatch
