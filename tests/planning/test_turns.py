"""How long iterations last is what playing them says, for each number of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.cost.time.ahead import gathers_first
from compiler.cost.time.step import play
from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc.planning.guess import SplitLayer
from parc.planning.layers import Layers
from parc.planning.paces import PaceKey, Paces, covering
from parc.planning.pricing import StrategyPricer
from parc.planning.turns import durations
from tests.planning.brute import space_of
from tests.planning.models import job_of


@pytest.mark.parametrize(("ahead", "outer"), [(0.0, 0.3), (0.4, 0.02), (0.4, 10.0), (1.0, 0.3)])
def test_iterations_last_as_long_as_they_are_played(ahead: float, outer: float) -> None:
    job = job_of("transformer", inside=2, outside=4, outer=outer, hidden=64, layers=12, batch=8)
    space, _ = space_of(job)
    paces = Paces(Layers(space, StrategyPricer(job, space.by_hand)))
    seen = set()
    for again in (0, len(space.recomputes) - 1):
        key = PaceKey(SplitLayer((("tp", 2),), again, "", False, ()), 1, 4, 3, "", 1, False)
        of = paces._loops(key)
        assert of is not None
        pricer = paces._pricer(key, of.program)
        for loop in of.loops.values():
            played = []
            for n in range(1, 13):
                rolled = loop.rolled._replace(rounds=n)
                alone = gathers_first(rolled, ahead) if ahead else rolled
                played.append(play(loop.segment._replace(tasks=(alone,), host=0), pricer.streams).duration)
            found = durations(loop.rolled, pricer.streams, 12)
            if ahead:
                turned = gathers_first(loop.rolled._replace(rounds=12), ahead)
                found = found[:1] + durations(turned, pricer.streams, 12)[1:]
            assert found == played
            seen.add(tuple(b - a for a, b in zip(played, played[1:])))
    assert len(seen) >= 2


KEPT = """
use std.layers (linear)
use std.optimizers (sgd)

device chip {
  compute f32 1 TFLOP/s
  compute vector f32 1 TFLOP/s
  compute bf16 2 TFLOP/s
  efficiency fusion 1
  memory 1 PB, 10 GB/s
}

cluster pod {
  device npu = chip
  level server = 4 npu over 100 GB/s, 1 us
}

model net {
  dim b = 8, k = 128, d = 16, p = 8
  input x, t : compute[b,p]
  h = linear(x, over d)
  repeat 4 as block {
    weight w[k,d] ~ normal(0.05)
    m1[b,k] = h @ w
    m2[b,d] = m1 @ w
    h = h + m2
    repeat 3 as small {
      z[b,d] = h * rsqrt(mean(h * h, over d) + 1e-5)
      h = h + z
    }
  }
  o = linear(h, over p)
  loss mean((o - t) * (o - t))
}

job fit {
  train net on pod
  optimizer sgd(lr = 1e-3)
  precision bf16, master f32
}
"""


def test_what_is_kept_makes_kernels_of_its_own() -> None:
    """A loop that computes again takes less here: nothing that it keeps cuts its kernels in two."""
    job = evaluate_file(Source("kept.par", KEPT), {}, None, "serial").job
    space, _ = space_of(job)
    paces = Paces(Layers(space, StrategyPricer(job, space.by_hand)))

    def both(key: PaceKey) -> float:
        paces._find(key, frozenset({4}))
        turns = paces.known[key]
        assert turns is not None
        return sum(turns[4])

    less = 0
    for again in range(1, len(space.recomputes)):
        own = PaceKey(SplitLayer((), again, "", False, ()), 2, 4, 3, "", 1, False)
        assert all(both(key) <= both(own) for key in covering(own)), again
        less += both(own) < both(replace(own, layer=replace(own.layer, recompute=0)))
    assert less, "all that compute again take longer"
