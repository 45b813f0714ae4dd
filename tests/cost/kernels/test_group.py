"""Kernels that are put together from a function's instructions: none waits for one that has gone into another."""

from __future__ import annotations

import pytest

from compiler.cost.time.simulate import Simulation
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from dsl.source import Source

SPLIT_UPDATE = """\
use std.devices (a100_80)

cluster pod() {
  device npu = a100_80
  level server = 2 npu over 100 GB/s, 2 us
}

optimizer bounded(lr) {
  u = g
  u = u / (max(abs(u)) + 0.01)
  w = w - lr * u
}

model m() {
  dim b = 12, s = 8, d = 8, v = 12, one = 1, p = 2, q = 4
  input tokens : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  weight column[d,one] ~ normal(0.4)
  weight w[p] ~ normal(0.5)
  x[b,s,d] = take(table, tokens, over v)
  u[b,s,one] = x @ column
  x = x * (1.0 + 0.3 * sum(tanh(u), over one))
  x = merge(split(x, d -> (p, q)) * (1.0 + w), (p, q) -> d)
  loss mean(x * x)
}

strategy s for m {
  mesh (cp = 2)
  layout w[p/cp]
}

job fit {
  train m() on pod using s
  optimizer bounded(lr = 0.1CLIP)
  precision f64
}
"""


@pytest.mark.parametrize("clip", ["", ", clip = 0.1"])
def test_views_of_what_another_kernel_took_in(clip: str) -> None:
    """The update joins kernels; what is a view of a result (its own piece) goes with it."""
    compiled = compile_job(evaluate(Source("update.par", SPLIT_UPDATE.replace("CLIP", clip))))
    assert Simulation.of(compiled).features.parts
