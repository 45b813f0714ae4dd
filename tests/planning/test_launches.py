"""What kernels' launches take at least: experts are launched one by one, and products with one row left join others."""

from __future__ import annotations

import pytest

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.source import Source
from parc.certifying.counting import SPLITS
from parc.certifying.floors import numbers
from parc.planning.pricing import StrategyPricer
from parc.planning.spread import spread_of
from parc.planning.written import strategy_of
from tests.planning.brute import some, space_of

FILE = """
use std.devices (h100)
use std.layers (embedding, gelu, layer_norm, linear, lstm, mlp, mse, silu)
use std.optimizers (sgd)

model net {{
  dim b = {batch}, s = {seq}, d = 32
  input x, y : compute[b,s,d]
  {model}
  loss mse(z, y)
}}

cluster pod {{
  device gpu = h100
  level server = 2 gpu over 450 GB/s, 1 us
  level pod = {outside} server over 50 GB/s, 5 us
}}

job fit {{
  train net on pod
  optimizer sgd(lr = 0.1)
  precision bf16, master f32
}}
"""

EXPERTS = """
  z = x
  repeat 2 as block {
    dim e = 8, w = 64
    weight up[e,d,w], down[e,w,d] ~ normal(0.02)
    h[b,s,e,w] = layer_norm(z) @ up
    o[b,s,e,d] = gelu(h) @ down
    z = z + sum(o, over e)
  }
"""

RECURRENT = """
  z = x
  repeat 2 as block {
    dim f = 32
    h = lstm(layer_norm(z), over f)
    z = z + rename(h, f -> d)
  }
"""

CONDITIONED = """
  dim times = 16
  input when : int32[b] in 0..times
  cond = silu(embedding(when, over times, over d) as time)
  z = x
  repeat 2 as block {
    dim n = 32
    shift = rename(linear(cond, over n) as shift, n -> d)
    gate = rename(linear(cond, over n) as gate, n -> d)
    z = z + gate * mlp(layer_norm(z) + shift, 64)
  }
"""

MERGED = """
  dim w = 16
  weight up[d,w], down[w,d] ~ normal(0.02)
  q = gelu(merge(x, (b, s) -> r) @ up) @ down
  z = x + mean(q, over r)
"""

WALKED = """
  dim f = 32
  weight w[d,f] ~ normal(0.02)
  z = x
  scan over along as cell {
    z = rename(tanh(x @ w), f -> d)
  }
"""


def job_of(model: str, batch: int = 16, outside: int = 2) -> Job:
    text = FILE.format(model=model.strip(), batch=batch, seq=8, outside=outside)
    return evaluate_file(Source("job.par", text)).job


@pytest.mark.parametrize(
    "number", [pytest.param(30, id="some"), pytest.param(1000, id="many", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("model", [EXPERTS, RECURRENT, CONDITIONED], ids=["experts", "recurrent", "conditioned"])
def test_no_strategy_takes_less_than_its_launches(model: str, number: int) -> None:
    job = job_of(model)
    space, bounds = space_of(job)
    pricer, seen = StrategyPricer(job, space.by_hand), set()
    assert all(bounds.model.launches) and all(bounds.model.host)
    for of in some(space, number, 3):
        pricer.needed(strategy_of(space, of))
        assert bounds.seconds(of) <= pricer.price().seconds, of
        spread = spread_of(of)
        seen.add(bounds.apart(spread.stages, spread.data, of.mesh.microbatches))
    assert seen == {True, model == EXPERTS}, "launches count, but where a product may have one row"


@pytest.mark.parametrize("model", [EXPERTS, RECURRENT, CONDITIONED, MERGED])
def test_the_smallest_sides_of_products_are_found_twice(model: str) -> None:
    """Of the search and of the certificate. Positions that the batch was merged into are rows, too."""
    job = job_of(model)
    space, bounds = space_of(job)
    split, least = space.split, bounds.model.least
    labels = [label for label, _ in split.loops]
    dims = {k: getattr(split, k) for k in SPLITS}
    model_numbers, _ = numbers(job, split.batch, split.layers, labels, dims, ((),))
    assert model_numbers["least"] == {"rows": least.rows, "columns": least.columns}
    assert model_numbers["host"][0] == pytest.approx(bounds.model.host[0])
    rows = {EXPERTS: 128, RECURRENT: 16, CONDITIONED: 16, MERGED: 128}
    assert least.rows == rows[model] and 0 < least.columns <= 32


def test_a_loop_along_the_batch_has_one_row() -> None:
    """What goes on in it runs as often as a device has samples."""
    least = [space_of(job_of(WALKED.replace("along", dim)))[1].model.least.rows for dim in ("b", "s")]
    assert least[0] == 1 < least[1]
