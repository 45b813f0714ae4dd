"""Programs whose runs are saved: every kind of strategy on one model, and models with states and in narrow types."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

import parc
from compiler.program import Program
from compiler.shards import ShardMap
from dsl.source import Source
from runtime.checkpoints.manifest import RunPoint
from runtime.checkpoints.saving import LARGEST, Saving, digest, save
from runtime.executor import Executor
from runtime.prove import random_batch
from tests.entries.test_evaluate import STRATEGIES, source
from tests.states.models import compiled

ADAM = "adamw(lr = 0.01)"


@cache
def program(name: str) -> Program:
    """Of a strategy; of a model with states (`tests/states/models.py`) `states of NAME`; in bf16 `STRATEGY in bf16`;
    what serves the same model `STRATEGY to infer`."""
    if name.startswith("states of "):
        return compiled(name.removeprefix("states of "), None).program
    strategy, _, kind = name.partition(" in ")
    strategy, _, serves = strategy.partition(" to ")
    given = source(strategy, optimizer=ADAM)
    precision = f"precision {kind}, master f32\n" if kind else ""
    text = given.text.replace(f"  optimizer {ADAM}\n", "" if serves else f"  optimizer {ADAM}\n  {precision}")
    return parc.compile(Source("net.par", text.replace("train net", "infer net") if serves else text)).program


def trained(of: Program, make: type[Executor], steps: int) -> Executor:
    """A run after some steps."""
    run = make(of)  # type: ignore[call-arg]
    for step in range(steps):
        run.step(random_batch(of.inputs, 0, step))
    return run


def saved(run: Executor, folder: Path, keep: int = 0, largest: int = LARGEST) -> Path:
    """The checkpoint of a run in a folder."""
    of = run.program
    moment = RunPoint(of.name, digest(of), of.devices, run.steps, run.steps, of.seed)
    return save(Saving(folder, 0, keep), moment, ShardMap(of), run, largest)


def arrays(run: Executor) -> dict[str, np.ndarray]:
    """All that lasts of a run."""
    return {**run.weights(), **run.states()}


__all__ = ["STRATEGIES", "arrays", "program", "saved", "trained"]
