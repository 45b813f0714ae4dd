"""Scales of inputs that are rounded to 8 bits as weights are (Xiao and others 2023, "SmoothQuant"): a row of inputs has
one step, so that a large one of them takes the others' bits; divided by its size it leaves them, and the weight, which
has a step of its own for each output, takes the size. What is lost is measured on rows of inputs, both rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce

import numpy as np

from compiler.weight_format import PackedWeight
from runtime.compress.rounding import nearest
from runtime.compress.scaled_inputs import ScaledInput
from runtime.compress.scaling import At, along, floored
from runtime.numpy.base import Array

SHARES = tuple(i / 20 for i in range(1, 21))
"""Of the inputs' sizes, in powers, that weights take; the rest of the way they are evened out by their own."""

LARGEST = 127.0
"""Of the integers that inputs are rounded to, as `compiler.activations` has them."""


class ByExamples:
    """Sizes of inputs over sizes of weights, in powers; what is lost is both roundings.

    rows: of each weight and layer rows of its inputs, `[rows, inputs]`. rounded: weights and layers whose inputs are
    rounded, with which piece of a row each of these is in (`[inputs]`), of those that have a step of their own; inputs
    of others are as they are.
    """

    def __init__(self, rows: Mapping[str, Mapping[At, Array]], rounded: Mapping[str, Mapping[At, Array]]) -> None:
        self.rows, self.rounded = rows, rounded

    def tried(self, one: ScaledInput, readers: Mapping[str, tuple[PackedWeight, Array]], at: At) -> Iterator[Array]:
        """For each share a: max|x|^a / max|w|^(1-a), over the rows and over the outputs of all readers."""
        if not any(at in self.rounded.get(name, {}) for name in readers):
            return
        largest = [along(r, one, np.abs(self.rows[name][at]).max(0), np.max) for name, (r, _) in readers.items()]
        weights = [along(r, one, np.abs(w).max(1), np.max) for r, w in readers.values()]
        x, w = (floored(reduce(np.maximum, found)) for found in (largest, weights))
        for share in SHARES:
            scale = x**share / w ** (1 - share)
            yield scale / np.sqrt(scale.max() * scale.min())

    def lost(self, of: PackedWeight, w: Array, scale: Array, at: At) -> float:
        """The squares of what the results change by, over the rows."""
        x = self.rows[of.name][at]
        moved = nearest((w * scale[:, None]).astype(np.float32), of.format, of.type.dtype).value
        pieces = self.rounded.get(of.name, {}).get(at)
        inputs = x / scale if pieces is None else _rounded(x / scale, pieces)
        return float(np.square(inputs @ moved - x @ w).sum())


def _rounded(x: Array, pieces: Array) -> Array:
    """As it is computed with: integers times the step of their piece of the row."""
    found = np.empty_like(x)
    for piece in np.unique(pieces):
        own = x[:, pieces == piece]
        step = np.maximum(np.abs(own).max(1, keepdims=True) / LARGEST, 1e-30)
        found[:, pieces == piece] = np.round(own / step) * step
    return found
