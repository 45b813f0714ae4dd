"""Regrouping, cutting and joining of dims: views where numpy can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.ops.shape import Concat, Flip, Merge, Pad, Shift, Slice, Split
from compiler.ops.zigzag import ZigZag
from runtime.numpy.base import STORAGE, Array, Env, Kernel, LocalValue, kernel


@kernel(Split)
def plan_split(op: Split, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a dim as several: a reshape."""
    lead, shape = env.lead, outs[0].type.shape
    return lambda ctx, x: x.reshape(x.shape[:lead] + shape)


@kernel(Merge)
def plan_merge(op: Merge, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans several dims as one: a transpose, if need be, and a reshape."""
    lead, shape = env.lead, outs[0].type.shape
    names = ins[0].type.names
    order: list[str] = []
    for n in names:
        if n == op.dims[0]:
            order.extend(op.dims)
        elif n not in op.dims:
            order.append(n)
    perm = (*range(lead), *(lead + names.index(n) for n in order))
    return lambda ctx, x: x.transpose(perm).reshape(x.shape[:lead] + shape)


@kernel(Slice)
def plan_slice(op: Slice, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a view of every `step`-th element of a range along a dim."""
    axis = env.lead + ins[0].type.index(op.dim)
    pick = (*(slice(None),) * axis, slice(op.start, op.stop, op.step))
    return lambda ctx, x: x[pick]


@kernel(Pad)
def plan_pad(op: Pad, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a copy with elements of one value before and behind, along a dim."""
    lead, axis = env.lead, env.lead + ins[0].type.index(op.dim)
    size, shape, value = ins[0].type.size(op.dim), outs[0].type.shape, STORAGE[outs[0].type.dtype](op.value)
    before = (slice(None),) * axis
    middle = (*before, slice(op.low, op.low + size))
    borders = [(*before, slice(0, op.low)), (*before, slice(op.low + size, None))]

    def pad(ctx: object, x: Array) -> Array:
        out = np.empty(x.shape[:lead] + shape, x.dtype)
        out[middle] = x
        for border in borders:
            out[border] = value
        return out

    return pad


@kernel(Concat)
def plan_concat(op: Concat, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans operands one behind the other along a dim."""
    lead, axis = env.lead, env.lead + ins[0].type.index(op.dim)

    def concat(ctx: object, *xs: Array) -> Array:
        common = np.broadcast_shapes(*(x.shape[:lead] for x in xs))
        return np.concatenate([np.broadcast_to(x, common + x.shape[lead:]) for x in xs], axis)

    return concat


@kernel(Flip)
def plan_flip(op: Flip, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a view of a dim from its end."""
    axis = env.lead + ins[0].type.index(op.dim)
    pick = (*(slice(None),) * axis, slice(None, None, -1))
    return lambda ctx, x: x[pick]


@kernel(Shift)
def plan_shift(op: Shift, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a copy whose elements lie further along a dim, with a fill, or what left at the other end, at its start."""
    axis = env.lead + ins[0].type.index(op.dim)
    if op.around:
        return lambda ctx, x: np.roll(x, op.by, axis)
    fill = STORAGE[outs[0].type.dtype](op.fill)
    return lambda ctx, x: shifted(x, axis, op.by, fill)


def shifted(x: Array, axis: int, by: int, fill: Any) -> Array:
    """Every element `by` places further along the axis; `fill` where none comes from."""
    before, kept = (slice(None),) * axis, x.shape[axis] - abs(by)
    low, high = max(by, 0), max(-by, 0)
    out = np.full_like(x, fill)
    out[(*before, slice(low, low + kept))] = x[(*before, slice(high, high + kept))]
    return out


@kernel(ZigZag)
def plan_zigzag(op: ZigZag, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a copy in which blocks of a dim lie in zig-zag order, or in their own again."""
    axis = env.lead + ins[0].type.index(op.dim)
    return lambda ctx, x: zigzag(x, axis, op.parts, op.back)


def zigzag(x: Array, axis: int, parts: int, back: bool) -> Array:
    """Block i and block 2·parts-1-i of 2·parts behind each other, or `back`."""
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    length = x.shape[axis] // (2 * parts)
    at: tuple[Any, ...] = (slice(None),) * axis
    if back:
        pairs = x.reshape((*before, parts, 2, length, *behind))
        first, last = pairs[(*at, slice(None), 0)], pairs[(*at, slice(None, None, -1), 1)]
        return np.concatenate([first, last], axis).reshape(x.shape)
    blocks = x.reshape((*before, 2 * parts, length, *behind))
    first, last = blocks[(*at, slice(parts))], blocks[(*at, slice(None, parts - 1, -1))]
    return np.stack([first, last], axis + 1).reshape(x.shape)
