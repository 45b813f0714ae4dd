"""Attention in pieces: not a bit differs, and scores do not stand in memory, of all samples, heads and devices."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import runtime.stacked.in_pieces as in_pieces
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.program import Program
from dsl.source import Source
from runtime.data.synthetic import synthetic
from runtime.numpy.fused import BLOCK
from runtime.room import stacked
from runtime.stacked import Emulator
from tests.runtime.test_executors import agree

JOB = """\
use std.layers (attention, grouped_attention, layer_norm)
use std.optimizers (adamw)
model looks {
  dim b = 4, s = 96, d = 16
  input x : compute[b,s,d]
  y = x
  repeat 2 as block {
    y = y + KIND
  }
  loss mean(y * y)
}
strategy plan for looks {
  mesh (dp = 2, tp = 2)
  RULES
}
job fit {
  train looks using plan
  optimizer adamw(lr = 0.1, clip = 1.0)
  PRECISION
}
"""
SCORES = 4 * 8 * 96 * 96
"""Elements of the scores of a layer."""

HEADS = "attention(layer_norm(y), 8, causal = true)"
CASES = {
    "kept": (HEADS, "split b on dp\n  split h on tp", ""),
    "again": (HEADS, "split b on dp\n  split h on tp\n  recompute block", ""),
    "half": (HEADS, "split b on dp\n  split h on tp\n  recompute block", "precision bf16, master f32"),
    "positions": (HEADS, "split b on dp\n  split s on tp\n  recompute block", ""),
    "zig-zag": (HEADS, "split s on tp zigzag\n  recompute block", ""),
    "stages": (
        HEADS,
        "split b on dp\n  pipeline block on tp, schedule one_f_one_b(microbatches = 2)\n  recompute block",
        "",
    ),
    "few keys": ("grouped_attention(y, 8, 2, causal = true, window = 40)", "split b on dp\n  recompute block", ""),
    "dropout": ("attention(y, 8, drop = 0.1)", "split b on dp\n  split h on tp", ""),
}


def program(name: str) -> Program:
    kind, rules, precision = CASES[name]
    text = JOB.replace("KIND", kind).replace("RULES", rules).replace("PRECISION", precision)
    return compile_job(evaluate(Source("looks.par", text))).program


def step(program: Program) -> tuple[dict[str, bytes], int]:
    """All that a step makes, bit by bit; the most memory, in bytes."""
    tracemalloc.start()
    run = Emulator(program)
    found = run.step(synthetic(program.inputs, 0, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    made = {"": found.loss, **run.weights(), **run.states()}
    return {n: np.asarray(x).tobytes() for n, x in made.items()}, peak


SEEN = ("again", "stages", "few keys")


@pytest.mark.parametrize("name", [n if n in SEEN else pytest.param(n, marks=pytest.mark.nightly) for n in CASES])
def test_not_a_bit_differs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = program(name)
    (whole, before), needed = step(job), stacked(job)
    monkeypatch.setattr(in_pieces, "LARGE", BLOCK)
    monkeypatch.setattr(in_pieces, "PIECE", BLOCK)
    pieces, after = step(job)
    assert whole == pieces
    stages = 4 if name == "stages" else 1  # a micro-batch of a stage
    if name not in ("kept", "dropout"):  # which keep what a softmax gives
        assert before - after > 1.5 * 4 * SCORES / stages
        assert stacked(job) <= needed - 1.5 * 4 * SCORES / stages, "runs that have room are refused"


def test_executors_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_pieces, "LARGE", 1)
    monkeypatch.setattr(in_pieces, "PIECE", 5 * 96 * 96)
    found: list[int] = []
    plan = in_pieces._blocks
    monkeypatch.setattr(in_pieces, "_blocks", lambda *of: (found.append(1), plan(*of))[1])
    agree(program("again"), 2e-4)
    assert found
