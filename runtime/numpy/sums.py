"""Sums over axes as products with ones, which read memory once and in order.

numpy adds along an axis in between by short inner loops, one for each place; a product with a row of ones is many times
as fast. Terms are taken some hundred at a time, so that long sums round no worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from runtime.numpy.base import Array, inverse

TERMS = 512
"""Terms that are added up at once at most."""

SMALLEST = 4096
"""Elements of a sum, and of one product in it an eighth, from which on products pay."""


def sum_over(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over axes, which are of size 1 then: of floats, however they lie in memory."""
    if x.size < SMALLEST or x.dtype not in (np.float32, np.float64):
        return np.asarray(np.add.reduce(x, axes, keepdims=True, dtype=x.dtype))
    order = tuple(range(x.ndim))
    if not x.flags.c_contiguous:
        order = tuple(sorted(order, key=lambda i: (-abs(x.strides[i]), i)))
        x = x.transpose(order)
        if not x.flags.c_contiguous:
            x = x.transpose(inverse(order))
            return np.asarray(np.add.reduce(x, axes, keepdims=True))
    gone = frozenset(at for at, i in enumerate(order) if i in axes)
    kept = tuple([1 if at in gone else n for at, n in enumerate(x.shape)])
    for before, terms, behind in _steps(x.shape, gone):
        if behind == 1 and terms <= TERMS:
            x = np.matmul(x.reshape(before, terms), _ones(terms, 1, x.dtype))
        elif terms <= TERMS and terms * behind >= SMALLEST // 8:
            x = np.matmul(_ones(1, terms, x.dtype), x.reshape(before, terms, behind))
        else:
            x = np.add.reduce(x.reshape(before, terms, behind), 1)
    return x.reshape(kept).transpose(inverse(order))


@cache
def _ones(rows: int, columns: int, dtype: Any) -> Array:
    return np.ones((rows, columns), dtype)


@cache
def _steps(shape: Sequence[int], gone: frozenset[int]) -> list[tuple[int, int, int]]:
    """Sums one after the other: elements before, terms, elements behind, as (places, terms, places)."""
    found = []
    runs: list[list[int]] = []  # [size, whether it goes]: neighbours alike as one
    for i, n in enumerate(shape):
        if n == 1:
            continue
        if runs and runs[-1][1] == (i in gone):
            runs[-1][0] *= n
        else:
            runs.append([n, i in gone])
    for k, (n, goes) in enumerate(runs):
        behind = prod(m for m, _ in runs[k + 1 :])
        while goes and n > 1:
            before = prod(m for m, also in runs[:k] if not also)
            terms = max(f for f in range(1, TERMS + 1) if n % f == 0)
            terms = terms if terms > 1 and behind > 1 else n
            n //= terms
            found.append((before * n, terms, behind))
    return found
