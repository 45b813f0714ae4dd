"""Where fewer rows are laid out in another way, nothing that is known of more of them is a bound."""

from __future__ import annotations

import pytest

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.source import Source
from parc.certifying.counting import SPLITS
from parc.certifying.sides import sides_of, told_apart
from parc.planning.guess import SplitLayer, kin
from parc.planning.layers import Layers
from parc.planning.narrow import ANY, product_sides
from parc.planning.pricing import StrategyPricer
from parc.planning.space import INNER, MeshChoice, PlanChoice, PlanRules
from parc.planning.written import strategy_of
from tests.planning.brute import space_of

TEXT = """
use std.layers (mse)
use std.optimizers (sgd)

device chip {{
  compute f32 10 TFLOP/s
  efficiency ramp 50
  efficiency fusion 1
  efficiency launch 0 us
  efficiency host 0 us
  efficiency fixed 0 us
  launch 0 us
  tile 8, 8, 8
  cores 1
  memory 100 GB, 100000 GB/s
}}

cluster pod {{
  device npu = chip
  level server = 4 npu over 100000 GB/s, 0 us
}}

model net {{
  dim b = 4096, d = 64, f = 288, h = 256
  input x, t : f32[b,d]
  z = x * 1.0
  repeat 4 as block {{
    weight w1[d,f], w2[f,h], w3[h,d] ~ normal(0.1)
    u[b,f] = relu(z @ w1)
    n[f,h] = {normal}
    v[b,h] = relu(u @ n)
    y[b,d] = v @ w3
    z = z + y
  }}
  loss mse(z, t)
}}

job fit {{
  train net on pod
  optimizer sgd(lr = 1e-3)
}}
"""

NORMAL = {
    "normalised": "w2 * rsqrt(mean(w2 * w2, over f) + 1e-6)",
    "cast": "cast(w2, compute)",
}


def job(normal: str) -> Job:
    return evaluate_file(Source("job.par", TEXT.format(normal=NORMAL[normal]))).job


@pytest.mark.parametrize("normal", NORMAL)
def test_bounds_hold_however_rows_are_laid_out(normal: str) -> None:
    """Of 4,096 rows the sum is split, of 1,024 the columns: these take 7% less than a fourth of those."""
    of = job(normal)
    space, bounds = space_of(of)
    pricer = StrategyPricer(of, space.by_hand)
    layers = Layers(space, pricer)
    assert layers.look(SplitLayer((("tp", 4),), 0, "", False, ()), 4096)
    inner = next(role for role in space.roles if role.kind == INNER)
    for m in (2, 4):
        choice = PlanChoice(MeshChoice(((inner, 4),), m), PlanRules(INNER))
        pricer.needed(strategy_of(space, choice))
        layer = layers.best(kin(space, choice.mesh, choice.rules))
        assert (layer is None) == (normal == "normalised")
        assert bounds.seconds(choice, layer) <= pricer.price().seconds


@pytest.mark.parametrize("normal", NORMAL)
def test_certificates_are_held_to_the_same(normal: str) -> None:
    of = job(normal)
    space, _ = space_of(of)
    splits = {kind: getattr(space.split, kind) for kind in SPLITS}
    found = told_apart(of, "b", splits)
    assert bool(found) == (ANY in product_sides(of, space.split)) == (normal == "normalised")
    assert not {*found} & {*sides_of(of, "b")}
