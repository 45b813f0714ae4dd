"""Rounding matrices to a format: each number by itself, or one input after the other, so that those behind make up for
what was lost (Frantar and others 2022, "GPTQ"; Frantar and Alistarh 2023, "SparseGPT").

A matrix has the inputs of its products first: `[inputs, outputs]`. What of a weight is not in its products' sums are
outputs. Scales are made in float32 and rounded to the type that they rest in before anything is divided by them.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from compiler.weight_format import KEPT, SCALE, SPARSE, WORDS, ZERO, PackedWeight, WeightFormat, levels
from dsl.data import dataclass
from runtime.numpy import STORAGE, rounded
from runtime.numpy.base import Array
from runtime.numpy.packed import E4M3, packed

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, which is added to it, so that it has an inverse."""
SHRUNK = tuple(1.0 - 0.025 * i for i in range(17))
"""Shares of the largest number that scales are tried for."""
BLOCK = 128
"""Inputs whose errors reach the others together."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix in a format: numbers as they are stored (of 2:4 sparsity whether they are there), scales and zero points
    of each group `[groups, outputs]`, and what it stands for."""

    numbers: Array
    scale: Array
    zero: Array
    value: Array


def nearest(w: Array, format: WeightFormat, dtype: str) -> Rounded:
    """Each number rounded by itself. w: `[inputs, outputs]`, dtype: that its scales rest in."""
    if format.code == SPARSE:
        there = _two_of_four(np.abs(w))
        return Rounded(there.astype(np.uint8), w[:0], w[:0], np.where(there, w, 0))
    scale, zero = _scales(w, None, format, dtype)
    return _rounded(w, scale, zero, format)


def by_size(w: Array, hessian: Array, format: WeightFormat, dtype: str) -> Rounded:
    """Each number rounded by itself; of four the two are kept that count most in products with inputs of this second
    moment (Sun and others 2023, "Wanda")."""
    if format.code != SPARSE:
        return nearest(w, format, dtype)
    there = _two_of_four(np.abs(w) * np.sqrt(np.diag(hessian))[:, None])
    return Rounded(there.astype(np.uint8), w[:0], w[:0], np.where(there, w, 0))


