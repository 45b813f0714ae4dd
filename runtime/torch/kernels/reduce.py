"""Sums and maxima, cumulative sums, the largest k."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ops.reduce import ArgMax, Cumsum, Reduce, TopK
from runtime.backend import Kernel
from runtime.torch.base import NARROW, STORAGE, Standpoint, Values, kernel, wrapped


@kernel(Reduce)
def plan_reduce(op: Reduce, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a sum or a maximum over the piece's own extent of some dims."""
    axes, dtype = tuple(ins[0].type.index(d) for d in op.dims), ins[0].type.dtype
    if not axes:
        return lambda ctx, x: x
    if op.fn == "max":
        return lambda ctx, x: x.amax(axes)
    storage = STORAGE[dtype]  # else integers would be summed to int64
    return wrapped(lambda ctx, x: x.sum(axes, dtype=storage), dtype)


@kernel(Cumsum)
def plan_cumsum(op: Cumsum, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans running sums along a dim, from its end if `reverse`."""
    axis, dtype = ins[0].type.index(op.dim), ins[0].type.dtype
    storage = STORAGE[dtype]
    wide = torch.float32 if dtype in NARROW else storage

    def cumsum(ctx: object, x: Tensor) -> Tensor:
        x = x.flip(axis) if op.reverse else x
        x = x.cumsum(axis, dtype=wide).to(storage)
        return x.flip(axis) if op.reverse else x

    return wrapped(cumsum, dtype)


@kernel(ArgMax)
def plan_argmax(op: ArgMax, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the number of the greatest element along a dim: the first of equal ones, of NaN the first."""
    axis = ins[0].type.index(op.dim)
    if where.device.type == "cpu":
        return lambda ctx, x: x.argmax(axis).to(torch.int32)

    def first(ctx: object, x: Tensor) -> Tensor:  # other devices promise no order of equal ones
        greatest = x.amax(axis, keepdim=True)
        there = (x == greatest) | (x != x)
        return there.to(torch.int32).argmax(axis).to(torch.int32) if x.numel() == 0 else _first(there, axis)

    return first


def _first(there: Tensor, axis: int) -> Tensor:
    """The number of the first True along the axis."""
    n = there.shape[axis]
    shape = [1] * there.dim()
    shape[axis] = n
    numbers = torch.arange(n, dtype=torch.int32, device=there.device).view(shape)
    return torch.where(there, numbers, n).amin(axis)


@kernel(TopK)
def plan_top_k(op: TopK, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the `k` greatest elements along a dim, in falling order, and their numbers; of equal ones the first come
    first, and NaN is the greatest (`torch.topk` promises no order)."""
    axis, k = ins[0].type.index(op.dim), op.into.size

    def top_k(ctx: object, x: Tensor) -> tuple[Tensor, Tensor]:
        values, order = torch.sort(x, dim=axis, descending=True, stable=True)
        return values.narrow(axis, 0, k), order.narrow(axis, 0, k).to(torch.int32)

    return top_k
