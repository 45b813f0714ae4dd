"""What is found around the best: uneven cuts, layers of which the first alone are computed again; and what a
certificate is held to there."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from hashlib import sha256
from typing import Any

import pytest

from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.certificate import certificate
from parc.planning.refining import MOST, PlanChange, Refiner, changed
from parc.price import price
from tests.planning.brute import space_of
from tests.planning.models import job_of
from tests.planning.test_firsts import own

SLOW = {"inside": 1, "outside": 2, "hidden": 32, "seq": 15, "outer": 0.0005, "bandwidth": 1, "flops": 0.001}
"""Links over which nothing but a stage's results can go."""

STAGES = "pipeline block on pp, schedule one_f_one_b(microbatches = 3, over = b)"

CASES: dict[str, tuple[list[str], dict[str, float]]] = {
    "cut": (["mesh (pp = 2)", STAGES], {**SLOW, "batch": 3, "layers": 3, "heads": 1}),
    "again": (["mesh (pp = 2)", "recompute block", STAGES], {**SLOW, "batch": 3, "layers": 4, "memory": 0.555}),
}


@cache
def found(case: str) -> tuple[Refiner, Source, dict[str, Any]]:
    """What is around the file's own strategy, without a search."""
    lines, sizes = CASES[case]
    source = Source("job.par", own("transformer", lines, **sizes))
    plan = api.plan(source, within=0.0)
    assert isinstance(plan, FoundPlan) and plan.refined is None and not plan.certificate["around"]
    around = Refiner(source, {}, plan.planned, None, None)
    around.run()
    best = around.best
    assert best is not None
    text = around.text(best.base, best.by, True)
    told = certificate(plan.planned, 5, around.tried)
    return around, Source("job.par", text), {**told, "file": sha256(text.encode()).hexdigest()}


def test_statements_are_changed_where_they_name_the_loop() -> None:
    space, _ = space_of(job_of("transformer"))
    lines = [
        "recompute block keep block.attention.dot, blocks.x",
        "pipeline block on pp, schedule gpipe()",
    ]
    assert changed(space, lines, PlanChange((3, 5), (1,))) == [
        "recompute block[0..1] keep block[0..1].attention.dot, blocks.x",
        "pipeline block on pp, schedule gpipe(), cuts [3, 5]",
    ]
    assert changed(space, lines, PlanChange()) == lines


@pytest.mark.parametrize("case", CASES)
def test_what_is_better_is_found_and_held(case: str) -> None:
    around, source, told = found(case)
    made, best = around.best, around.planned.found.fitting[0]
    assert made is not None and made.price is not None and made.price.seconds < best.price.seconds
    assert bool(made.by.cuts) == (case == "cut") and bool(made.by.again) == (case == "again")
    assert ("cuts [" in source.text, "recompute block[0.." in source.text) == (case == "cut", case == "again")
    assert price(api.evaluate(source).job) == made.price
    held = certified(source, told)
    assert (held.seconds, held.needed) == (made.price.seconds, made.price.needed)
    assert api.verify(Source("job.par", source.text.replace("memory 0.555 MB", "memory 9 MB"))).equal


def test_plans_have_it() -> None:
    """From the file to the file, and in words."""
    lines, sizes = CASES["cut"]
    source = Source("job.par", own("transformer", lines, **sizes))
    plan = api.plan(source, within=None)
    assert isinstance(plan, FoundPlan) and plan.refined is not None and plan.refined.price is not None
    assert "cuts [" in plan.text and price(api.evaluate(Source("job.par", plan.text)).job) == plan.refined.price
    assert plan.certificate["proved"] and len(plan.certificate["around"]) <= MOST


DAILY = ("a time", "layers", "more than a strategy", "refused", "the best left out")


def refused(told: Any, line: str, code: str) -> None:
    """Said of one that is not the best: it cannot be."""
    told["around"][-1].update(strategy=[line], code=code, needed=None, seconds=None)


MUTANTS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "a time": ("cut", lambda c: c["around"][0].update(seconds=c["around"][0]["seconds"] * 0.9)),
    "a size": ("again", lambda c: c["around"][0].update(needed=c["around"][0]["needed"] - 1)),
    "cuts": ("cut", lambda c: c["around"][0].update(cuts=[3 - c["around"][0]["cuts"][0]])),
    "no cuts": ("cut", lambda c: c["around"][0].update(cuts=[])),
    "layers": ("again", lambda c: c["around"][0].update(again=[c["around"][0]["again"][0] + 1])),
    "all layers": ("again", lambda c: c["around"][0].update(again=[5])),
    "another plan": ("cut", lambda c: c["around"][0].update(microbatches=1)),
    "another statement": ("cut", lambda c: c["around"][0]["strategy"].append("recompute block")),
    "more than a strategy": ("cut", lambda c: c["around"][0]["strategy"].extend(["}", "strategy other for gpt {"])),
    "a comment": ("again", lambda c: c["around"][0]["strategy"].append("# as fast as it gets")),
    "no language": ("again", lambda c: refused(c, "nonsense", "E0001")),
    "refused": ("again", lambda c: refused(c, "mesh (pp = 7)", "E0406")),
    "a code": ("again", lambda c: c["around"][0].update(code="E0001")),
    "one twice": ("cut", lambda c: c["around"].append(c["around"][0])),
    "the best left out": ("cut", lambda c: c.update(around=[])),
    "no list": ("again", lambda c: c.update(around=None)),
}


@pytest.mark.parametrize(
    "mutant", [of if of in DAILY else pytest.param(of, marks=pytest.mark.nightly) for of in MUTANTS]
)
def test_what_is_said_of_it_is_held(mutant: str) -> None:
    case, change = MUTANTS[mutant]
    _, source, told = found(case)
    stated = deepcopy(told)
    change(stated)
    with pytest.raises(Unfounded) as wrong:
        certified(source, stated)
    assert wrong.value.code in ("E1106", "E1101")
