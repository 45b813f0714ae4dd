"""The proof: the distributed program computes what the serial program computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from compiler.model import TRAIN_STEP, Training
from compiler.origin import Role
from compiler.passes.training import SCALE_PATIENCE
from compiler.program import InputDecl, Program
from dsl.data import dataclass
from runtime.data.synthetic import synthetic
from runtime.executor import Executor
from runtime.numpy import quiet, rounded
from runtime.prove.branches import Branches, Unreached
from runtime.prove.compare import UNDEFINED, ZERO, Blind, Row, Tally, relative_error
from runtime.prove.judge import Judge
from runtime.prove.rounding import UNIT, measured
from runtime.prove.serial import Arrays, Updated, initial_state, serial_gradients, serial_update
from runtime.readable import Readable, whole
from runtime.stacked import Emulator

Array = np.ndarray[Any, np.dtype[Any]]
Batches = Callable[[int], Mapping[str, Readable]]

ORDER = 4.0
"""Roundings that adding up a gradient's parts in another order may cost."""

MOST_SKIPPED = 48
"""Steps that overflow before a proof gives up: the loss scale has come from 2^16 to 2^-32 by then."""


@dataclass(frozen=True)
class Proof:
    """What was compared of an `entry`. `losses`: (serial, distributed) of each step that counts, if there is one;
    `emulated`: those of the emulator that took the same steps `beside`, if there was one.

    first: the number of updates before the first step. skipped: steps in which gradients overflowed, which do not
    count. blind: tensors that could not be compared. unreached: branches that no step took. vacuous: why the proof
    says nothing, if it does not.
    """

    program: str
    devices: int
    steps: int
    exact: bool
    rows: tuple[Row, ...]
    losses: tuple[tuple[float, float], ...]
    first: int = 0
    skipped: int = 0
    blind: tuple[Blind, ...] = ()
    unreached: tuple[Unreached, ...] = ()
    vacuous: tuple[str, ...] = ()
    emulated: tuple[float, ...] = ()
    entry: str = TRAIN_STEP

    @property
    def equal(self) -> bool:
        """All tensors agree, whatever that says. (Also false if there was nothing to compare.)"""
        return bool(self.rows) and all(r.ok for r in self.rows)

    @property
    def ok(self) -> bool:
        """All tensors agree, and the proof is not vacuous."""
        return self.equal and not self.vacuous

    @property
    def worst(self) -> Row:
        """The row that comes closest to failing, or fails worst."""
        return max(self.rows, key=lambda r: (not r.ok, r.nearness))

    def as_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            "program": self.program, "devices": self.devices, "steps": self.steps, "exact": self.exact, "ok": self.ok,
            "equal": self.equal, "vacuous": list(self.vacuous), "first_step": self.first, "skipped": self.skipped,
            "entry": self.entry, "losses": [list(pair) for pair in self.losses], "emulated": list(self.emulated),
            "tensors": [
                {"kind": r.kind, "name": r.name, "dtype": r.dtype, "elements": r.elements, "error": r.error,
                 "tolerance": r.tolerance, "step": r.step, "ok": r.ok}
                for r in self.rows
            ],
            "not_compared": [
                {"kind": b.kind, "name": b.name, "why": b.why, "layers": b.layers, "of": b.of} for b in self.blind
            ],
            "not_reached": [
                {"never": u.never, "name": u.name, "count": u.count,
                 "place": {"file": u.span.source, "start": u.span.start, "end": u.span.end} if u.span else None}
                for u in self.unreached
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
    executor: Callable[..., Executor] | None = None,
    first: int = 0,
    beside: Callable[..., Executor] | None = None,
) -> Proof:
    """Run both for some steps and compare loss, metrics, outputs, gradients, weights, optimizer states and reports.

    In each step the serial program begins with the run's own weights and states (which were compared where they were
    made; the first ones are compared to the bit), so that what is compared is what this step made: loss and gradients
    with the serial ones, then new weights and states with what the serial update makes of the run's gradients. Equal
    states give equal gradients, equal gradients equal updates. Of weights the *change* is compared.

    Each tensor is compared at its own scale, a stacked one layer by layer. It may differ by what its types and the
    number of terms that are summed on the way to it explain (`rounding.tolerance`); where it differs by more, by what
    rounding makes of it when the serial program is run with other rounding (`rounding.measured`). Elements that are not
    finite must be alike in both. Tensors without floats, and all in `exact` mode, are compared bit by bit. `exact`
    begins with weights of small whole numbers and takes such data, so that sums in any order are the same: it fits
    linear models.

    With a dynamic loss scale, a step in which gradients overflow is not counted, and others are added; where they
    overflow on one side only, both go on as after a step that was skipped: with half the scale.

    batches: step -> batch; random ones from the inputs' declarations if left out. tolerance: relative error in place of
    all those. executor: `RankExecutor` in place of `Emulator`. first: the number of updates that went before. beside:
    another executor, which begins each step with the run's weights and states, too, and whose loss is compared, too.
    """
    weights, states = beginning(training, exact, initial, first)
    counters = StepCounters.of(training)
    begun = {**weights, **states} if exact or initial or first else None
    run = started(executor, program, first, begun)
    other = started(beside, program, first, begun) if beside is not None else None
    source = batches or (lambda step: random_batch(program.inputs, seed, step, exact))
    branches, tally = Branches(training), Tally()
    judge = Judge(training, tally, tolerance, exact, run.added)
    judge.begun("weight", weights, run.weights())
    judge.begun("state", states, run.states())
    losses: list[tuple[float, float]] = []
    emulated: list[float] = []
    at, skipped, one_sided = first, 0, False
    while len(losses) < steps and skipped <= MOST_SKIPPED:
        judge.step = len(losses)
        batch = source(at)
        given = whole(batch)
        weights, states = fitting(weights, run.weights()), fitting(states, run.states())
        serial = serial_gradients(training, weights, states, given, program.seed, branches)
        its = loss_beside(other, run, batch) if other is not None else None
        done = run.step(batch, gradients=True)
        at += 1
        rounding = cache(partial(measured, training, weights, states, given, program.seed, serial, run.added))
        judge.differentiated((Role.LOSS, Role.METRIC, Role.OUTPUT), serial, done, rounding)
        if its is not None:
            judge.emulated(serial, its, rounding)
        judge.differentiated((Role.STATE,), serial, replace(serial, states=run.states()), rounding)
        gradients = fitting(serial.gradients, done.gradients)
        again = partial(
            serial_update, training, weights=weights, states=states, seed=program.seed, beside=serial.beside
        )
        moved = cache(partial(_in_other_orders, again, gradients, done.magnitudes))
        after = Updated(run.weights(), run.states(), done.reports)
        judge.updated(weights, again(gradients, watch=branches), after, moved)
        overflows = [counters.dynamic and not _finite(g) for g in (serial.gradients, done.gradients)]
        if not any(overflows):
            judge.differentiated((Role.GRADIENT,), serial, done, rounding)
            losses.append((float(serial.loss), float(done.loss)))
            emulated += [] if its is None else [float(its)]
            continue
        skipped += 1
        one_sided = not all(overflows)
        if one_sided:
            states |= counters.skipped(states)
            run = started(executor, program, at, {**weights, **states})
    if one_sided and len(losses) < steps:
        judge.overflowed(serial.gradients if overflows[0] else done.gradients)
    return Proof(
        program.name, program.devices, len(losses), exact, tuple(tally.rows.values()), tuple(losses), first, skipped,
        judge.blind(), branches.unreached(), tuple(_vacuous(training, tally, losses)),
        tuple(emulated),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepCounters:
    """States that count steps, and the dynamic loss scale, if there is one."""

    step: str | None = None
    scale: str | None = None
    good: str | None = None

    @staticmethod
    def of(training: Training) -> StepCounters:
        return StepCounters(*(s.name for s in training.states if s.role is Role.COUNTER))

    @property
    def dynamic(self) -> bool:
        return self.scale is not None

    def begun(self, states: Mapping[str, Array], first: int) -> Arrays:
        """After so many updates, none of which overflowed; the scale is as at the beginning."""
        if not first or self.step is None:
            return {}
        found = {self.step: first} | ({self.good: first % SCALE_PATIENCE} if self.good is not None else {})
        return {name: np.asarray(value, states[name].dtype) for name, value in found.items()}

    def skipped(self, states: Mapping[str, Array]) -> Arrays:
        """After a step that overflowed."""
        if self.scale is None or self.good is None:
            return {}
        half = states[self.scale] * np.asarray(0.5, states[self.scale].dtype)
        return {self.scale: half, self.good: np.zeros_like(states[self.good])}


def beginning(
    training: Training, exact: bool, initial: Mapping[str, Array] | None, first: int
) -> tuple[Arrays, Arrays]:
    """Weights and states that a proof begins with; the arguments are those of `prove`."""
    weights, states = initial_state(training)
    if exact:
        weights = {n: _whole(n, w, training.job.precision.master) for n, w in weights.items()}
    weights |= {k: np.asarray(v, weights[k].dtype) for k, v in (initial or {}).items() if k in weights}
    states |= {k: np.asarray(v, states[k].dtype) for k, v in (initial or {}).items() if k in states}
    return weights, states | StepCounters.of(training).begun(states, first)


def started(
    executor: Callable[..., Executor] | None, program: Program, first: int, initial: Mapping[str, Array] | None
) -> Executor:
    """Makes an executor (the emulator, if none is given) that has done `first` steps already.

    initial: logical arrays by name in place of the declared initialisers.
    """
    run = (executor or Emulator)(program, initial=initial)
    run.steps = first
    return run


def loss_beside(other: Executor, run: Executor, batch: Mapping[str, Readable]) -> Array:
    """The loss of another executor in the step that the run is about to take, from the run's weights and states."""
    other.put({**run.weights(), **run.states()})
    other.steps = run.steps
    return other.step(batch).loss


def fitting(serial: Arrays, run: Mapping[str, Array]) -> Arrays:
    """The run's own tensors; the serial ones where it has none of that form."""
    return {n: run[n] if n in run and run[n].shape == a.shape else a for n, a in serial.items()}


def _finite(arrays: Mapping[str, Array]) -> bool:
    return all(bool(np.isfinite(a).all()) for a in arrays.values())


def _in_other_orders(
    update: Callable[[Arrays], Updated], gradients: Arrays, magnitudes: Callable[[], Mapping[str, Array]]
) -> list[Updated]:
    """What the update makes of gradients whose parts were added up in another order: of the largest and the smallest.

    Executors add the parts of devices and stages up in orders of their own, and an update may divide what is left of
    that by itself (Adam, of a gradient that is zero but for rounding).
    """
    parts = magnitudes()

    def turned(sign: float) -> Arrays:
        with quiet():
            return {
                n: (g + sign * ORDER * UNIT[_dtype(g)] * np.nan_to_num(parts[n], posinf=0.0)).astype(g.dtype)
                if n in parts and parts[n].shape == g.shape
                else g
                for n, g in gradients.items()
            }

    return [update(turned(1.0)), update(turned(-1.0))]


def _dtype(array: Array) -> str:
    return "f64" if array.dtype == np.float64 else "f32"


def _vacuous(training: Training, tally: Tally, losses: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Why the proof says nothing, although nothing differs."""
    if not training.model.weights:
        yield "the model has no weights"
    elif not training.model.trained:
        yield "no weight is trained"
    elif not losses:
        yield "gradients overflowed in every step"
    elif not tally.compared("gradient"):
        whys = tally.why("gradient")
        if whys == {ZERO}:
            yield "all gradients are zero, on both sides"
        elif whys == {UNDEFINED}:
            yield "no gradient is finite, on either side"
        else:
            yield "no gradient is more than rounding"
    for step, pair in enumerate(losses, 1):
        if not np.isfinite(pair).any():
            yield f"the loss is {pair[0]} in step {step}, on both sides"
            break


def random_batch(inputs: Iterable[InputDecl], seed: int, step: int, whole: bool = False) -> dict[str, Array]:
    """A batch that fits the declarations."""
    return synthetic(tuple(inputs), seed, step, whole)


def _whole(name: str, like: Array, dtype: str) -> Array:
    """Small whole numbers in the shape of a weight, the same for the same name."""
    from runtime.numpy.create import hashed

    key = hashed(np.array(sum(name.encode()), np.uint64), np.arange(like.size, dtype=np.uint64))
    return rounded(((key % np.uint64(5)).astype(like.dtype) - 2).reshape(like.shape), dtype)


__all__ = ["Proof", "Row", "prove", "random_batch", "relative_error"]
