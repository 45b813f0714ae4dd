"""Metrics, reports, weights, states, inputs and saved values may be called alike: a program keeps them apart."""

from __future__ import annotations

import pytest

import parc
from compiler.text import parse_program, show
from dsl.source import Source

FILE = """\
use std.layers (dropout)

optimizer o(lr) {{
  state grad, momentum
  grad = grad + g
  momentum = 0.9 * momentum + g
  w = w - lr * momentum * grad
}}

model m {{
  dim b = 8, d = 4
  input x : compute[b,d]
  {body}
  loss mean(y * y)
}}

strategy s for m {{
  mesh (dp = 2, tp = 2)
  split b on dp
  split d on tp
  shard optimizer on dp
  microbatches 2 over b
}}

job j {{
  train m using s
  optimizer o(lr = 0.01, clip = 0.1)
}}
"""

BODIES = {
    "a metric like what is saved": "weight w[d]\n  y = tanh(x * w)\n  metric y = mean(y)",
    "metrics like reports and counters": (
        "weight w[d]\n  y = tanh(x * w)\n  metric grad_norm = mean(y)\n  metric step = mean(y * y)"
    ),
    "weights like reports, counters and states": (
        "weight grad_norm[d], step[d], momentum[d]\n  y = tanh(x * step + grad_norm) * momentum"
    ),
    "a scope called grad": "weight v[d]\n  y = x * v\n  repeat 2 as grad {\n    weight w[d]\n    y = tanh(y * w)\n  }",
    "an input called step": "weight w[d]\n  input step : int32\n  y = tanh(x * w) + sin(cast(step, compute))",
    "an input called step, and random numbers": (
        "weight w[d]\n  input step : int32\n  y = dropout(x * w, 0.5) + sin(cast(step, compute))"
    ),
    "a weight called step, and random numbers": "weight step[d]\n  y = dropout(x * step, 0.5)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_equal(body: str, executor: parc.api.Executor) -> None:
    source = Source("t", FILE.format(body=body))
    program = parc.compile(source, double=True).program
    assert parse_program(show(program)) == program
    assert parc.verify(source, double=True, executor=executor).ok
