"""The proof: the distributed program computes what the serial program computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.model import Training
from compiler.program import InputDecl, Program
from runtime.data.synthetic import synthetic
from runtime.emulate import Emulator
from runtime.kernels import Context, rounded
from runtime.private import PrivateExecutor
from runtime.serial import Updated, initial_state, serial_step, serial_update

Array = np.ndarray[Any, np.dtype[Any]]
Batches = Callable[[int], Mapping[str, Array]]

TOLERANCES = {"f64": 1e-9, "f32": 1e-4, "f16": 2.0**-7, "bf16": 2.0**-4}
"""Largest relative error by the coarser of a tensor's dtype and the compute dtype. 16-bit types: 16 units in the last
place, because sums in another order round differently at every op."""

FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor's comparison: the worst of all steps. `elements` = number of values compared per step."""

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


@dataclass(frozen=True)
class Proof:
    """What was compared. `losses`: (serial, distributed) of each step."""

    program: str
    devices: int
    steps: int
    exact: bool
    rows: tuple[Row, ...]
    losses: tuple[tuple[float, float], ...]

    @property
    def ok(self) -> bool:
        """All tensors agree. (Also false if there was nothing to compare.)"""
        return bool(self.rows) and all(r.ok for r in self.rows)

    @property
    def worst(self) -> Row:
        """The row that comes closest to failing, or fails worst."""
        return max(self.rows, key=lambda r: (not r.ok, r.error / r.tolerance if r.tolerance else r.error))

    def as_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            "program": self.program, "devices": self.devices, "steps": self.steps, "exact": self.exact, "ok": self.ok,
            "losses": [list(pair) for pair in self.losses],
            "tensors": [
                {"kind": r.kind, "name": r.name, "dtype": r.dtype, "elements": r.elements, "error": r.error,
                 "tolerance": r.tolerance, "step": r.step, "ok": r.ok}
                for r in self.rows
            ],
        }  # fmt: skip


def prove(
    training: Training,
    program: Program,
    steps: int = 2,
    batches: Batches | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    exact: bool = False,
    initial: Mapping[str, Array] | None = None,
    executor: Callable[..., Emulator | PrivateExecutor] | None = None,
) -> Proof:
    """Run both for some steps and compare loss, metrics, every gradient, weights, optimizer states and reports.

    The error of a tensor is max |distributed - serial| / max(max |serial|, floor), where floor is a thousandth of the
    largest value of its kind in this step (gradients, weights, each kind of state…): a tensor that should be zero, but
    for rounding, is not blown up. Elements that are not finite must be alike in both. Tensors without floats, and all
    in `exact` mode, are compared bit by bit (the error is then 0 or infinite). `exact` begins with weights of small
    whole numbers and takes such data, so that sums in any order are the same: it fits linear models.

    An update may divide rounding by rounding (Adam, of a gradient that should be zero), which leaves nothing of any
    tolerance. So a weight, state or report that differs is also compared with what the serial update makes of the
    run's own gradients, weights and states, all of which were compared before. If that agrees, it is equal, with this
    error, and the serial program goes on from there.

    batches: step -> batch; random ones from the inputs' declarations if left out. Each run goes on with its own
    weights, so that errors of the first step show in the second. executor: `PrivateExecutor` in place of `Emulator`.
    """
    weights, states = initial_state(training)
    if exact:
        weights = {n: _whole(n, w, training.job.precision.master) for n, w in weights.items()}
    weights |= {k: np.asarray(v, weights[k].dtype) for k, v in (initial or {}).items() if k in weights}
    states |= {k: np.asarray(v, states[k].dtype) for k, v in (initial or {}).items() if k in states}
    given = {**weights, **states} if exact or initial else None
    emulator = (executor or Emulator)(program, initial=given)
    source = batches or (lambda step: random_batch(program.inputs, seed, step, exact))
    judge = _Judge(training, tolerance, exact)
    losses = []
    for step in range(steps):
        batch = source(step)
        before = emulator.weights(), emulator.states()
        serial = serial_step(training, weights, states, batch, program.seed)
        run = emulator.step(batch, gradients=True)
        judge.step = step
        judge.all("loss", {"loss": serial.loss}, {"loss": run.loss})
        judge.all("metric", serial.metrics, run.metrics)
        judge.all("gradient", serial.gradients, run.gradients)
        after = Updated(emulator.weights(), emulator.states(), run.reports)
        rows = judge.update(Updated(serial.weights, serial.states, serial.reports), after)
        weights, states = serial.weights, serial.states
        complete = weights.keys() <= before[0].keys() and states.keys() <= before[1].keys()
        complete = complete and serial.gradients.keys() <= run.gradients.keys()
        if complete and not exact and not all(r.ok for r in rows):
            again = judge.update(serial_update(training, run.gradients, *before, program.seed), after)
            if all(r.ok for r in again):
                rows, weights, states = again, after.weights, after.states
        judge.add(rows)
        losses.append((float(serial.loss), float(run.loss)))
    return Proof(program.name, program.devices, steps, exact, tuple(judge.rows.values()), tuple(losses))


