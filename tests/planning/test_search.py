"""A search that ends early, and one whose bounds say nothing. (`test_brute`: what a search finds is what pricing all
one by one finds.)"""

from __future__ import annotations

from typing import Any

import pytest

from parc.planning.bounds import LowerBounds
from parc.planning.planning import plan
from parc.planning.search import Search
from tests.planning.brute import all_priced, space_of
from tests.planning.models import job_of


def test_a_search_that_is_cut_short_says_how_much_better_the_rest_can_be() -> None:
    job = job_of("tables", batch=16)
    whole, cut = plan(job).found, plan(job, within=0.0).found
    assert cut.counts.left and cut.least is not None and cut.counts.total == whole.counts.total
    assert cut.least <= whole.fitting[0].value


def test_a_search_that_is_interrupted_has_what_it_found() -> None:
    job = job_of("transformer")
    told = []

    def stop(plan: object, counts: object) -> None:
        told.append(plan)
        raise KeyboardInterrupt

    found = plan(job, told=stop).found
    assert found.interrupted and len(found.fitting) == len(told) == 1 and found.counts.left


def test_bounds_of_nothing_are_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bound says anything each candidate is priced once, and the search comes to its end."""
    job, taken, take = job_of("layers", inside=2, outside=2, batch=4), list[object](), Search.take
    space, _ = space_of(job)
    best = min(p.seconds for p in all_priced(job, space).values() if p.fits)

    def counted(self: Search, of: Any) -> None:
        taken.append(of)
        assert len(taken) < 20 * space.total
        take(self, of)

    monkeypatch.setattr(Search, "take", counted)
    for of, name in ((Search, "_grouped"), (LowerBounds, "seconds"), (LowerBounds, "beside")):
        monkeypatch.setattr(of, name, lambda *_: 0.0)
    monkeypatch.setattr("parc.planning.search.bunch_bound", lambda *_: 0.0)
    found = plan(job).found
    assert found.counts.left == 0 and found.fitting[0].value == best
