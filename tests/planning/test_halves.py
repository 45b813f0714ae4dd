"""What is kept between the halves of a backward pass is no more than any strategy has, and as certificates say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from compiler.model import Job
from dsl.diagnostics import ParcError
from parc.certifying.by_hand import WrittenByHand
from parc.certifying.halves import HeldHalves
from parc.certifying.links import lie_of
from parc.certifying.stated import StatedPart, Unfounded
from parc.certifying.strategies import strategy_of as written
from parc.planning.certificate import certificate, tried_json
from parc.planning.found import Counts, Found, Tried
from parc.planning.guess import kin
from parc.planning.halves import BetweenHalves
from parc.planning.layers import Layers
from parc.planning.planning import Planned
from parc.planning.pricing import StrategyPricer
from parc.planning.search import STEP
from parc.planning.space import STAGES
from parc.planning.written import strategy_of
from tests.planning.brute import some, space_of
from tests.planning.models import job_of, text_of
from tests.planning.test_agreement import BothSides, rules_of

SIZES: dict[str, float] = {"inside": 2, "outside": 4, "batch": 8, "layers": 5, "inner": 1, "outer": 0.05}
MORE: dict[str, float] = {"inside": 4, "outside": 2, "hidden": 96, "layers": 8, "flops": 0.1, "batch": 16}
NARROW: dict[str, float] = {"inside": 2, "outside": 4, "batch": 8, "layers": 8, "seq": 1, "heads": 2}


@pytest.mark.parametrize(
    ("model", "sizes", "number"),
    [
        ("transformer", SIZES, 40),
        *(
            pytest.param(model, sizes, 150, marks=pytest.mark.nightly)
            for model, sizes in (
                ("transformer", SIZES),
                ("transformer", MORE),
                ("transformer", NARROW),
                ("layers", MORE),
            )
        ),
    ],
)
def test_what_one_price_says_holds_of_others(model: str, sizes: dict[str, float], number: int) -> None:
    """Of other stages, replicas, fewer rows; the last stage may be fullest by what it keeps there."""
    job = job_of(model, **sizes)
    space, bounds = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    layers = Layers(space, pricer)
    halves, closer, others = BetweenHalves(layers), 0, 0
    every = [of for of in some(space, space.total, 3) if halves.any(of)][:number]
    sizes_of = dict[Any, int]()
    for of in every:
        try:
            sizes_of[of] = pricer.needed(strategy_of(space, of))
        except ParcError:
            continue
        halves.add([Tried(of, between=halves.learn(of))])
    for of, needed in sizes_of.items():
        mine = kin(space, of.mesh, of.rules)
        layers.look(mine.layer, mine.rows)
        bound = halves.bytes(bounds, of, mine)
        assert bound <= needed, (of, halves.kept(of, mine))
        closer += bound > bounds.bytes(of, layers.best(mine))
        others += len(halves.kept(of, mine)) > 1
    assert closer and others and len({of.mesh.size(STAGES) for of in sizes_of}) > 1


class BothHalves:
    """Of some strategies of a small job, as a search and who holds its certificate have them."""

    def __init__(self) -> None:
        self.sides = sides = BothSides(text_of("transformer", **{**SIZES, "outside": 2, "layers": 4, "batch": 4}))
        self.search, self.job = sides.search, sides.search.pricer.job
        halves = self.search.halves
        self.some = [of for of in some(sides.space, sides.space.total, 1) if halves.any(of)][:4]
        self.tried = []
        for of in self.some:
            self.search.pricer.needed(strategy_of(sides.space, of))
            self.tried.append(Tried(of, between=halves.learn(of)))
            halves.add(self.tried[-1:])
        planned = Planned(self.job, sides.space, sides.bounds, Found((), (), Counts(), None, 0.0), STEP)
        self.certificate: dict[str, Any] = json.loads(json.dumps(certificate(planned, 1)))

    def theirs(self, change: Mapping[str, Any] | None = None) -> HeldHalves:
        """What is found of these. change: of each that says something."""
        stated, by_hand = StatedPart(self.certificate), WrittenByHand(self.job, self.sides.stated)

        def build(mesh: Mapping[str, int], m: int, rules: Mapping[str, Any]) -> Job:
            return by_hand.job_of(written(mesh, m, rules, self.sides.stated, stated, by_hand), rules["by"])

        found = HeldHalves(self.sides.stated, self.sides.floors, build)
        for tried in self.tried:
            row = json.loads(json.dumps(tried_json(self.sides.space, tried)))
            if row["between"] is not None and change is not None:
                row["between"] = {k: v + change.get(k, 0) for k, v in {**row["between"], **change}.items()}
            rules = {**row, "rows": tuple(row["rows"]), "offload": ()}
            found.hold(StatedPart(row, "tried[0]"), dict(row["mesh"]), row["microbatches"], rules)
        return found


@pytest.fixture(scope="module")
def both() -> BothHalves:
    return BothHalves()


def test_the_other_side_finds_the_same(both: BothHalves) -> None:
    theirs, sides = both.theirs(), both.sides
    assert sum(tried.between is not None for tried in both.tried) > 1
    for of in both.some:
        mine, rules = kin(sides.space, of.mesh, of.rules), of.rules
        both.search.layers.look(mine.layer, mine.rows)
        layer = both.search.layers.best(mine)
        assert layer is not None
        mesh, m = {role.name: n for role, n in of.mesh.axes}, of.mesh.microbatches
        lie = lie_of(sides.stated, mesh, "", rules.heads)
        size = theirs.bytes(mesh, lie, m, rules.zero, rules.recompute, rules_of(mine.layer), layer.saved)
        assert 0 < both.search.halves.bytes(sides.bounds, of, mine) <= size * (1 + 1e-8), of


@pytest.mark.parametrize("name", ["layer", "behind", "more"])
def test_no_number_can_be_another(both: BothHalves, name: str) -> None:
    with pytest.raises(Unfounded) as raised:
        both.theirs({name: 1})
    assert raised.value.code == "E1105"


def test_nothing_is_said_of_other_strategies(both: BothHalves) -> None:
    of = StatedPart({"between": {"layer": 1.0, "behind": 1.0}}, "tried[0]")
    rules = {"schedule": "one_f_one_b", "zero": 0, "offload": ()}
    with pytest.raises(Unfounded) as raised:
        both.theirs().hold(of, {"pp": 2}, 2, rules)
    assert raised.value.code == "E1105"
