"""What is priced first: estimates of all candidates, and what is learned of those that were priced."""

from __future__ import annotations

import numpy as np
import pytest

from parc.planning.estimates import Estimates
from parc.planning.layers import Layers
from parc.planning.opened import StillOpen
from parc.planning.planning import plan
from parc.planning.pricing import StrategyPricer
from parc.planning.scouting import Learned, Scout
from parc.planning.search import Search
from parc.planning.space import PlanChoice
from parc.planning.written import strategy_of
from tests.planning.brute import all_priced, candidates, space_of
from tests.planning.models import job_of


def test_what_is_learned_of_one_is_believed_of_those_like_it() -> None:
    what = np.zeros((4, 9), int)
    what[1, 5] = what[2, :] = 1
    learned = Learned(what)
    assert not learned.expected().any()
    learned.learn(0, 1.0)
    same, alike, other, again = learned.expected()
    assert same == again and 0.9 < same <= 1.0 and 0.5 < alike < same and other == 0.0
    learned.learn(1, 0.0)
    assert learned.expected()[1] < 0.2 < learned.expected()[0]


@pytest.mark.parametrize("model", ["layers", "tables"])
def test_the_first_prices_are_near_the_best(model: str) -> None:
    """Each is of a candidate of the space, of which none comes twice; of some the best is nearly that of all."""
    job = job_of(model, inside=2, outside=2, batch=4)
    space, bounds = space_of(job)
    pricer = StrategyPricer(job)
    search = Search(space, bounds, pricer)
    scout = Scout(Estimates(space, bounds, Layers(space, pricer), search.has_room), bounds.cluster.memory)
    every, seen, found = {*candidates(space)}, [], []
    for what in scout.candidates():
        assert what in every and what not in seen
        seen.append(what)
        needed = pricer.needed(strategy_of(space, what))
        fits = needed <= bounds.cluster.memory
        found.append(pricer.price().seconds if fits else None)
        scout.learn(found[-1], needed)
    best = min(p.seconds for p in all_priced(job, space).values() if p.fits)
    assert min(f for f in found if f is not None) <= 1.1 * best


@pytest.mark.parametrize("within", [30.0, 8.0, 1.5])
def test_a_search_of_long_prices_ends_near_its_time(within: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often a little sooner as later; and no more than half of the time goes to estimates that were no better."""
    now, price = [0.0], Search._price

    def slow(self: Search, of: StillOpen, what: PlanChoice) -> None:
        now[0] += 2.0
        price(self, of, what)

    monkeypatch.setattr(Search, "_price", slow)
    for module in ("search", "planning"):
        monkeypatch.setattr(f"parc.planning.{module}.monotonic", lambda: now[0])
    found = plan(job_of("transformer", inside=4), within=within).found
    assert found.tried and (within < 2 or abs(now[0] - within) <= 1.0)
