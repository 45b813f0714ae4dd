"""Windows (a strided view) and their adjoint (one strided addition per kernel element)."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ops.window import Fold, Window, span
from runtime.backend import Kernel
from runtime.torch.base import NARROW, STORAGE, Standpoint, Values, kernel, number


@kernel(Window)
def plan_window(op: Window, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a view of the windows that a kernel sees along a dim."""
    axis = ins[0].type.index(op.dim)
    size, n, k = ins[0].type.size(op.dim), outs[0].type.size(op.out.name), op.kernel.size
    dilation, wide, stride = op.dilation, span(k, op.dilation), op.stride
    # A piece of a split dim comes with its borders.
    low = 0 if ins[0].axes[axis] else op.pad
    high = max(0, (n - 1) * stride + wide - low - size)
    fill, shape = number(op.fill, ins[0].type.dtype), ins[0].type.shape
    padded = (*shape[:axis], low + size + high, *shape[axis + 1 :])

    def window(ctx: object, x: Tensor) -> Tensor:
        if low or high:
            out = x.new_full(padded, fill)
            out.narrow(axis, low, size).copy_(x)
            x = out
        step = x.stride(axis)
        sizes = (*x.shape[:axis], n, k, *x.shape[axis + 1 :])
        strides = (*x.stride()[:axis], step * stride, step * dilation, *x.stride()[axis + 1 :])
        return x.as_strided(sizes, strides)

    return window


@kernel(Fold)
def plan_fold(op: Fold, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans sums of windows at the places that they came from: the transpose of `plan_window`."""
    x_type, y_type = ins[0].type, outs[0].type
    at_kernel, axis = x_type.index(op.kernel), y_type.index(op.dim.name)
    n, k, size = x_type.size(op.out), x_type.size(op.kernel), y_type.size(op.dim.name)
    # A piece of a split dim keeps its borders: they belong to the neighbours.
    low = 0 if outs[0].axes[axis] else op.pad
    length = max((n - 1) * op.stride + span(k, op.dilation), low + size)
    shape = (*y_type.shape[:axis], length, *y_type.shape[axis + 1 :])
    storage = STORAGE[y_type.dtype]
    wide = torch.float32 if y_type.dtype in NARROW else storage
    before = (slice(None),) * axis
    places = [
        (*before, slice(i, i + (n - 1) * op.stride + 1, op.stride)) for i in range(0, k * op.dilation, op.dilation)
    ]

    def fold(ctx: object, x: Tensor) -> Tensor:
        out = torch.zeros(shape, dtype=wide, device=x.device)
        for place, part in zip(places, x.unbind(at_kernel)):
            out[place] += part
        return out.narrow(axis, low, size).to(storage)

    return fold
