"""Sums and maxima, cumulative sums, the largest k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ops.reduce import ArgMax, Cumsum, Reduce, TopK
from runtime.numpy.base import Array, Env, Kernel, LocalValue, finish, kernel
from runtime.numpy.sums import sum_over


@kernel(Reduce)
def plan_reduce(op: Reduce, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a sum or a maximum over the piece's own extent of some dims."""
    axes = tuple(env.lead + ins[0].type.index(d) for d in op.dims)
    if not axes:
        return lambda ctx, x: x
    if op.fn == "max":
        return lambda ctx, x: x.max(axis=axes)
    if ins[0].type.dtype == "int32":
        return lambda ctx, x: x.sum(axis=axes, dtype=np.int32)
    left = tuple(i for i in range(len(ins[0].shape)) if i not in axes)
    return finish(lambda ctx, x: _without(sum_over(x, axes), left), outs[0].type.dtype)


def _without(x: Array, left: Sequence[int]) -> Array:
    return x.reshape(tuple([x.shape[i] for i in left]))


@kernel(Cumsum)
def plan_cumsum(op: Cumsum, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans running sums along a dim, from its end if `reverse`."""
    axis = env.lead + ins[0].type.index(op.dim)
    if op.reverse:
        return finish(lambda ctx, x: np.flip(np.flip(x, axis).cumsum(axis, dtype=x.dtype), axis), outs[0].type.dtype)
    return finish(lambda ctx, x: x.cumsum(axis, dtype=x.dtype), outs[0].type.dtype)


@kernel(ArgMax)
def plan_argmax(op: ArgMax, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans the number of the greatest element along a dim."""
    axis = env.lead + ins[0].type.index(op.dim)
    return lambda ctx, x: np.argmax(x, axis).astype(np.int32)  # the first of equal ones; of NaN the first


@kernel(TopK)
def plan_top_k(op: TopK, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans the `k` greatest elements along a dim, in falling order, and their numbers."""
    axis, k = env.lead + ins[0].type.index(op.dim), op.into.size
    last = ins[0].type.size(op.dim) - 1
    largest = (*(slice(None),) * axis, slice(None, -k - 1, -1))

    def top_k(ctx: object, x: Array) -> tuple[Array, Array]:
        # Sorted from the end, so that of equal ones the first comes last, and read backwards. (Negated, the smallest
        # integer would stay what it is, and NaN, which numpy sorts to the end, would be the smallest.)
        order = last - np.argsort(np.flip(x, axis), axis=axis, kind="stable")[largest]
        return np.take_along_axis(x, order, axis), order.astype(np.int32)

    return top_k
