"""Windows (a strided view) and their adjoint (one strided addition per kernel element)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.ops.window import Fold, Window, span
from runtime.available import require_memory
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Kernel, LocalValue, finish, kernel
from runtime.numpy.borders import with_borders


def _require(value: LocalValue, elements: int) -> None:
    """What is beyond the ends of a dim is in no value of the program, and so in no account of its memory."""
    require_memory("a dim with what its windows see beyond its ends", elements * STORAGE[value.type.dtype]().itemsize)


@kernel(Window)
def plan_window(op: Window, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a view of the windows that a kernel sees along a dim."""
    axis = env.lead + ins[0].type.index(op.dim)
    size, n, k = ins[0].type.size(op.dim), outs[0].type.size(op.out.name), op.kernel.size
    dilation, wide = op.dilation, span(k, op.dilation)
    # A piece of a split dim comes with its borders.
    low = 0 if ins[0].axes[ins[0].type.index(op.dim)] else op.pad
    high = max(0, (n - 1) * op.stride + wide - low - size)
    if low or high:
        _require(ins[0], prod(ins[0].shape) // size * (low + size + high))
    fill, stride = STORAGE[ins[0].type.dtype](op.fill), op.stride

    def window(ctx: CallContext, x: Array) -> Array:
        if low or high:
            x = with_borders(ctx, x, axis, low, high, fill)
        step = x.strides[axis]
        return as_strided(
            x,
            (*x.shape[:axis], n, k, *x.shape[axis + 1 :]),
            (*x.strides[:axis], step * stride, step * dilation, *x.strides[axis + 1 :]),
            writeable=False,
        )

    return window


@kernel(Fold)
def plan_fold(op: Fold, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans sums of windows at the places that they came from: the transpose of `plan_window`."""
    lead, x_type, y_type = env.lead, ins[0].type, outs[0].type
    kernel, axis = lead + x_type.index(op.kernel), lead + y_type.index(op.dim.name)
    n, k, size = x_type.size(op.out), x_type.size(op.kernel), y_type.size(op.dim.name)
    # A piece of a split dim keeps its borders: they belong to the neighbours.
    low = 0 if outs[0].axes[y_type.index(op.dim.name)] else op.pad
    length = max((n - 1) * op.stride + span(k, op.dilation), low + size)
    shape = list(y_type.shape)
    shape[axis - lead] = length
    if length > size:
        _require(outs[0], prod(ins[0].lead) * prod(shape))
    before = (slice(None),) * axis
    places = [
        (*before, slice(i, i + (n - 1) * op.stride + 1, op.stride)) for i in range(0, k * op.dilation, op.dilation)
    ]
    parts: list[Any] = [(*(slice(None),) * kernel, i) for i in range(k)]
    result = (*before, slice(low, low + size))

    def fold(ctx: object, x: Array) -> Array:
        out = np.zeros((*x.shape[:lead], *shape), x.dtype)
        for place, part in zip(places, parts):
            out[place] += x[part]
        return out[result]

    return finish(fold, y_type.dtype)
