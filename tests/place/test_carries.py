"""What a loop carries that is a sum over the batch is added up over micro-batches like a loss, however it begins."""

from __future__ import annotations

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove

MODEL = """use std.layers
use std.optimizers (sgd)
use std.tactics

model m() {{
  dim b = 8, s = 4, d = 8, e = d
  input x : f64[b,s,d]
  weight r[d]
  h = x * (1.0 + r)
  total = {begin}
  repeat 4 as block {{
    weight w[d,e] ~ normal(0.3)
    h = {step}
    total = total + {term}
  }}
  loss total + mean(h * h)
}}

strategy plan for m {{
  mesh (pp = 2, dp = 2)
  data_parallel(dp)
  {order}
}}

job fit {{
  train m using plan
  optimizer sgd(lr = 0.1)
  precision f64
}}
"""
ORDERS = (
    "split e on pp\n  microbatches 2 over b",
    "pipeline block on pp, schedule one_f_one_b(microbatches = 2, over = b)",
    "pipeline block on pp, schedule zero_bubble(microbatches = 4, over = b)",
)
TANH = "tanh(rename(h @ w, e -> d))"


def _compile(begin: str, term: str, order: str, step: str = TANH) -> Compiled:
    text = MODEL.format(begin=begin, term=term, order=order, step=step)
    return compile_job(evaluate(Source("carries.par", text)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("begin", ["zeros()", "mean(x * x)", "sum(r * r)", "2.0 * mean(x * x) + sum(r * r)"])
def test_a_loss_may_grow_in_a_loop(begin: str, order: str) -> None:
    compiled = _compile(begin, "mean(h * h)", order)
    assert prove(compiled.training, compiled.program).ok


@pytest.mark.parametrize("order", ORDERS)
def test_so_may_the_balance_of_experts(order: str) -> None:
    """It is one of each sequence, so micro-batches of sequences have it."""
    compiled = _compile("zeros()", "0.1 * balance", order, f"{TANH}\n    y, balance = moe(h, 4, 8)\n    h = h + y")
    assert prove(compiled.training, compiled.program).ok


def test_what_needs_it_in_full_is_told_once() -> None:
    with pytest.raises(ParcError) as caught:
        _compile("mean(x * x)", "mean(h * h)", ORDERS[0], f"total * {TANH}")
    (found,) = caught.value.diagnostics
    assert found.code == "E0502" and "needs the whole batch of block.total," in found.message
    assert found.span is not None and found.span.source.startswith("carries")
