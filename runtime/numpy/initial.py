"""The initial contents of weights and states."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from zlib import crc32

import numpy as np

from compiler.graph import Type
from compiler.model import Init
from runtime.numpy.base import STORAGE, Array, rounded
from runtime.numpy.create import fractions, hashed

BLOCK = 2**20
"""Elements that are made at once: in float64, with what it takes to make them, they need ten times as much memory as
the result."""


def init_array(init: Init, name: str, type: Type, seed: int, region: Sequence[tuple[int, int]] | None = None) -> Array:
    """The initial contents of the tensor `name`, or of a `region` of it: (start, stop) along each dim.

    Each element is a function of (seed, name, logical position) only, computed in float64 and then rounded to the
    dtype, so that it does not depend on how the tensor is laid out.
    """
    region = [(0, d.size) for d in type.dims] if region is None else list(region)
    shape = tuple(stop - start for start, stop in region)
    if prod(shape) <= BLOCK:
        return _block(init, name, type, seed, region)
    made = np.empty(shape, STORAGE[type.dtype])
    along = next(i for i, n in enumerate(shape) if n > 1)  # those before it have size 1
    start, stop = region[along]
    rows = max(1, BLOCK // prod(shape[along + 1 :]))
    for first in range(start, stop, rows):
        end = min(first + rows, stop)
        part = [*region[:along], (first, end), *region[along + 1 :]]
        made[(slice(None),) * along + (slice(first - start, end - start),)] = init_array(init, name, type, seed, part)
    return made


def _block(init: Init, name: str, type: Type, seed: int, region: Sequence[tuple[int, int]]) -> Array:
    shape = tuple(stop - start for start, stop in region)
    if init.kind in ("zeros", "ones", "constant"):
        value = {"zeros": 0.0, "ones": 1.0}.get(init.kind, init.args[0] if init.args else 0.0)
        values: Array = np.full(shape, value)
    else:
        key = hashed(np.array(seed % 2**64, np.uint64), crc32(name.encode()))
        position: Array = np.zeros((1,) * len(shape), np.uint64)
        for i, (start, stop) in enumerate(region):
            along = np.arange(start, stop, dtype=np.uint64).reshape([-1 if j == i else 1 for j in range(len(shape))])
            position = position + along * np.uint64(prod(type.shape[i + 1 :]))
        first = fractions(hashed(key, position, 0), "f64")
        match init.kind:
            case "uniform":
                low, high = init.args or (0.0, 1.0)
                values = low + (high - low) * first
            case "normal":
                second = fractions(hashed(key, position, 1), "f64")
                std = init.args[0] if init.args else 1.0
                values = std * np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
            case "bits":
                drawn = hashed(key, position, 0) >> np.uint64(32)
                values = drawn & np.uint64(init.args[0])
            case _:
                raise ValueError(f"there is no initialiser {init}")
    return rounded(values.astype(STORAGE[type.dtype]), type.dtype)
