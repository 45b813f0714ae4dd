"""Elementwise steps on blocks: functions that write into a given array, and the Python text that calls them.

A block is small enough to stay in the second-level cache, so a chain of steps costs one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from runtime.numpy.base import Array
from runtime.numpy.elementwise import FUNCTIONS, erf, erf32


def bf16(x: Array) -> None:
    """Round in place."""
    x[...] = x.astype(ml_dtypes.bfloat16)


def f16(x: Array) -> None:
    """Round in place."""
    x[...] = x.astype(np.float16)


def sigmoid(x: Array, out: Array) -> None:
    """Writes `1 / (1 + exp(-x))` of a block into `out`, of its shape."""
    np.negative(x, out)
    np.exp(out, out)
    np.add(out, 1, out)
    np.divide(1, out, out)


def rsqrt(x: Array, out: Array) -> None:
    """Writes `1 / sqrt(x)` of a block into `out`, of its shape."""
    np.sqrt(x, out)
    np.divide(1, out, out)


def relu(x: Array, out: Array) -> None:
    """Writes `max(x, 0)` of a block into `out`, of its shape."""
    np.maximum(x, 0, out=out)


def cube(x: Array, out: Array, spare: Array) -> None:
    """Writes `x * x * x` of a block into `out`; `spare` is a block of that shape to work in."""
    np.multiply(x, x, spare)
    np.multiply(spare, x, out)


def erf_into(x: Array, out: Array, square: Array, factor: Array) -> None:
    """The error function; the last two are scratch of x's shape."""
    if out.dtype == np.float32:
        erf32(x, out, square, factor)
    else:
        out[...] = erf(x)


def row_sum(x: Array, out: Array, ones: Array) -> None:
    """Sum over the last axis (kept): a product with ones is four times as fast as `np.add.reduce`."""
    if x.strides[-1] == x.itemsize:
        np.matmul(x, ones, out)
    else:
        np.add.reduce(x, -1, None, out, keepdims=True)


def row_dot(x: Array, y: Array, out: Array, spare: Array, ones: Array) -> None:
    """Sum of products over the last axis (kept)."""
    if hasattr(np, "vecdot"):
        np.vecdot(x, y, out=out[..., 0])
    else:
        np.multiply(x, y, spare)
        np.matmul(spare, ones, out)


TEMPLATES: dict[str, tuple[Callable[..., Any], int]] = {
    "sigmoid": (sigmoid, 0),
    "rsqrt": (rsqrt, 0),
    "relu": (relu, 0),
    "cube": (cube, 1),
    "erf": (erf_into, 2),
}
"""Functions that are no ufuncs: called with (operand, out, scratch of the result's type…), and how many of those."""

KEYWORD_OUT = {"maximum", "minimum"}
"""Ufuncs whose `out` numpy wants as a keyword."""


def ufunc(fn: str) -> Any:
    """Gives the numpy function, or ours, that computes `fn` on a block; KeyError if there is none."""
    return FUNCTIONS[fn]
