"""Interleaved schedules take any number of micro-batches, fewer than there are stages too."""

from __future__ import annotations

import pytest

import parc
from compiler.traffic import collectives
from compiler.verify import verify
from dsl.source import Source
from tests.stages.build import CLUSTER, judged


def model(devices: int, mesh: str, rules: str, batch: int = 12, layers: int = 6) -> str:
    return f"""
use std.devices (a100_80)
use std.layers
use std.optimizers (adamw)
use std.tactics
{CLUSTER}
model m() {{
  dim b = {batch}, d = 4, v = 6
  input words, targets : int32[b] in 0..v
  weight table[v,d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat {layers} as block {{
    x = x + mlp(layer_norm(x), 8)
  }}
  logits[b,v] = x @ table
  loss cross_entropy(logits, targets, over v)
}}
strategy s for m {{
  mesh ({mesh})
{rules}
}}
job j {{
  train m() on pod(devices = {devices}) using s
  optimizer adamw(lr = 1e-2, clip = 1.0)
}}
"""


SHAPES = [(3, 2, 4), (2, 3, 3), (3, 2, 2), (2, 2, 1)]
WITH = [
    ("", ""),
    ("dp = 2", "  data_parallel(dp)\n  optimizer_parallel(dp, 1)"),
    ("z = 2", "  fsdp(z)\n  recompute block"),
    ("tp = 2", "  tensor_parallel(tp)\n  recompute block"),
]


@pytest.mark.parametrize(
    ("stages", "chunks", "micro", "axis", "rule"),
    [
        pytest.param(*shape, *more, marks=() if (i + j) % 2 == 0 else pytest.mark.nightly)
        for i, more in enumerate(WITH)
        for j, shape in enumerate(SHAPES)
    ],
)
def test_any_number_of_micro_batches(stages: int, chunks: int, micro: int, axis: str, rule: str) -> None:
    pipeline = f"  pipeline block on pp, schedule interleaved(microbatches = {micro}, chunks = {chunks}, over = b)"
    mesh = ", ".join(filter(None, (f"pp = {stages}", axis)))
    judged(model(stages * (2 if axis else 1), mesh, "\n".join(filter(None, (rule, pipeline))), 24), priced=True)


@pytest.mark.parametrize(("stages", "micro"), [(16, 495), (5, 1003), (16, 480)])
def test_many_micro_batches_are_checked_with_fewer(stages: int, micro: int) -> None:
    """What the verifier looks at in their place has as long rounds as they have."""
    pipeline = f"  pipeline block on pp, schedule interleaved(microbatches = {micro}, chunks = 2, over = b)"
    text = model(stages, f"pp = {stages}", pipeline, micro, 2 * stages)
    assert not verify(parc.compile(Source("main.par", text)).program)


def test_what_stays_on_a_place_is_not_sent() -> None:
    """Down and up again on two places: the second stage hands on to the third, on the same devices. A run counts what
    goes over links, as the price does: 3 rows of 4 numbers, there and back, in each of four micro-batches."""
    rules = "  pipeline block on pp, schedule one_f_one_b(microbatches = 4), chunks [0, 1, 1, 0]"
    compiled = parc.compile(Source("m.par", model(2, "pp = 2", rules, layers=4)))
    sent = {c.groups: 0.0 for c in collectives(compiled.program)}
    for c in collectives(compiled.program):
        sent[c.groups] += c.bytes if c.op == "send" else 0.0
    assert set(sent.values()) == {4 * 2 * 3 * 4 * 4}
    assert compiled.program.homes.groups == (0, 1, 1, 0)
