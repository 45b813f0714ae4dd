"""What may be computed again: layers but for what their products make are among the choices, and are certified."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.evaluate import evaluate
from compiler.strategy import RecomputeRule
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.cli.plan import _csv
from parc.planning.answer import FoundPlan
from parc.planning.dims import splittable
from parc.planning.reasons import choices_of
from parc.planning.recomputes import in_place_of, recomputes
from parc.planning.space import PlanChoice
from parc.planning.written import lines_of, strategy_of
from parc.report.plan_page import plan_page
from tests.planning.brute import candidates, priced, space_of
from tests.planning.models import job_of, text_of

EXAMPLES = Path(__file__).parents[2] / "examples"

TIGHT: dict[str, float] = {
    **{"inside": 1, "outside": 1, "batch": 1, "seq": 64, "hidden": 64, "layers": 8, "heads": 4},
    **{"flops": 0.01, "vector": 0.1, "memory": 8.6, "bandwidth": 100},
}
"""One device, on which all that is saved has no room, and what products make has."""

KEPT = ("dot", "dot_1", "dot_2", "mixed", "dot_3")


@pytest.fixture(scope="module")
def found() -> FoundPlan:
    found = api.plan(Source("job.par", text_of("transformer", **TIGHT)), within=None)
    assert isinstance(found, FoundPlan) and found.certificate["proved"]
    return found


def test_products_are_kept_but_for_scores_and_what_nobody_needs() -> None:
    job = job_of("transformer", seq=64)
    nothing, part, products, whole = recomputes(job, splittable(job))
    kept = (*(f"block.attention.{name}" for name in KEPT), "block.mlp.dot")
    assert nothing == () and part == (RecomputeRule("block.attention"),) and whole == (RecomputeRule("block"),)
    assert products == (RecomputeRule("block", kept),)
    assert recomputes(job_of("layers"), splittable(job_of("layers"))) == ((),)


def test_a_loop_without_gradients_keeps_nothing() -> None:
    job = evaluate(EXAMPLES / "distill.par", strategy="serial")
    teacher, student = recomputes(job, splittable(job))[-2]
    assert not teacher.keep and student.keep and all(k.startswith("student.block.") for k in student.keep)


def test_it_is_found_where_it_is_best(found: FoundPlan) -> None:
    """Of all choices on one device, priced one by one."""
    job = job_of("transformer", **TIGHT)
    space, _ = space_of(job)
    prices = {c: p for c in candidates(space) if (p := priced(job, space, c)) is not None and p.fits}
    best = min(prices, key=lambda c: prices[c].seconds)
    assert found.best[0].candidate == best and space.again(best.rules)[0].keep
    assert found.refined is not None
    bounds = f"[0..{found.refined.by.again[0]}]"  # the file has what is better still: the first layers alone
    assert f"recompute block{bounds} keep block{bounds}.attention.{KEPT[0]}, " in found.text
    assert dict(choices_of(space, best))["recompute"] == "block but for 6 products"


def test_tables_and_pages_say_so(found: FoundPlan) -> None:
    """Names as they stand in the file, to machines; how many there are, to people."""
    better, row, *_ = csv.DictReader(_csv(found, None).splitlines())
    assert row["recompute"].startswith("block keep block.attention.dot, ")
    assert "recompute block keep block.attention.dot, " in row["strategy"] and row["order"] == "" and row["rows"] == ""
    assert found.refined is not None and found.refined.price is not None
    assert better["step_seconds"] == str(found.refined.price.seconds) and better["bound"] == ""
    assert f"recompute block[0..{found.refined.by.again[0]}]" in better["strategy"]
    assert "block but for 6 products" in plan_page(found)


def test_where_something_is_by_hand_its_result_is_kept() -> None:
    job = job_of("transformer", seq=512, hidden=24, heads=3, outside=1, batch=2)
    space, bounds = space_of(job)
    of = next(c for c in candidates(space) if c.rules.by == 2 and any(rule.keep for rule in space.again(c.rules)))
    assert "recompute block keep block.attention, block.mlp.dot" in lines_of(space, of)
    price, without = priced(job, space, of), PlanChoice(of.mesh, replace(of.rules, recompute=0))
    assert price is not None and bounds.seconds(of) <= price.seconds and bounds.bytes(of) <= price.needed
    plain = priced(job, space, without)
    assert plain is not None and price.needed < plain.needed
    assert strategy_of(space, of).recomputes == in_place_of(space.recomputes[2], ["block.attention"])


def put(certificate: dict[str, Any], make: Callable[[list[Any]], object]) -> dict[str, Any]:
    """A copy with other choices of what is computed again."""
    other: dict[str, Any] = json.loads(json.dumps(certificate))
    make(other["space"]["recompute"])
    return other


def test_its_certificate_holds_and_what_is_kept_cannot_be_another(found: FoundPlan) -> None:
    source, certificate = Source("job.par", found.text), json.loads(json.dumps(found.certificate))
    assert "block but for block.attention.dot, " in certified(source, certificate).space
    mutants: list[Callable[[list[Any]], object]] = [
        lambda rows: rows[2][0]["keep"].pop(),
        lambda rows: rows[2][0].update(keep=[]),
        lambda rows: rows[2][0].update(keep=["block.nope"]),
        lambda rows: rows[2][0].update(keep="block.mlp.dot"),
        lambda rows: rows[2][0].update(scope="block.attention"),
        lambda rows: rows[2][0].update(why="best"),
        lambda rows: rows[2][0].pop("keep"),
        lambda rows: rows[2].append(rows[2][0]),
        lambda rows: rows[1][0].update(keep=["block.attention.mixed"]),
        lambda rows: rows.reverse(),
    ]
    for mutant in mutants:
        with pytest.raises(Unfounded) as error:
            certified(source, put(certificate, mutant))
        assert error.value.code in ("E1101", "E1103", "E1104", "E1105", "E1106")
