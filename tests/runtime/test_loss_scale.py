"""The dynamic loss scale in distributed runs: all devices skip a step together, and halve the scale."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import parc
from dsl.source import Source
from parc.cli import cli
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator

FILE = """\
use std.layers (cross_entropy, layer_norm, linear, mlp)
use std.optimizers (adamw)

param size = 1.0

model m(size) {{
  dim b = 8, d = 8, v = 6
  input x : compute[b,d]
  input t : int32[b] in 0..v
  h = x
  repeat 2 as block {{
    h = h + mlp(layer_norm(h), 16)
  }}
  loss size * cross_entropy(linear(h, over v), t, over v)
}}

strategy pipelined for m {{
  mesh (pp = 2, dp = 2, tp = 2)
  split b on dp
  split f, v on tp
  shard optimizer on dp
  pipeline block on pp, schedule {schedule}(microbatches = 2)
}}

job j {{
  train m(size) using pipelined
  optimizer adamw(lr = 1e-2, clip = 1.0)
  precision f16, master f32, loss_scale dynamic
}}
"""
LARGE = {"size": 3000.0}
"""Gradients that overflow float16 at the scale with which a run begins."""


def source(schedule: str = "one_f_one_b") -> Source:
    return Source("t", FILE.format(schedule=schedule))


@pytest.mark.parametrize("schedule", ["one_f_one_b", "zero_bubble"])
@pytest.mark.parametrize("params", [{}, LARGE], ids=["fits", "overflows"])
def test_equal(schedule: str, params: dict[str, object]) -> None:
    proof = parc.verify(source(schedule), steps=3, params=params)
    assert proof.ok, proof.worst
    assert {r.name for r in proof.rows if r.kind == "report"} == {"grad_norm", "loss_scale"}
    assert {"loss_scale", "good_steps", "step"} <= {r.name for r in proof.rows if r.kind == "state"}


@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_skips_until_the_gradients_fit(executor: type[Emulator] | type[RankExecutor]) -> None:
    program = parc.compile(source(), params=LARGE).program
    run = executor(program)
    scales, moved = [], []
    for step in range(14):
        before = run.weights()
        result = run.step(synthetic(program.inputs, 0, step))
        scales.append(float(result.reports["loss_scale"]))
        moved.append(any(not np.array_equal(w, before[n]) for n, w in run.weights().items()))
    first = moved.index(True)
    assert first > 3 and all(moved[first:])
    assert scales == [2.0 ** (16 - min(i, first)) for i in range(14)]
    assert int(run.states()["step"]) == 14 - first


def test_json_has_no_infinities() -> None:
    words = ["run", "-", "--steps", "1", "--json", "-D", "size=3000.0"]
    result = CliRunner().invoke(cli, words, input=source().text)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["result"]["metrics"]["grad_norm"] == [None]
