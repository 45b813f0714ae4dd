"""Products with an operand that is no matrix in memory (windows of a convolution), made into one block by block.

The whole matrix would be as many times larger than the operand as a kernel has elements. A block of it stays in the
second-level cache until the product has read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import numpy as np

from runtime.numpy.base import Array, CallContext

BLOCK = 1 << 17
"""Elements of a block: 512 KiB of float32."""

LARGE = 1 << 18
"""Elements of an operand from which on it is taken in blocks."""


def is_matrix(x: Array, rows: int) -> bool:
    """Whether the first axes (so many) and the others can each be seen as one, without a copy."""
    for group in (range(rows), range(rows, x.ndim)):
        steps = [(x.strides[i], x.shape[i]) for i in group if x.shape[i] > 1]
        if any(outer != inner * n for (outer, _), (inner, n) in zip(steps, steps[1:])):
            return False
    return True


def blocks(sizes: Sequence[int], width: int) -> Iterator[tuple[tuple[int | slice, ...], int, int]]:
    """Blocks of dims that are walked as one: the index of each, and from where to behind where it goes.

    width: elements that go with one place.
    """
    axis, inside = len(sizes), 1
    while axis and inside * sizes[axis - 1] * width <= BLOCK:
        axis -= 1
        inside *= sizes[axis]
    if not axis:
        yield (), 0, inside
        return
    part = max(1, BLOCK // (inside * width))
    for number, outer in enumerate(product(*map(range, sizes[: axis - 1]))):
        for i in range(0, sizes[axis - 1], part):
            stop = min(i + part, sizes[axis - 1])
            before = number * sizes[axis - 1]
            yield (*outer, slice(i, stop)), (before + i) * inside, (before + stop) * inside


def by_rows(ctx: CallContext, x: Array, rows: int, y: Array, out: Array) -> None:
    """`out` = x y, where the first axes of x (so many) are rows. y, out: matrices."""
    sizes, k = x.shape[:rows], prod(x.shape[rows:])
    found = list(blocks(sizes, k))
    memory = ctx.empty((max(stop - start for _, start, stop in found) * k,), x.dtype)
    for index, start, stop in found:
        part = x[index]
        block = memory[: (stop - start) * k]
        np.copyto(block.reshape(part.shape), part)
        np.matmul(block.reshape(stop - start, k), y, out=out[start:stop])


def by_terms(ctx: CallContext, x: Array, rows: int, y: Array, out: Array) -> None:
    """`out` = x y, where the axes of x but for the first (so many) are summed: over one block after the other."""
    m = prod(x.shape[:rows])
    x = x.transpose((*range(rows, x.ndim), *range(rows)))  # a block is copied in the order in which it lies
    found = list(blocks(x.shape[: x.ndim - rows], m))
    memory = ctx.empty((max(stop - start for _, start, stop in found) * m,), x.dtype)
    more = ctx.empty(out.shape, out.dtype)
    for index, start, stop in found:
        part = x[index]
        block = memory[: (stop - start) * m]
        np.copyto(block.reshape(part.shape), part)
        np.matmul(block.reshape(stop - start, m).T, y[start:stop], out=more if start else out)
        if start:
            np.add(out, more, out=out)
