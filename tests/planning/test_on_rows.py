"""What is known of layers holds for other replicas and stages of ZeRO than those that were lowered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from compiler.cost.kernels.program import features
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import COMPUTE, PICOSECONDS, Pricer
from compiler.evaluate import evaluate_file
from compiler.model import Job
from compiler.program import FunctionPhase
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.planning.guess import Kin, SplitLayer
from parc.planning.layers import Layers, without_update
from parc.planning.pricing import StrategyPricer
from parc.planning.space import DATA, MeshChoice, PlanChoice, PlanRules
from parc.planning.written import strategy_of
from tests.planning.brute import space_of
from tests.planning.drawn_spaces import drawn_space
from tests.planning.judged import LEAST, MOST
from tests.planning.models import CLUSTER, SIZES

WEIGHTS_ALONE = """
use std.optimizers (sgd)

model net {
  dim b = 48, p = 96, d = 96
  input x, t : compute[b,p]
  weight first[p,d] ~ normal(0.1)
  h = relu(x @ (first / sqrt(sum(first * first, over p))))
  repeat 2 as block {
    weight w[d,p] ~ normal(0.1)
    weight u[p,d] ~ normal(0.1)
    h = h + relu(h @ (w / sqrt(sum(w * w, over p)))) @ u
  }
  loss mean((h - t) * (h - t)) + sum(exp(first))
}

job fit {
  train net on pod
  optimizer sgd(lr = 0.1)
  precision f32, master f32
}
"""
"""What is made of weights alone, and of their gradients, in a loop and outside."""


@cache
def tables() -> Job:
    """Two tables on twelve devices."""
    return drawn_space(18, LEAST, MOST).job()


def test_a_table_whose_gradient_is_a_list_for_more_replicas() -> None:
    """Of two replicas the dense gradient of the smaller table is added up; of twelve, whose shards have fewer columns,
    it is a list of rows."""
    job = tables()
    space, bounds = space_of(job)
    layers = Layers(space, pricer := StrategyPricer(job, space.by_hand))
    of = PlanChoice(MeshChoice(((layers.roles["dp"], 12),), 60), PlanRules(DATA, 2))
    layer = layers.work(SplitLayer((), 0, "", False, ()), 1)
    pricer.needed(strategy_of(space, of))
    assert layer.replicas == 2
    assert bounds.seconds(of, layer) <= pricer.price().seconds


def test_what_is_sent_for_a_table_whose_gradient_may_be_a_list() -> None:
    """A dense gradient needs the rows of all columns on each device; a list of rows does not."""
    job = drawn_space(198, LEAST, MOST).job()
    space, bounds = space_of(job)
    layers = Layers(space, pricer := StrategyPricer(job, space.by_hand))
    of = PlanChoice(MeshChoice(((layers.roles["dp"], 6), (layers.roles["tp"], 2)), 21), PlanRules(DATA, 0))
    layer = layers.work(SplitLayer((("tp", 2),), 0, "", False, ()), 10)
    pricer.needed(strategy_of(space, of))
    assert 0.85 * pricer.price().seconds < bounds.seconds(of, layer) <= pricer.price().seconds


@pytest.mark.parametrize("model", ["drawn tables", "weights alone"])
def test_no_strategy_takes_less_than_what_is_known_of_its_rows(model: str) -> None:
    """All kernels of a strategy's passes, whatever they work on, against a look at the same rows."""
    if model == "drawn tables":
        job = tables()
        rows, kinds = (6, 60), [SplitLayer((), 0, "", False, tables) for tables in ((), ("u",))]
    else:
        text = WEIGHTS_ALONE + CLUSTER.format(**{**SIZES, "inside": 2, "outside": 6})
        job = evaluate_file(Source("job.par", text)).job
        rows, kinds = (1, 4), [SplitLayer((), again, "", False, ()) for again in (0, 1)]
    space, _ = space_of(job)
    layers = Layers(space, StrategyPricer(job, space.by_hand))
    held = 0
    for kind in kinds:
        for n in rows:
            look = layers.work(kind, n)
            for replicas, zero, taken in all_taken(layers, kind, n):
                assert look.forward + look.backward + look.rest <= taken, (kind, n, replicas, zero)
                held += look.replicas != replicas
    assert held > 20


def test_what_is_computed_again_may_have_fewer_kernels() -> None:
    """Where less is kept, element-wise work may join that of the pass back; products and messages are there as well."""
    job = drawn_space(1, LEAST, MOST).job()
    space, _ = space_of(job)
    layers = Layers(space, StrategyPricer(job, space.by_hand))
    assert layers.look(SplitLayer((), 0, "", False, ()), 10)
    for again in range(1, len(space.recomputes)):
        kind = SplitLayer((), again, "", False, ())
        known = layers.best(Kin(kind, 10))
        assert known is not None and known.backward > 0
        for replicas, zero, taken in all_taken(layers, kind, 10):
            assert known.forward + known.backward + known.rest <= taken, (again, replicas, zero)


def all_taken(layers: Layers, kind: SplitLayer, rows: int) -> Iterator[tuple[int, int, float]]:
    """Seconds of all kernels of a micro-batch, by replicas and stages of ZeRO."""
    space = layers.space
    data = next(role for role in space.roles if role.kind == DATA)
    for replicas in (1, 2, 3, 4, 6, 12):
        mesh = MeshChoice(((data, replicas),) if replicas > 1 else (), space.batch // (rows * replicas))
        for zero in space.ways(mesh).zero:
            rules = PlanRules(DATA, zero, kind.recompute, "", 1, kind.along, kind.heads, kind.tables)
            try:
                compiled = layers.pricer.compiled(strategy_of(space, PlanChoice(mesh, rules)), update=False)
            except ParcError:
                continue
            program = without_update(compiled.program)
            pricer = Pricer(machine(program, layers.cluster), layers.cal)
            passes = [p for (phase, _), p in features(program).parts[0].items() if phase is not FunctionPhase.UPDATE]
            nodes = [(pricer.price(node.work), times) for part in passes for node, times in part.each()]
            taken = sum(times * p.ps for p, times in nodes if p.stream == COMPUTE or p.blocking)
            yield replicas, zero, taken / PICOSECONDS