def calibrated(w: Array, hessian: Array, format: WeightFormat, dtype: str) -> Rounded:
    """Rounded so that products with inputs of this second moment `[inputs, inputs]` change least: one input after the
    other, the largest first; what is lost with one the others make up for.
    """
    n = len(w)
    h = hessian.astype(np.float64)
    dead = np.diag(h) <= 0
    h[dead, dead] = 1.0
    h[np.diag_indices(n)] += DAMPING * np.mean(np.diag(h))
    order = np.arange(n) if format.code == SPARSE else np.argsort(-np.diag(h), kind="stable")
    weigh = np.diag(h)
    group = format.group or n
    if format.code == SPARSE:
        scale = zero = w[:0]
    else:
        scale, zero = _scales(w, weigh, format, dtype)
    h = h[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(h)).T  # of the inverse
    left = w.astype(np.float64)[order]
    numbers, value = np.zeros(w.shape, np.uint8), np.zeros(w.shape)
    there = np.zeros(w.shape, bool)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        errors = np.zeros((stop - start, w.shape[1]))
        for i in range(start, stop):
            at = order[i]
            if format.code == SPARSE:
                if i % 4 == 0:
                    cost = (left[i : i + 4] / np.diag(upper)[i : i + 4, None]) ** 2
                    there[i : i + 4] = _two_of_four(cost)
                value[at] = rounded(np.where(there[i], left[i], 0).astype(np.float32), dtype)
                numbers[at] = there[i]
            else:
                g = at // group
                one = _rounded(left[i : i + 1], scale[g : g + 1], zero[g : g + 1], format)
                numbers[at], value[at] = one.numbers[0], one.value[0]
            errors[i - start] = (left[i] - value[at]) / upper[i, i]
            left[i:stop] -= np.outer(upper[i, i:stop], errors[i - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return Rounded(numbers, scale, zero, value)


def _two_of_four(size: Array) -> Array:
    """Of each four inputs the two of which this is largest; of equal ones the first."""
    fours = size.reshape(-1, 4, *size.shape[1:])
    order = np.argsort(-fours, 1, kind="stable")
    there = np.zeros(fours.shape, bool)
    np.put_along_axis(there, order[:, :2], True, 1)
    return there.reshape(size.shape)


def _scales(w: Array, weigh: Array | None, format: WeightFormat, dtype: str) -> tuple[Array, Array]:
    """Scales and zero points of all groups. weigh: how much the square of each input's error counts; then less than the
    largest number may be reached, where the others gain by it. None: all is reached."""
    group = format.group or len(w)
    of = w.reshape(-1, group, w.shape[1])
    found: tuple[Array, Array] | None = None
    least = None
    for share in SHRUNK if weigh is not None else SHRUNK[:1]:
        scale, zero = _reaching(of, share, format, dtype)
        if weigh is None:
            return scale, zero
        error = (_rounded(w, scale, zero, format).value - w) ** 2 * weigh[:, None]
        total = error.reshape(of.shape).sum(1)
        if found is None or least is None:
            found, least = (scale, zero), total
            continue
        better = total < least
        least = np.where(better, total, least)
        found = np.where(better, scale, found[0]), np.where(better, zero, found[1])
    assert found is not None
    return found


def _reaching(of: Array, share: float, format: WeightFormat, dtype: str) -> tuple[Array, Array]:
    """Scales of groups with which this share of the largest number is reached."""
    if format.code == "fp8":
        scale = np.abs(of).max(1) * share / 448
        zero = np.zeros_like(scale)
    elif format.zeros:
        low, high = levels(format.code)
        least, most = np.minimum(of.min(1), 0) * share, np.maximum(of.max(1), 0) * share
        scale = (most - least) / (high - low)
        zero = np.round(-least / np.where(scale > 0, scale, 1))
    else:
        low, high = levels(format.code)
        scale = np.abs(of).max(1) * share / ((high - low) / 2)
        zero = np.full_like(scale, -low)
    scale = rounded(scale.astype(STORAGE[dtype]), dtype)
    return np.where(scale > 0, scale, 1), zero


def _rounded(w: Array, scale: Array, zero: Array, format: WeightFormat) -> Rounded:
    """The nearest numbers that there are, with these scales."""
    per = len(w) // len(scale)
    each, middle = np.repeat(scale, per, 0), np.repeat(zero, per, 0)
    if format.code == "fp8":
        bits = np.clip(w / each, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        return Rounded(bits, scale, zero, E4M3[bits] * each)
    low, high = levels(format.code)
    numbers = np.clip(np.round(w / each + middle), 0, high - low)
    return Rounded(numbers.astype(np.uint8), scale, zero, (numbers - middle) * each)


# --- weights ----------------------------------------------------------------------------------------------------------


def matrix(of: PackedWeight, w: Array) -> Array:
    """A weight's matrix, of one layer: `[inputs, outputs]`."""
    return w.transpose(_order(of)).reshape(of.count, -1)


def _order(of: PackedWeight) -> tuple[int, ...]:
    """The numbers of a layer's dims, inputs first."""
    names = of.type.names[of.loops :]
    return tuple(sorted(range(len(names)), key=lambda i: names[i] not in of.inputs))


def parts(of: PackedWeight, found: Mapping[tuple[int, ...], Rounded]) -> dict[str, Array]:
    """The parts of a weight, by their names, of the matrices of all its layers."""
    names, dtype, shape = of.type.names[of.loops :], of.type.dtype, of.type.shape
    order = _order(of)
    back, moved = np.argsort(order), tuple(shape[of.loops + i] for i in order)
    own = [names[i] for i in order if of.scale.has(names[i])]
    coarse = [of.scale.size(n) for n in own]
    there = [own.index(n) for n in of.scale.names[of.loops :]] if SCALE in of.parts else []
    numbers, value = np.empty(shape, np.uint8), np.empty(shape, STORAGE[dtype])
    made: dict[str, Array] = {p: np.empty(of.scale.shape, STORAGE[dtype]) for p in of.parts if p in (SCALE, ZERO)}
    for at, one in found.items():
        numbers[at] = one.numbers.reshape(moved).transpose(back)
        value[at] = one.value.reshape(moved).transpose(back)
        for part, x in ((SCALE, one.scale), (ZERO, one.zero)):
            if part in made:
                made[part][at] = x.reshape(coarse).transpose(there)
    axis = of.type.index(of.dim)
    made[WORDS] = packed(numbers, axis, of.format.code)
    if KEPT in of.parts:
        fours = np.moveaxis(numbers, axis, -1)
        kept = np.moveaxis(value, axis, -1)[fours != 0]
        half = (*fours.shape[:-1], fours.shape[-1] // 2)
        made[KEPT] = np.ascontiguousarray(np.moveaxis(kept.reshape(half), -1, axis))
    return {of.parts[part]: x for part, x in made.items()}
