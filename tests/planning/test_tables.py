"""Rows of those tables are split that devices divide, whatever other tables there are."""

from __future__ import annotations

import json

import pytest

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.firsts import firsts
from parc.planning.pricing import StrategyPricer
from parc.planning.space import PlanSpace
from tests.planning.brute import all_priced, candidates, space_of
from tests.planning.models import text_of
from tests.planning.test_layers import hold

SIZES = {"inside": 4, "outside": 1, "batch": 4, "hidden": 64, "memory": 1.3, "flops": 1, "inner": 10}
"""The large table fits in no device as a whole."""


def two_tables(**sizes: float) -> str:
    """A table of 4,096 rows, and one of 6."""
    text = text_of("tables", **{**SIZES, **sizes})
    text = text.replace("one = 1\n", "one = 1, age = 6\n  input ages : int32[b] in 0..age\n", 1)
    text = text.replace("  score =", "  weight small[age,e] ~ normal(0.1)\n  score =", 1)
    return text.replace("take(table, user, over u)", "take(table, user, over u) + take(small, ages, over age)", 1)


def rows(space: PlanSpace) -> set[tuple[int, tuple[str, ...]]]:
    return {(c.mesh.size("data"), c.rules.rows) for c in candidates(space)}


def test_a_small_table_forbids_nothing() -> None:
    job = evaluate_file(Source("job.par", two_tables())).job
    space, bounds = space_of(job)
    assert rows(space) == {(1, ()), (2, ()), (2, ("u",)), (4, ()), (4, ("u",))}
    some = [c for c in candidates(space) if c.rules.rows and c.mesh.microbatches == 1 and c.rules.recompute == 0]
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), some[::2]) == len(some[::2]) > 3


@pytest.fixture(scope="module")
def found() -> FoundPlan:
    found = api.plan(Source("job.par", two_tables()), within=None)
    assert isinstance(found, FoundPlan)
    return found


def test_the_best_is_that_of_brute_force(found: FoundPlan) -> None:
    job = evaluate_file(Source("job.par", two_tables())).job
    space, _ = space_of(job)
    fitting = {c: p for c, p in all_priced(job, space).items() if p.fits}
    best = found.best[0]
    assert best.price.seconds == min(p.seconds for p in fitting.values())
    assert {c.rules.rows for c in fitting} == {(), ("u",)} and best.candidate.rules.rows == ("u",)
    assert "split u, b on dp" in found.text


def test_its_certificate_has_these_rows_and_no_others(found: FoundPlan) -> None:
    source, stated = Source("job.par", found.text), json.loads(json.dumps(found.certificate))
    assert certified(source, stated).gap == 0 and stated["proved"]
    stated["tried"].sort(key=lambda t: t["rows"] != ["u"])
    entry = stated["tried"][0]
    for other in (["u", "age"], ["age"], ["u", "u"], ["b"], True):
        entry["rows"] = other
        with pytest.raises(Unfounded) as error:
            certified(source, stated)
        assert error.value.code in ("E1101", "E1105")


def test_a_strategy_of_one_table_is_where_a_search_begins() -> None:
    strategy = "strategy own for recommender {\n  mesh (dp = 4)\n  split u, b on dp\n}\n\njob fit"
    text = two_tables().replace("job fit", strategy).replace("on pod", "on pod using own")
    job = evaluate_file(Source("job.par", text)).job
    space, _ = space_of(job)
    assert firsts(space, job.strategy)[0].rules.rows == ("u",)
