"""What strategies share with others changes nothing: each costs what it costs by itself, whatever was priced before."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from compiler.graph import Graph
from compiler.passes.lower_update import ClassUpdate
from compiler.passes.place.alike import SizesAsked
from compiler.passes.place.rules import Rules
from dsl.diagnostics import ParcError
from parc.planning.pricing import StrategyPricer
from parc.planning.space import POSITIONS, STAGES, PlanChoice, PlanSpace
from parc.planning.written import strategy_of
from parc.price import Price
from tests.planning.brute import candidates, priced, space_of
from tests.planning.models import job_of

CASES = [
    ("transformer", {"inside": 2, "outside": 2, "batch": 6, "hidden": 24, "layers": 3}, 8),
    ("images", {"inside": 4, "outside": 2, "batch": 4, "seq": 12}, 8),
    ("tables", {"inside": 2, "outside": 3, "batch": 12}, 8),
    ("layers", {"inside": 2, "outside": 3, "batch": 6, "hidden": 18}, 8),
]


def shared(pricer: StrategyPricer, space: PlanSpace, of: PlanChoice) -> Price | None:
    try:
        pricer.needed(strategy_of(space, of))
    except ParcError:
        return None
    return pricer.price()


@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_prices_are_those_of_each_by_itself(model: str, sizes: dict[str, float], number: int) -> None:
    agree(model, sizes, number, 3)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_prices_of_whole_spaces(model: str, sizes: dict[str, float], number: int, seed: int) -> None:
    assert agree(model, sizes, 40 * number, seed).count(True) > number


def test_another_answer_is_placed_anew() -> None:
    """Two devices have nine of 18 columns each, four have not."""
    answers = agree("layers", {"inside": 4, "outside": 2, "batch": 8, "hidden": 18}, 30, 5)
    assert {True, False} <= {*answers}


def test_functions_are_taken_for_other_sizes_and_orders() -> None:
    """Strategies that differ in sizes, micro-batches and schedules have a few programs among them, and their own
    prices; what is marked of attention hangs on how many devices there are for positions."""
    job = job_of("transformer", inside=4, outside=4, batch=8, layers=4, seq=16)
    space, _ = space_of(job)
    alike: dict[object, list[PlanChoice]] = {}
    for of in candidates(space):
        rules = replace(of.rules, schedule="", chunks=1)
        alike.setdefault((rules, tuple(role for role, _ in of.mesh.axes), of.mesh.size(STAGES)), []).append(of)
    groups = [g for g in alike.values() if any(role.kind == POSITIONS for role, _ in g[0].mesh.axes)]
    group = max(groups, key=lambda g: (len({of.mesh.axes for of in g}), len({of.rules.schedule for of in g}), len(g)))
    pricer = StrategyPricer(job)
    for of in (tried := group[:24]):
        assert shared(pricer, space, of) == priced(job, space, of), of
    programs = pricer.programs
    assert len(programs.known) < programs.count < len(tried)


def test_updates_are_made_of_what_fits_alone() -> None:
    """What memory asks for needs no body of any update; time does, once for each structure, also where all-to-alls in
    it are marked by what is before them. Memory and time are those of each strategy by itself."""
    made, body = list[ClassUpdate](), ClassUpdate.body

    def noted(self: ClassUpdate) -> Graph:
        made.append(self)
        return body(self)

    job = job_of("tables", inside=2, outside=3, batch=12)
    space, _ = space_of(job)
    pricer, marked, structures = StrategyPricer(job), set[bool](), 0
    for of in random.Random(1).sample(list(candidates(space)), 14):
        by_itself = priced(job, space, of)
        if by_itself is None:
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ClassUpdate, "body", noted)
            assert pricer.needed(strategy_of(space, of)) == by_itself.needed and pricer.updates is not None
            assert not made, of
            assert pricer.price() == by_itself and pricer.updates is None
            structures += bool(made)
            made.clear()
        marked |= {k.later.exchanges for k in pricer.programs.known.values() if k.later and k.later.made}
    assert marked == {True, False} and structures == len(pricer.programs.known)


def agree(model: str, sizes: dict[str, float], number: int, seed: int) -> list[bool]:
    """Hold so many candidates to their prices, in any order; whether they answered as one did that was placed before,
    each time that one was asked."""
    job, answers = job_of(model, **sizes), list[bool]()
    space, _ = space_of(job)
    found, pricer, sizes_of = list(candidates(space)), StrategyPricer(job, space.by_hand), SizesAsked.sizes

    def asked(self: SizesAsked, other: Rules) -> dict[str, int] | None:
        answers.append((found := sizes_of(self, other)) is not None)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SizesAsked, "sizes", asked)
        for of in random.Random(seed).sample(found, min(number, len(found))):
            assert shared(pricer, space, of) == priced(job, space, of), of
    return answers
