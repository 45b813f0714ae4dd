"""What is compared in a step of a proof, and how far apart it may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.graph import Type
from compiler.model import Training
from runtime.executor import StepResult
from runtime.numpy import quiet
from runtime.prove.compare import Blind, Compared, Row, Tally, compare, same
from runtime.prove.rounding import SPREAD, UNIT, tolerance, variances
from runtime.prove.serial import Arrays, SerialGradients, Updated

Array = np.ndarray[Any, np.dtype[Any]]
Slack = tuple["Array | float", "Array | None"]
"""What an element may differ by besides its relative error, and the rounding of its layer (see `compare`)."""

UNITS = 4.0
"""By how many roundings a new weight may differ."""

EMULATED = "emulated"
"""The kind of what an emulator beside the run computes."""

MISSING = Compared(float("inf"), 0.0, np.ones(1, bool))


class Judge:
    """Compares what one step made with what it should have, into a tally.

    tolerance: relative error in place of those of the types. exact: to the bit. added: see `rounding`.
    """

    def __init__(self, training: Training, tally: Tally, tolerance: float | None, exact: bool, added: int = 0) -> None:
        self.tally, self.tolerance, self.exact, self.step = tally, tolerance, exact, 0
        model = training.model
        weights = [w.name for w in training.trained]
        made: list[tuple[str, str]] = [("loss", "loss")] if model.scored else []
        made += [*(("metric", n) for n in model.metrics), *(("output", n) for n in model.outputs)]
        made += [("state", s.name) for s in model.states]
        values = dict(zip(made, training.forward.outputs))
        values |= {("gradient", n): v for n, v in zip(weights, training.gradients, strict=True)}
        updated = [("weight", n) for n in weights] + [("state", s.name) for s in training.states]
        updated += [("report", n) for n in training.reports]
        forward, update = variances(training, added)
        if model.scored:
            values[EMULATED, "loss"] = values["loss", "loss"]
        self._relative = {key: self._limit(forward[v.name]) for key, v in values.items()}
        new = dict(zip(updated, training.update.outputs, strict=training.trains))
        self._relative |= {key: self._limit(update[v.name]) for key, v in new.items()}
        self._types: dict[tuple[str, str], Type] = {("weight", w.name): w.value.type for w in model.weights}
        self._types |= {("state", s.name): s.value.type for s in training.states}
        self._types |= {key: v.type for key, v in (values | new).items()}
        loops = {w.name: w.loops for w in model.weights} | {s.name: s.loops for s in model.states}
        loops |= {s.name: loops[s.of] for s in training.states if s.of is not None}
        stacked = {
            key: loops.get(key[1], ()) if key[0] in ("weight", "gradient", "state") else () for key in self._types
        }
        self._layers = {key: sum(n in stacked[key] for n in t.names) for key, t in self._types.items()}

    def _limit(self, variance: tuple[float, str]) -> float:
        return tolerance(variance) if self.tolerance is None else self.tolerance

    # --- the stages of a step

    def begun(self, kind: str, serial: Arrays, run: Arrays) -> None:
        """Weights or states before the first step, or where nothing changes them: the same bits, or an error."""
        for name, value in serial.items():
            if name not in run or not np.array_equal(value, run[name], equal_nan=value.dtype.kind == "f"):
                self._add(kind, name, value, MISSING)

    def differentiated(
        self,
        kinds: Sequence[str],
        serial: SerialGradients,
        run: StepResult | SerialGradients,
        measured: Callable[[], SerialGradients],
    ) -> None:
        """Loss, metrics, outputs, gradients, states of the model. measured: the most that rounding makes of an element,
        if needed."""
        for kind in kinds:
            found = _named(kind, run)
            for name, value in _named(kind, serial).items():

                def slack(kind: str = kind, name: str = name, value: Array = value) -> Slack:
                    rounding = SPREAD * _named(kind, measured())[name]
                    return 0.0, self._believed(rounding, np.asarray(value), self._layers[kind, name])

                self._add(kind, name, value, self._compared(kind, name, value, found.get(name), 0.0, slack))

    def emulated(self, serial: SerialGradients, loss: Array, measured: Callable[[], SerialGradients]) -> None:
        """The loss of an emulator beside the run, as the run's own is."""
        self.differentiated((EMULATED,), serial, replace(serial, loss=loss), measured)

    def updated(self, old: Arrays, serial: Updated, run: Updated, moved: Callable[[], Sequence[Updated]]) -> None:
        """New weights (by their change), states and reports. moved: what the update makes of gradients that were added
        up in another order, if it is needed."""
        for name, value in serial.weights.items():
            given, before = run.weights.get(name), old[name]
            if ("weight", name) not in self._relative:  # frozen
                found = MISSING if given is None else replace(same(before, given), compared=np.ones(1, bool))
            elif self._to_the_bit(value) or given is None:
                found = self._compared("weight", name, value, given, 0.0, None)
            else:
                unit = UNITS * UNIT[self._types["weight", name].dtype]
                with quiet():
                    start = np.asarray(before, np.float64)
                    new, was = np.asarray(value, np.float64) - start, np.asarray(given, np.float64) - start
                    own = np.nan_to_num(unit * (np.abs(start) + np.abs(value)), posinf=0.0)

                def slack(name: str = name, value: Array = value, own: Array = own) -> Slack:
                    return own + _spread(value, [m.weights[name] for m in moved()]), None

                found = self._compared("weight", name, new, was, own, slack)
            self._add("weight", name, value, found)
        for kind in ("state", "report"):
            for name, value in getattr(serial, f"{kind}s").items():

                def other(kind: str = kind, name: str = name, value: Array = value) -> Slack:
                    return _spread(value, [getattr(m, f"{kind}s")[name] for m in moved()]), None

                given = getattr(run, f"{kind}s").get(name)
                self._add(kind, name, value, self._compared(kind, name, value, given, 0.0, other))

    def overflowed(self, gradients: Arrays) -> None:
        """Gradients that overflow on one side only, whatever the loss scale."""
        for name, value in gradients.items():
            if not np.isfinite(value).all():
                self._add("gradient", name, value, MISSING)

    # --- one tensor

    def _compared(
        self,
        kind: str,
        name: str,
        serial: Array,
        run: Array | None,
        floor: Array | float,
        slack: Callable[[], Slack] | None,
    ) -> Compared:
        """First by what the types explain; if that is not enough, by what `slack` measures."""
        if run is None or np.shape(run) != np.shape(serial):
            return MISSING
        serial, run = np.asarray(serial), np.asarray(run)
        if self._to_the_bit(serial):
            return same(serial, run)
        relative, layers = self._relative[kind, name], self._layers[kind, name]
        found = compare(serial, run, relative, layers, floor)
        if found.ok or slack is None:
            return found
        more, rounding = slack()
        return compare(serial, run, relative, layers, more, rounding)

    def _to_the_bit(self, value: Array) -> bool:
        return self.exact or np.asarray(value).dtype.kind != "f"

    def _believed(self, rounding: Array, serial: Array, layers: int) -> Array:
        """The rounding; where a tolerance was asked for, only in layers that are nothing else."""
        if self.tolerance is None:
            return rounding
        inner = tuple(range(layers, serial.ndim))
        scale = np.abs(np.nan_to_num(serial, posinf=0.0, neginf=0.0)).max(axis=inner, keepdims=True, initial=0.0)
        return np.asarray(np.where(rounding.max(axis=inner, keepdims=True, initial=0.0) >= scale, rounding, 0.0))

    def _add(self, kind: str, name: str, value: Array, found: Compared) -> None:
        a = np.asarray(value)
        dtype = self._types[kind, name].dtype
        self.tally.add(Row(kind, name, dtype, a.size, found.error, found.tolerance, self.step), found)

    def blind(self) -> tuple[Blind, ...]:
        """What could not be compared: what a step computes; of weights whose gradient could, their change."""
        found = [b for kind in ("loss", "metric", "output", "gradient") for b in self.tally.blind(kind)]
        known = {b.name for b in found if b.kind == "gradient"}
        return (*found, *(b for b in self.tally.blind("weight") if b.name not in known))


def _named(kind: str, of: SerialGradients | StepResult) -> Mapping[str, Array]:
    if kind in ("loss", EMULATED):
        return {"loss": of.loss}
    if kind == "state":
        return of.states if isinstance(of, SerialGradients) else {}
    return {"metric": of.metrics, "output": of.outputs, "gradient": of.gradients}[kind]


def _spread(value: Array, others: Sequence[Array]) -> Array:
    """For each element, twice the most that it was moved by."""
    with quiet():
        moved = [np.abs(np.asarray(o, np.float64) - np.asarray(value, np.float64)) for o in others]
    return np.asarray(2 * np.nan_to_num(np.maximum.reduce(moved), posinf=0.0))
