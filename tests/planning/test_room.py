"""Where nothing fits in time, what needs least is priced before anybody says that nothing fits."""

from __future__ import annotations

from itertools import count
from math import inf

import pytest

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc.planning.found import Counts
from parc.planning.least_first import LeastFirst
from parc.planning.opened import StillOpen
from parc.planning.planning import plan
from parc.planning.pricing import StrategyPricer
from parc.planning.search import Search
from parc.planning.space import PlanChoice
from tests.planning.brute import space_of
from tests.planning.test_tables import two_tables

WHOLE = two_tables().replace("  loss mse(score, rating)", "  others = rename(score, b -> o)\n  loss LOSS", 1)
WHOLE = WHOLE.replace("age = 6\n", "age = 6, o = b\n", 1).replace("(linear, mse,", "(linear, softmax,")
WHOLE = WHOLE.replace("LOSS", "mean(softmax(score @ others, over o))")
"""A loss of all pairs of the batch."""


def test_more_is_priced_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of a clock for each look at it; what the search begins with has the table whole, and does not fit."""
    job = evaluate_file(Source("job.par", two_tables(memory=0.6))).job
    monkeypatch.setattr("parc.planning.planning.monotonic", lambda: 0.0)  # what comes before takes no time
    monkeypatch.setattr("parc.planning.search.monotonic", count().__next__)
    found = plan(job, within=4, own=job.strategy).found
    assert found.tried[0].seconds is None and len(found.fitting) == 1
    needed = [t.needed for t in found.tried if t.needed is not None]
    assert needed[-1] == min(needed) and found.counts.left > 10


def test_what_needs_least_is_first_and_what_is_refused_is_last() -> None:
    job = evaluate_file(Source("job.par", WHOLE)).job
    space, bounds = space_of(job)
    search = Search(space, bounds, StrategyPricer(job, space.by_hand))
    search._fill()
    search._push_groups()
    every = (*search.likely, *search.later)
    order = LeastFirst(search.guess, search.layers, search._leaves, lambda mesh: mesh.microbatches > 1, every)
    drawn: list[PlanChoice] = []
    while (of := order.next()) is not None:
        drawn.append(of.candidate)
    assert len(drawn) == len({*drawn}) == sum(of.count for *_, of in every)
    assert [of.mesh.microbatches > 1 for of in drawn] == sorted(of.mesh.microbatches > 1 for of in drawn)
    sizes = [bounds.bytes(of) for of in drawn if of.mesh.microbatches == 1]
    assert sizes[0] == min(sizes) and not [*order.left]


def test_one_refusal_speaks_of_all_micro_batches() -> None:
    job = evaluate_file(Source("job.par", WHOLE)).job
    space, bounds = space_of(job)
    search = Search(space, bounds, StrategyPricer(job, space.by_hand))
    pieces = 0
    price = search.price

    def counted(of: object, what: PlanChoice) -> None:
        nonlocal pieces
        pieces += search.best == inf and what.mesh.microbatches > 1
        price(of, what)  # type: ignore[arg-type]

    search.price = counted  # type: ignore[method-assign, assignment]
    search.run()
    assert search.fitting and pieces <= 1


def test_it_is_said_what_was_searched() -> None:
    assert Counts(unfit=3, left=7).words == "none of 3 that were priced fits, and 7 were not looked at in time"
    assert Counts(unfit=3, too_large=7).words == "none of all 10 fits"


def test_no_two_entries_have_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells those apart that are guessed alike: entries themselves have no order."""
    job, take, later = evaluate_file(Source("job.par", WHOLE)).job, Search.take, [0]

    def held(self: Search, of: StillOpen) -> None:
        numbers = [number for _, number, _ in (*self.likely, *self.later)]
        assert len({*numbers}) == len(numbers)
        later[0] = max(later[0], len(self.later))
        take(self, of)

    monkeypatch.setattr(Search, "take", held)
    plan(job, within=20)
    assert later[0], "nothing came last"
