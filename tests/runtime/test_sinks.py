"""Stacks of gradients are added to the accumulators slice by slice, and made for a step's first micro-batch only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import compiler.memory.action as replaying
import runtime.rank.interpreter as interpreter
import runtime.stacked.straight as straight
from compiler.graph import Graph
from compiler.liveness import Liveness, liveness
from compiler.model import Precision
from compiler.program import Program
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.runtime import models
from tests.runtime.test_memory import peak, program

STATES = "gradient g: f32[block=5, c=10] of w"
LOOP = """\
%i: f32[block=5] = full 1.0
%y: f32[c=10] = full 1.0
%all: f32[block=5, c=10] pending(mb sum) = repeat block 5 (
  %at: f32[] each %i,
  %c: f32[c=10] with %y,
) {
  %d: f32[c=10] pending(mb sum) = neg %c
  yield %d
}
"""
ADD = "accumulate %all into g\n"
STACK, SLICE, CONSTANTS = 5 * 10 * 4, 10 * 4, 5 * 4 + 10 * 4


def sinks(body: str) -> dict[str, str]:
    p = program(STATES, body)
    return dict(liveness(p.classes[0].functions[0].body).sinks)


def test_a_stack_that_is_only_accumulated_is_made_once() -> None:
    assert sinks(LOOP + ADD) == {"all": "g"}
    assert peak(program(STATES, LOOP + ADD)) == STACK + SLICE + CONSTANTS
    kept = LOOP + ADD + "%z: f32[block=5, c=10] pending(mb sum) = neg %all\n"
    assert peak(program(STATES, kept)) == 3 * STACK


@pytest.mark.parametrize(
    "body",
    [
        LOOP + "%z: f32[block=5, c=10] pending(mb sum) = neg %all\n" + ADD,
        LOOP + ADD + ADD,
        LOOP + "%one: f32[block=5, c=10] pending(mb sum) = full 1.0\naccumulate %one into g\n" + ADD,
    ],
    ids=["read besides", "accumulated twice", "another sum between"],
)
def test_other_stacks_are_made(body: str) -> None:
    assert sinks(body) == {}


def without(body: Graph, carries: int = 0) -> Liveness:
    return replace(liveness(body, carries), sinks={})


def steps(run: Emulator | RankExecutor, p: Program) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for step in range(2):
        result = run.step(synthetic(p.inputs, 1, step), gradients=True)
        found += [result.loss, *result.gradients.values()]
    return [*found, *run.weights().values(), *run.states().values()]


PLANS = [
    (),
    ("dp=2", "zero=2"),
    ("dp=2", "tp=2", "zero=3"),
    ("pp=2", "tp=2"),
]


@pytest.mark.parametrize("precision", [Precision("f32", "f32"), Precision("bf16", "f32")], ids=str)
@pytest.mark.parametrize("options", PLANS, ids=",".join)
@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_sums_are_the_same_to_the_bit(
    executor: type[Emulator | RankExecutor],
    options: tuple[str, ...],
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = models.gpt(*options, "microbatches=4", precision=precision).program
    assert any(liveness(f.body).sinks for c in p.classes for f in c.functions if f.phase == "B")
    added = steps(executor(p), p)
    for module in (replaying, straight, interpreter):
        monkeypatch.setattr(module, "liveness", without)
    made = steps(executor(p), p)
    assert all(np.array_equal(a, b) for a, b in zip(added, made, strict=True))


@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_narrow_sums_are_rounded_each_time(executor: type[Emulator | RankExecutor]) -> None:
    """1 + 2**-7 is a number in bf16, 4 + 4 * 2**-7 is, 2 + 2**-6 + 1 + 2**-7 is not."""
    body = (LOOP + ADD).replace("f32", "bf16").replace("%y: bf16[c=10] = full 1.0", "%y: bf16[c=10] = full -1.0078125")
    p = program(STATES.replace("f32", "bf16"), body, m=3)
    run = executor(p)
    (gradient,) = run.step(synthetic(p.inputs, 0, 0), gradients=True).gradients.values()
    assert set(gradient.ravel().tolist()) == {3.03125}  # 3.0234375 lies halfway, and goes to the even one
