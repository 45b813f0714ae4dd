"""The proof accepts right programs and has the power to refuse wrong ones."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

import parc
from compiler.driver import Compiled
from compiler.program import Program
from compiler.text import parse_program, show
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove, prove_evaluation, random_batch, relative_error
from runtime.prove.serial import initial_state, serial_step
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.program.mutations import KINDS, mutations
from tests.runtime import models

RIGHT = [
    models.gpt("dp=2", "tp=2", "zero=1"),
    models.gpt("pp=2", "microbatches=2"),
    models.dropout("dp = 2", "split b on dp", "shard optimizer, gradients, weights on dp"),
]


@pytest.mark.parametrize("compiled", RIGHT, ids=lambda c: c.program.name + str(c.program.devices))
def test_right_programs_are_accepted(compiled: Compiled) -> None:
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, proof.worst
    kinds = {r.kind for r in proof.rows}
    assert {"loss", "gradient", "weight", "state"} <= kinds
    weights = {w.name for w in compiled.training.model.weights}
    assert {r.name for r in proof.rows if r.kind == "gradient"} == weights
    assert {r.name for r in proof.rows if r.kind == "weight"} == weights
    assert {r.name for r in proof.rows if r.kind == "state"} == {s.name for s in compiled.training.states}
    assert json.loads(json.dumps(proof.as_json()))["ok"] is True


def test_float64_agrees_to_the_last_digits() -> None:
    compiled = models.dropout("dp = 2, tp = 2", "split b on dp", "split d on tp")
    proof = prove(compiled.training, compiled.program)
    assert proof.ok and proof.worst.error < 1e-12 and proof.worst.tolerance < 1e-9


@pytest.mark.parametrize("executor", [None, RankExecutor], ids=["stacked", "private"])
def test_linear_models_agree_to_the_bit(executor: type[RankExecutor] | None) -> None:
    for case in [("dp = 2", "split b on dp"), ("dp = 2, tp = 2", "split b on dp", "split o on tp")]:
        compiled = models.linear(*case)
        proof = prove(compiled.training, compiled.program, exact=True, executor=executor)
        assert proof.ok and {r.tolerance for r in proof.rows} == {0.0}
        assert proof.losses[0][0] != proof.losses[1][0]


def refused(compiled: Compiled, program: Program) -> bool:
    """Whether the proof fails, or the program cannot even be run."""
    try:
        return not prove(compiled.training, program).ok
    except (ParcError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError):
        return True


HARMLESS = ("swap",)
"""Two saved values of one type may hold the same."""

UNREAD = "stale: write grad_norm (class 1"
"""A report is read from the first class that has it; others hold copies."""


def test_every_kind_of_mutation_is_refused() -> None:
    """One of every kind on each program; programs whose losses and updates do depend on everything in them."""
    seen: dict[str, int] = {}
    for compiled in (
        models.linear("dp = 2, tp = 2", "split b on dp", "split o on tp", "shard optimizer, gradients on dp"),
        models.double_gpt("pp=2", "dp=2", "tp=2", "microbatches=2", "zero=1"),
    ):
        left = {}
        for what, program in mutations(compiled.program):
            left.setdefault(what.partition(":")[0], []).append((what, program))
        for kind, found in left.items():
            if kind in HARMLESS:
                continue
            found = [f for f in found if not f[0].startswith(UNREAD)]
            for what, program in found[:: max(1, len(found) // 3)]:
                assert refused(compiled, program), what
                seen[kind] = seen.get(kind, 0) + 1
    elsewhere = {*HARMLESS, "still"}  # in rings, of the golden programs
    assert set(KINDS) - elsewhere <= set(seen), set(KINDS) - set(seen)


@pytest.mark.parametrize(
    ("serial", "run", "floor", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.0, 0.25),
        ([0.0, 0.0], [0.0, 1e-9], 0.0, float("inf")),
        ([0.0, 0.0], [0.0, 1e-9], 1.0, 1e-9),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0, 0.0),
        ([np.nan, 2.0], [1.0, 2.0], 0.0, float("inf")),
        ([np.inf, 2.0], [-np.inf, 2.0], 0.0, float("inf")),
        ([1.0, 2.0], [1.0], 0.0, float("inf")),
    ],
)
def test_relative_error(serial: list[float], run: list[float], floor: float, error: float) -> None:
    assert relative_error(np.array(serial), np.array(run), floor) == error


SHIFTED = """\
use std.layers (cross_entropy)
use std.optimizers (adam)

model shifted {
  dim b = 16, d = 8, v = 12
  input x : f32[b,d]
  input label : int32[b] in 0..v
  weight w[d,v] ~ normal(0.1)
  weight shift[d] ~ zeros
  loss cross_entropy(x @ w + sum(0.1 * x * shift, over d), label, over v)
}

strategy s for shifted {
  mesh (dp = 2, tp = 2)
  split b on dp
  split v on tp
  shard optimizer on dp
}

job j {
  train shifted using s
  optimizer adam(lr = 0.01)
}
"""


def test_an_update_that_blows_up_rounding_is_no_error() -> None:
    """Softmax does not see `shift`: its gradient is rounding, which Adam divides by itself."""
    compiled = parc.compile(Source("t", SHIFTED))
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, proof.worst
    training, program = compiled.training, compiled.program
    run = Emulator(program)
    weights, states = initial_state(training)
    batch = random_batch(program.inputs, 0, 0)
    serial = serial_step(training, weights, states, batch, program.seed)
    run.step(batch)
    assert relative_error(serial.weights["shift"], run.weights()["shift"]) > 1e-2


@pytest.mark.parametrize(("old", "new"), [("mul 0.9, %", "mul 0.8, %"), ("add %step, 1", "add %step, 2")])
def test_an_update_of_its_own_is_an_error(old: str, new: str) -> None:
    """The serial update of the run's own gradients has to agree."""
    compiled = parc.compile(Source("t", SHIFTED))
    text = show(compiled.program)
    assert old in text
    proof = prove(compiled.training, parse_program(text.replace(old, new)))
    assert {r.kind for r in proof.rows if not r.ok} >= {"state"}


@pytest.mark.parametrize("entry", ["train_step", "evaluate"])
def test_an_emulator_beside_the_run_is_held_to_the_same_bound(entry: str) -> None:
    """It begins each step with the run's weights; one that computes with others is told apart."""

    class Other(Emulator):
        def put(self, arrays: Mapping[str, np.ndarray]) -> None:
            super().put({name: x * 1.01 if x.dtype.kind == "f" else x for name, x in arrays.items()})

    compiled = parc.compile(models.GPT, params={"dp": "2", "layers": "1"}, double=True, entry=entry)
    how = prove if entry == "train_step" else prove_evaluation
    good, bad = (how(compiled.training, compiled.program, 3, beside=e) for e in (Emulator, Other))
    assert good.ok and good.emulated == pytest.approx([loss for _, loss in good.losses], rel=1e-12)
    assert [r.kind for r in bad.rows if not r.ok] == ["emulated"] and not bad.ok
