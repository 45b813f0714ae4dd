"""Where stages are cut from several loops in one row: what each of them keeps, and the weights of each, are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.certifying.layers import LayerTable
from parc.certifying.links import lie_of
from parc.planning.fewer_layers import promised
from parc.planning.guess import kin
from parc.planning.planning import plan
from parc.planning.pricing import StrategyPricer
from parc.planning.space import STAGES
from parc.planning.written import strategy_of
from tests.planning.brute import candidates
from tests.planning.models import CLUSTER, SIZES
from tests.planning.test_agreement import BothSides, key_of, layer_of, rules_of

TWO = (
    """
use std.layers (mse, relu_mlp)
use std.optimizers (adamw)

model net {{
  dim b = 16, s = 8, d = 32
  input x, y : f32[b,s,d]
  z[b,s,d] = x
  repeat 3 as wide {{
    z = z + relu_mlp(z, 512)
  }}
  repeat 5 as thin {{
    z = z + relu_mlp(z, 64)
  }}
  loss mse(z, y)
}}

job fit {{
  train net on pod
  optimizer adamw(lr = 1e-3)
}}
"""
    + CLUSTER
)


def two(**sizes: float) -> str:
    return TWO.format(**{**SIZES, "inside": 4, "outside": 1, **sizes})


def job_of(text: str) -> Job:
    return evaluate_file(Source("job.par", text)).job


@pytest.mark.parametrize("more", [{}, {"inside": 2, "outside": 2}])
def test_what_stages_of_two_loops_keep_is_a_bound_for_both_sides(more: dict[str, float]) -> None:
    sides = BothSides(two(**more))
    space, bounds, layers = sides.space, sides.bounds, sides.search.layers
    pricer = StrategyPricer(job_of(two(**more)))
    closer = 0
    some = [of for of in candidates(space) if of.mesh.size(STAGES) > 1][::19]
    assert {of.rules.schedule for of in some} == {"gpipe", "one_f_one_b", "interleaved", "zero_bubble"}
    for of in some:
        mine = kin(space, of.mesh, of.rules)
        layers.look(mine.layer, mine.rows)
        try:
            needed = pricer.needed(strategy_of(space, of))
        except ParcError:
            continue
        layer = layers.best(mine)
        assert layer is not None and len(layer.kept) == 2 and sum(layer.kept) <= layer.saved
        size = bounds.bytes(of, layer)
        assert size <= needed, of
        closer += size > 1.2 * bounds.bytes(of)
        table = LayerTable(sides.stated, [layer_of(mine.layer, layer)])
        rules, first = of.rules, key_of(of)[2]
        mesh = {role.name: n for role, n in of.axes}
        (known,) = table.numbers(mesh, of.mesh.microbatches, rules.recompute, rules_of(mine.layer))
        lie = lie_of(sides.stated, mesh, first, rules.heads)
        theirs = sides.floors.held(lie, of.mesh.microbatches, rules.zero, rules.schedule, rules.chunks, known)
        assert theirs == pytest.approx(size, rel=1e-12), of
    assert closer > len(some) / 4


def test_plans_of_which_no_work_is_known_promise_what_they_take() -> None:
    """Of a model whose gradients' bytes may be all that there is to do (`unwritten`) bounds know no work."""
    job = job_of(two(outside=1))
    found = plan(job, within=0.1)
    model = found.bounds.model
    nothing = replace(found.bounds, model=replace(model, passes=(0.0,) * len(model.passes)))
    best = found.found.fitting[0]
    assert promised(nothing, best) == best.value
