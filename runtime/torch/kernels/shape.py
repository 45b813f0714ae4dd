"""Regrouping, cutting and joining of dims."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ops.shape import Concat, Flip, Merge, Pad, Shift, Slice, Split
from compiler.ops.zigzag import ZigZag
from runtime.backend import Kernel
from runtime.torch.base import Standpoint, Values, kernel, number


@kernel(Split)
def plan_split(op: Split, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a dim as several: a view."""
    at = ins[0].type.index(op.dim)
    sizes = outs[0].type.shape[at : at + len(op.into)]
    return lambda ctx, x: x.unflatten(at, sizes)


@kernel(Merge)
def plan_merge(op: Merge, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans several dims as one: a transpose, if need be, and a reshape."""
    names, shape = ins[0].type.names, outs[0].type.shape
    order: list[str] = []
    for n in names:
        if n == op.dims[0]:
            order.extend(op.dims)
        elif n not in op.dims:
            order.append(n)
    perm = tuple(names.index(n) for n in order)
    return lambda ctx, x: x.permute(perm).reshape(shape)


@kernel(Slice)
def plan_slice(op: Slice, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a view of every `step`-th element of a range along a dim."""
    pick = (*(slice(None),) * ins[0].type.index(op.dim), slice(op.start, op.stop, op.step))
    return lambda ctx, x: x[pick]


@kernel(Pad)
def plan_pad(op: Pad, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a copy with elements of one value before and behind, along a dim."""
    axis, value = ins[0].type.index(op.dim), number(op.value, outs[0].type.dtype)
    size, shape = ins[0].type.size(op.dim), outs[0].type.shape

    def pad(ctx: object, x: Tensor) -> Tensor:
        out = x.new_full(shape, value)
        out.narrow(axis, op.low, size).copy_(x)
        return out

    return pad


@kernel(Concat)
def plan_concat(op: Concat, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans operands one behind the other along a dim."""
    axis = ins[0].type.index(op.dim)
    perms = [tuple(v.type.index(n) for n in _order(ins[0].type.names, v.type.names)) for v in ins]
    return lambda ctx, *xs: torch.cat([x.permute(p) for x, p in zip(xs, perms)], axis)


def _order(first: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    return first if set(first) == set(own) else own


@kernel(Flip)
def plan_flip(op: Flip, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a copy of a dim from its end."""
    axis = ins[0].type.index(op.dim)
    return lambda ctx, x: x.flip(axis)


@kernel(Shift)
def plan_shift(op: Shift, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a copy whose elements lie further along a dim, with a fill, or what left at the other end, at its start."""
    axis, fill = ins[0].type.index(op.dim), number(op.fill, outs[0].type.dtype)
    if op.around:
        return lambda ctx, x: torch.roll(x, op.by, axis)
    kept, low, high = ins[0].type.size(op.dim) - abs(op.by), max(op.by, 0), max(-op.by, 0)

    def shift(ctx: object, x: Tensor) -> Tensor:
        out = torch.full_like(x, fill)
        if kept > 0:
            out.narrow(axis, low, kept).copy_(x.narrow(axis, high, kept))
        return out

    return shift


@kernel(ZigZag)
def plan_zigzag(op: ZigZag, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a copy in which blocks of a dim lie in zig-zag order, or in their own again."""
    axis, n, length = ins[0].type.index(op.dim), op.parts, ins[0].type.size(op.dim) // (2 * op.parts)

    def there(ctx: object, x: Tensor) -> Tensor:
        first, last = x.unflatten(axis, (2 * n, length)).split(n, axis)
        return torch.stack([first, last.flip(axis)], axis + 1).flatten(axis, axis + 2)

    def back(ctx: object, x: Tensor) -> Tensor:
        first, last = x.unflatten(axis, (n, 2, length)).unbind(axis + 1)
        return torch.cat([first, last.flip(axis)], axis).flatten(axis, axis + 1)

    return back if op.back else there
