"""What is known of layers holds for all candidates that have such: no bound that is made of it is above a price."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from compiler.evaluate import evaluate_file
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.planning.answer import FoundPlan
from parc.planning.bounds import LowerBounds
from parc.planning.certificate import layer_json
from parc.planning.guess import Kin, kin
from parc.planning.layers import Layers, SplitLayer
from parc.planning.paces import Paces
from parc.planning.pricing import StrategyPricer
from parc.planning.space import DATA, STAGES, MeshChoice, PlanChoice, PlanRules, PlanSpace
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, some, space_of
from tests.planning.models import job_of, text_of

CASES = [
    ("transformer", {"inside": 2, "outside": 4, "batch": 8, "layers": 5, "inner": 1, "outer": 0.05}),
    ("transformer", {"inside": 4, "outside": 2, "hidden": 96, "layers": 4, "flops": 0.1, "bandwidth": 4, "batch": 12}),
    ("images", {"inside": 4, "outside": 2, "batch": 8, "hidden": 32, "flops": 0.1}),
    ("tables", {"inside": 2, "outside": 2, "batch": 8}),
    ("layers", {"inside": 2, "outside": 2, "batch": 8, "inner": 0.1}),
]


def hold(space: PlanSpace, bounds: LowerBounds, pricer: StrategyPricer, drawn: Sequence[PlanChoice]) -> int:
    """Hold all bounds of candidates to their prices; how many there were of whose layers something is known."""
    layers = Layers(space, pricer)
    paces = Paces(layers)
    seen = 0
    for of in drawn:
        try:
            needed, price = pricer.needed(strategy_of(space, of)), pricer.price()
        except ParcError:
            continue
        mine = kin(space, of.mesh, of.rules)
        while True:
            layer = layers.best(mine)
            assert bounds.seconds(of, layer) <= price.seconds, (of, layer)
            assert bounds.bytes(of, layer) <= needed, (of, layer)
            if not layers.closer(mine, False):
                break
        seen += layer is not None
        while layer is not None and layer.forward:
            if (pace := paces.best(of, mine)) is not None:
                assert bounds.seconds(of, layer, pace) <= price.seconds, (of, layer, pace)
            if not paces.closer(of, mine):
                break
    return seen


@pytest.mark.parametrize(("model", "sizes"), CASES)
def test_bounds_of_layers_are_admissible(model: str, sizes: dict[str, float]) -> None:
    job = job_of(model, **sizes)
    space, bounds = space_of(job)
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), some(space, 5, 11)) >= 3


ADDING = {"hidden": 256, "flops": 10000, "vector": 1000, "bandwidth": 4, "batch": 8}
"""What is added to gradients is most of what there is to do."""


def test_gradients_are_added_once_where_there_is_one_stage() -> None:
    job = job_of("transformer", inside=2, outside=1, layers=4, **ADDING)
    space, bounds = space_of(job)
    data = next(role for role in space.roles if role.kind == DATA)
    of = [PlanChoice(MeshChoice(((data, 2),), m), PlanRules(DATA, zero)) for m in (2, 4) for zero in (0, 1, 2, 3)]
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), of) == 8


@pytest.mark.parametrize(("inner", "waits"), [(1e6, 0), (0.05, 1), (0.05, 0)])
def test_stages_send_before_they_add_gradients(inner: float, waits: int) -> None:
    text = text_of("transformer", inside=8, outside=1, layers=16, inner=inner, **ADDING)
    text = text.replace("adamw(lr = 1e-3)", "sgd(lr = 1e-3)").replace("optimizers (adamw)", "optimizers (sgd)")
    job = evaluate_file(
        Source("job.par", text.replace("  memory", f"  efficiency blocking_sends {waits}\n  memory", 1))
    ).job
    space, bounds = space_of(job)
    assert bounds.cluster.waits == bool(waits) and min(bounds.model.sent) > 0
    stages, data = (next(role for role in space.roles if role.kind == kind) for kind in (STAGES, DATA))
    every = [("gpipe", 1), ("one_f_one_b", 1), ("interleaved", 2), ("zero_bubble", 1)]
    of = [PlanChoice(MeshChoice(((stages, 8),), 8), PlanRules(STAGES, 0, 0, *way)) for way in every]
    mesh = MeshChoice(((stages, 2), (data, 4)), 2)
    of += [PlanChoice(mesh, PlanRules(first, zero, 0, *every[2])) for first in (STAGES, DATA) for zero in (1, 2)]
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), of) == 8


def test_passes_take_the_same_without_an_update() -> None:
    job = job_of("transformer", inside=4, outside=2)
    space, _ = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    layers = Layers(space, pricer)
    kind = SplitLayer((("cp", 2), ("tp", 2)), 1, "s", True, ())
    found = layers.work(kind, layers.many(kind))
    whole, pricer.compiled = pricer.compiled, lambda strategy, update=True: whole(strategy)  # type: ignore[method-assign]
    assert layers.work(kind, layers.many(kind)) == found and found.saved > 0


def test_looks_speak_of_the_rows_that_they_are_made_for() -> None:
    job = job_of("transformer", inside=4, outside=2, batch=8, layers=2)
    space, _ = space_of(job)
    layers = Layers(space, StrategyPricer(job, space.by_hand))
    kind = SplitLayer((("tp", 4),), 1, "", False, ())
    assert layers.many(kind) == 4  # of two replicas: nothing follows from it for all 8 on one
    for rows, looked in ((8, 8), (4, 4), (2, 4), (1, 4)):
        of = Kin(kind, rows)
        while layers.rougher(of):
            assert (best := layers.best(of)) is not None and best.rows == rows
        assert {n for _, n in layers.asked} == {8, looked}
        assert layers.best(of) is not None


def test_a_product_with_a_vector_takes_less_than_its_share() -> None:
    """Of five rows each takes longer than a single one does, of which products are no products of matrices: what is
    known of the former is no bound of the latter."""
    job = job_of("layers", inside=5, outside=1, batch=25, hidden=500, flops=1e-3, vector=1, bandwidth=10)
    space, bounds = space_of(job)
    role = next(role for role in space.roles if role.kind == DATA)
    of = [PlanChoice(MeshChoice(((role, 5),), m), PlanRules(DATA)) for m in (1, 5)]
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), of) == len(of)


def test_nothing_is_looked_at_that_no_number_allows() -> None:
    """Three heads of six devices: those along two of them cannot share heads, whatever is guessed from two devices."""
    sizes = {"inside": 3, "outside": 2, "heads": 3, "hidden": 48, "batch": 6, "seq": 12}
    source = Source("job.par", text_of("transformer", **sizes))
    space, _ = space_of(evaluate_file(source).job)
    layers = Layers(space, StrategyPricer(evaluate_file(source).job))
    assert layers.look(SplitLayer((("cp", 3),), 0, "", True, ()), 6)
    assert not layers.look(SplitLayer((("cp", 2),), 0, "", True, ()), 6) and len(layers.known) == 1
    assert not layers.look(SplitLayer((("tp", 5),), 0, "", False, ()), 6)
    plan = api.plan(source, within=0.5)
    assert isinstance(plan, FoundPlan)
    certified(Source("job.par", plan.text), plan.certificate)


def test_where_no_weight_has_as_many_pieces_a_look_has_one_replica() -> None:
    """Rows of images over four devices, and classes over two: of eight devices a weight has pieces, of sixteen none."""
    source = Source("job.par", text_of("images", inside=4, outside=2, hidden=3, batch=2))
    job = evaluate_file(source).job
    space, bounds = space_of(job)
    layers = Layers(space, pricer := StrategyPricer(job))
    kind = SplitLayer((("sp", 4), ("tp", 2)), 0, "", False, ())
    assert layers.look(kind, 1) and layers.known[kind][0].replicas == 1
    mine = [of for of in candidates(space) if kin(space, of.mesh, of.rules) == Kin(kind, 1)]
    assert {of.rules.zero for of in mine} == {0, 1, 2, 3} and hold(space, bounds, pricer, mine)
    plan = api.plan(source, within=0.0)
    assert isinstance(plan, FoundPlan)
    plan.certificate["layers"].append(layer_json(kind, layers.known[kind][0]))
    certified(Source("job.par", plan.text), plan.certificate)
