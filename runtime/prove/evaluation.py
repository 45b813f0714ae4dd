"""The proof of entries that train nothing: the forward pass computes what the serial one does, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from compiler.model import Training
from compiler.origin import Role
from compiler.program import Program
from runtime.executor import Executor
from runtime.prove.branches import Branches
from runtime.prove.compare import Tally
from runtime.prove.judge import Judge
from runtime.prove.proof import Batches, Proof, beginning, fitting, loss_beside, random_batch, started
from runtime.prove.rounding import measured
from runtime.prove.serial import serial_gradients
from runtime.readable import whole

Array = np.ndarray[Any, np.dtype[Any]]


def prove_evaluation(
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
    """Evaluate some batches by both and compare loss (if there is one), metrics and outputs; weights and counters stay
    as they were, to the bit, and states of the model contain what they should.

    Args:
        training: the graphs of `evaluate` or `infer`.
        program: with that entry.
        steps: how many batches.
        others: as those of `prove`.
    """
    weights, states = beginning(training, exact, initial, first)
    begun = {**weights, **states} if exact or initial or first else None
    run = started(executor, program, first, begun)
    other = started(beside, program, first, begun) if beside is not None else None
    source = batches or (lambda step: random_batch(program.inputs, seed, step, exact))
    branches, tally = Branches(training), Tally()
    judge = Judge(training, tally, tolerance, exact, run.added)
    scored = training.model.scored
    kinds = (Role.LOSS, Role.METRIC, Role.OUTPUT) if scored else (Role.METRIC, Role.OUTPUT)
    losses: list[tuple[float, float]] = []
    emulated: list[float] = []
    for at in range(first, first + steps):
        judge.step = at - first
        batch = source(at)
        given = whole(batch)
        serial = serial_gradients(training, weights, states, given, program.seed, branches)
        its = loss_beside(other, run, batch) if other is not None and scored else None
        done = run.step(batch)
        rounding = cache(partial(measured, training, weights, states, given, program.seed, serial, run.added))
        judge.differentiated(kinds, serial, done, rounding)
        if its is not None:
            judge.emulated(serial, its, rounding)
            emulated.append(float(its))
        held, kept = run.weights(), run.states()
        judge.differentiated((Role.STATE,), serial, replace(serial, states=kept), rounding)
        judge.begun(Role.WEIGHT, {name: w for name, w in weights.items() if name in held}, held)
        judge.begun("state", {name: x for name, x in states.items() if name not in serial.states}, kept)
        states = fitting(states, kept)
        losses += [(float(serial.loss), float(done.loss))] if scored else []
    vacuous = [f"the loss is {s} in step {i}, on both sides" for i, (s, d) in enumerate(losses, 1) if _undefined(s, d)]
    if not scored and not tally.compared("output"):
        vacuous = [f"every output {' or '.join(sorted(tally.why('output')))}"]
    return Proof(
        program.name, program.devices, steps, exact, tuple(tally.rows.values()), tuple(losses), first, 0,
        judge.blind(), branches.unreached(), tuple(vacuous[:1]), tuple(emulated), training.entry,
    )  # fmt: skip


def _undefined(serial: float, distributed: float) -> bool:
    return not np.isfinite((serial, distributed)).any()
