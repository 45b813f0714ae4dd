"""Choosing between two arrays by bit operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.numpy.base import Array

BITS: dict[int, type[Any]] = {4: np.int32, 8: np.int64}
"""Integers of an item's size in bytes."""

_SMALL = 4096


def mask_bits(condition: Array, small: Array, bits: Array, invert: bool) -> Array:
    """All bits set where the condition holds (`invert`: where not). small: int8, bits: integers, of its shape."""
    if invert:
        np.subtract(condition.view(np.int8), np.int8(1), small)
    else:
        np.negative(condition.view(np.int8), small)
    np.copyto(bits, small)
    return bits


def select(condition: Array, x: Any, y: Any, out: Array, small: Array, bits: Array) -> None:
    """`np.where` by bit operations: 5 to 20 times as fast, since it does not branch on the condition.

    x, y: arrays or scalars of out's dtype. `out` may be x, and must not be y unless x is 0.
    """
    kind = bits.dtype
    o = out.view(kind)
    if not isinstance(x, np.ndarray) and x == 0:
        np.bitwise_and(y.view(kind), mask_bits(condition, small, bits, True), o)
    elif not isinstance(y, np.ndarray) and y == 0:
        np.bitwise_and(x.view(kind), mask_bits(condition, small, bits, False), o)
    else:
        x_bits, y_bits = x.view(kind), y.view(kind)
        mask_bits(condition, small, bits, False)
        np.bitwise_xor(x_bits, y_bits, o)
        np.bitwise_and(o, bits, o)
        np.bitwise_xor(o, y_bits, o)


def where(condition: Array, x: Any, y: Any) -> Array:
    """`np.where` for arrays and scalars of one dtype."""
    first = x if isinstance(x, np.ndarray) else y
    shape = np.broadcast_shapes(condition.shape, np.shape(x), np.shape(y))
    if first.itemsize not in BITS or np.prod(shape, dtype=np.int64) < _SMALL:
        return np.asarray(np.where(condition, x, y))
    out = np.empty(shape, first.dtype)
    small, bits = np.empty(condition.shape, np.int8), np.empty(condition.shape, BITS[first.itemsize])
    select(condition, x, y, out, small, bits)
    return out
