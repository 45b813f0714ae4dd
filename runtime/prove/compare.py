"""Two runs' tensors side by side: how far apart, how far they may be, and what could not be told apart.

A tensor is compared at its own scale, the largest of its values; one that is stacked over a loop, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dsl.data import dataclass

Array = np.ndarray[Any, np.dtype[Any]]

ZERO = "is zero on both sides"
STILL = "does not change, on either side"
ROUNDING = "is outweighed by rounding"
SMALL = "changes by less than rounding may change it"
UNDEFINED = "is not finite on either side"


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor's comparison: the worst of all steps. `elements` = number of values compared per step.

    `error` and `tolerance` are relative to the largest value (of the layer that comes closest to failing); of weights,
    to the largest change.
    """

    kind: str
    name: str
    dtype: str
    elements: int
    error: float
    tolerance: float
    step: int

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    @property
    def nearness(self) -> float:
        """How near it is to failing, above 1 if it fails."""
        if self.error == 0 or self.ok and np.isinf(self.tolerance):
            return 0.0
        return self.error / self.tolerance if self.tolerance else float("inf")


@dataclass(frozen=True, slots=True)
class Blind:
    """A tensor, or so many `layers` of `of`, that no step could compare: any value of that size passes."""

    kind: str
    name: str
    why: str
    layers: int = 1
    of: int = 1

    @property
    def rounding(self) -> bool:
        """Whether a wider type would tell."""
        return self.why in (ROUNDING, SMALL)

    def __str__(self) -> str:
        part = f" in {self.layers} of {self.of} layers" if self.layers < self.of else ""
        return f"{self.name} ({self.kind}) {self.why}{part}"


@dataclass(frozen=True, slots=True)
class Compared:
    """A tensor's comparison in one step. compared: for each layer, whether an error of its own size would have shown;
    why: what stands in the way in the others."""

    error: float
    tolerance: float
    compared: Array
    why: str = ROUNDING

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def compare(
    serial: Array,
    run: Array,
    relative: float,
    layers: int = 0,
    floor: Array | float = 0.0,
    rounding: Array | None = None,
) -> Compared:
    """Floats. An element may differ by `relative` times the largest of its layer, plus its `floor`, or by the largest
    `rounding` in its layer.

    layers: number of leading dims that count them. Elements that are not finite must be alike.
    """
    a, b = np.asarray(serial, np.float64), np.asarray(run, np.float64)
    if a.shape != b.shape:
        return Compared(float("inf"), relative, np.ones(1, bool))
    finite = np.isfinite(a)
    whole = bool(finite.all())
    if not np.array_equal(finite, np.isfinite(b)) or (
        not whole and not np.array_equal(a[~finite], b[~finite], equal_nan=True)
    ):
        return Compared(float("inf"), relative, np.ones(1, bool))
    if not whole:
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    inner = tuple(range(layers, a.ndim))
    scale = np.abs(a).max(axis=inner, keepdims=True, initial=0.0)
    allowed = relative * scale + floor
    if rounding is not None:
        allowed = np.maximum(allowed, np.asarray(rounding).max(axis=inner, keepdims=True, initial=0.0))
    difference = np.abs(a - b)
    told = ((allowed < scale) & finite).any(axis=inner)
    error, tolerance = _worst(difference, np.broadcast_to(allowed, a.shape), np.broadcast_to(scale, a.shape), relative)
    why = UNDEFINED if not finite.any() else ZERO if not scale.any() and not difference.any() else ROUNDING
    return Compared(error, tolerance, np.atleast_1d(told).reshape(-1), why)


def _worst(difference: Array, allowed: Array, scale: Array, relative: float) -> tuple[float, float]:
    """Error and tolerance, relative to the scale, of the element that comes closest to failing."""
    if not difference.any():
        return 0.0, relative
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(difference == 0, 0.0, difference / allowed)
    at = np.unravel_index(int(near.argmax()), near.shape)
    d, limit, size = float(difference[at]), float(allowed[at]), float(scale[at])
    if size == 0.0:  # zero in the serial program: relative to what rounding may make of it
        return (d / limit, 1.0) if limit else (float("inf"), relative)
    return d / size, limit / size


def same(serial: Array, run: Array) -> Compared:
    """To the bit: for numbers that are no floats, and exact proofs."""
    equal = np.array_equal(serial, run, equal_nan=serial.dtype.kind == "f")
    told = serial.dtype.kind != "f" or bool((np.isfinite(serial) & (serial != 0)).any())
    return Compared(0.0 if equal else float("inf"), 0.0, np.array([told]), ZERO)


def relative_error(serial: Array, run: Array, floor: float = 0.0) -> float:
    """max |run - serial| / max(max |serial|, floor) over finite elements; infinite if shapes or others differ."""
    if serial.shape != run.shape:
        return float("inf")
    a, b = serial.astype(np.float64), run.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    difference = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))
    if difference == 0.0:
        return 0.0
    scale = max(float(np.max(np.abs(a[finite]), initial=0.0)), floor)
    return difference / scale if scale else float("inf")


class Tally:
    """What all steps found: the worst of each tensor, and which layers any step could compare."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self._told: dict[tuple[str, str], Array] = {}
        self._why: dict[tuple[str, str], str] = {}

    def add(self, row: Row, found: Compared) -> None:
        key = (row.kind, row.name)
        old = self.rows.get(key)
        if old is None or row.nearness > old.nearness or (not row.ok and old.ok):
            self.rows[key] = row
        told = self._told.get(key)
        same_shape = told is not None and told.shape == found.compared.shape
        self._told[key] = told | found.compared if told is not None and same_shape else found.compared
        if found.why == ROUNDING or key not in self._why:
            self._why[key] = found.why

    def compared(self, kind: str) -> bool:
        """Whether any tensor of this kind was compared."""
        return any(told.any() for (k, _), told in self._told.items() if k == kind)

    def why(self, kind: str) -> set[str]:
        """What stood in the way of those tensors of this kind that were not."""
        return {self._why[key] for key, told in self._told.items() if key[0] == kind and not told.all()}

    def blind(self, kind: str) -> Iterator[Blind]:
        """What no step compared, of this kind."""
        words = {ZERO: STILL, ROUNDING: SMALL} if kind == "weight" else {}
        for (k, name), told in self._told.items():
            if k == kind and not told.all():
                why = self._why[k, name]
                yield Blind(kind, name, words.get(why, why), int((~told).sum()), told.size)