def random_batch(inputs: Iterable[InputDecl], seed: int, step: int, whole: bool = False) -> dict[str, Array]:
    """A batch that fits the declarations."""
    return synthetic(tuple(inputs), seed, step, whole)


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


class _Judge:
    """Collects the worst error of each tensor."""

    def __init__(self, training: Training, tolerance: float | None, exact: bool) -> None:
        self.compute = training.job.precision.compute
        self.dtypes = {w.name: w.value.type.dtype for w in training.model.weights}
        self.dtypes |= {s.name: s.value.type.dtype for s in training.states}
        self.tolerance, self.exact, self.step = tolerance, exact, 0
        self.rows: dict[tuple[str, str], Row] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Keep the worst of each tensor."""
        for row in rows:
            old = self.rows.get((row.kind, row.name))
            if old is None or row.error > old.error:
                self.rows[row.kind, row.name] = row

    def all(self, kind: str, serial: Mapping[str, Array], run: Mapping[str, Array]) -> None:
        """Compare tensors of one kind and keep what was found."""
        self.add(self.compared(kind, serial, run))

    def compared(self, kind: str, serial: Mapping[str, Array], run: Mapping[str, Array]) -> list[Row]:
        """Compare tensors of one kind, which share a floor. One that the run lacks has an infinite error."""
        found = []
        floats = [np.abs(a[np.isfinite(a)]) for a in map(np.asarray, serial.values()) if a.dtype.kind == "f"]
        floor = FLOOR * max((float(np.max(a, initial=0.0)) for a in floats), default=0.0)
        for name, value in serial.items():
            a = np.asarray(value)
            dtype = self.dtypes.get(name) or {"f": "f64" if a.itemsize == 8 else "f32"}.get(a.dtype.kind, str(a.dtype))
            bits = self.exact or a.dtype.kind != "f"
            if name not in run:
                error = float("inf")
            elif bits:
                error = 0.0 if np.array_equal(a, run[name], equal_nan=a.dtype.kind == "f") else float("inf")
            else:
                error = relative_error(a, np.asarray(run[name]), floor)
            found.append(Row(kind, name, dtype, a.size, error, 0.0 if bits else self._tolerance(dtype), self.step))
        return found

    def update(self, serial: Updated, run: Updated) -> list[Row]:
        """Weights, states and reports. States of one kind (after the weight's name: `m`, `v`) share a floor."""
        kinds: dict[str, dict[str, Array]] = {}
        for name, value in serial.states.items():
            kinds.setdefault(name.rpartition(".")[2], {})[name] = value
        rows = self.compared("weight", serial.weights, run.weights)
        for group in kinds.values():
            rows += self.compared("state", group, run.states)
        return rows + self.compared("report", serial.reports, run.reports)

    def _tolerance(self, dtype: str) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return max(TOLERANCES.get(dtype, 0.0), TOLERANCES[self.compute])


def _whole(name: str, like: Array, dtype: str) -> Array:
    """Small whole numbers in the shape of a weight, the same for the same name."""
    from runtime.kernels.create import hashed

    key = hashed(np.array(sum(name.encode()), np.uint64), np.arange(like.size, dtype=np.uint64))
    return rounded(((key % np.uint64(5)).astype(like.dtype) - 2).reshape(like.shape), dtype)


__all__ = ["FLOOR", "TOLERANCES", "Context", "Proof", "Row", "prove", "random_batch", "relative_error"]
