"""What a search finds is what pricing all one by one finds."""

from __future__ import annotations

import random
from itertools import count
from math import isclose
from typing import Any

import pytest

from compiler.model import Job
from parc.planning.bounds import LowerBounds
from parc.planning.planning import plan
from parc.planning.search import MEMORY, STEP, Search
from tests.planning.brute import all_priced, candidates, inside, priced, space_of
from tests.planning.models import MODELS, job_of


def drawn(seed: int, least: int, most: int) -> tuple[str, dict[str, float]]:
    """A model and sizes whose space has so many candidates."""
    rng = random.Random(seed)
    while True:
        model = rng.choice(list(MODELS))
        sizes: dict[str, float] = {
            "inside": rng.choice([1, 2, 4]),
            "outside": rng.choice([1, 2, 3, 4]),
            "batch": rng.choice([4, 6, 8, 12]),
            "hidden": rng.choice([16, 32, 96]),
            "layers": rng.choice([2, 3, 4]),
            "seq": rng.choice([8, 16, 32]),
            "flops": rng.choice([0.01, 0.1, 1]),
            "bandwidth": rng.choice([1, 10]),
            "inner": rng.choice([0.1, 1, 10]),
            "outer": rng.choice([0.01, 0.1, 1]),
            "memory": rng.choice([1, 2, 16000]),
        }
        space, _ = space_of(job_of(model, **sizes))
        if least <= sum(map(space.legal, space.meshes())) <= most:
            return model, sizes


def agree(seed: int, least: int, most: int, within: bool = False) -> None:
    """within: only a job whose optimum is in no corner of its space counts: others are drawn until there is one."""
    draws = (drawn(s, least, most) for s in count(seed, 1000))
    model, sizes = next(d for d in draws if not within or _inside(job_of(d[0], **d[1])))
    job = job_of(model, **sizes)
    space, bounds = space_of(job)
    prices = all_priced(job, space)
    for c in random.Random(seed).sample(list(candidates(space)), 8):
        assert priced(job, space, c) == prices.get(c), (model, sizes, c)
    for c, p in prices.items():
        assert bounds.seconds(c) <= p.seconds and bounds.bytes(c) <= p.needed, (model, sizes, c)
    fitting = [p for p in prices.values() if p.fits]
    for minimise in (STEP, MEMORY):
        found = plan(job, minimise).found
        assert found.counts.total == space.total and found.counts.left == 0 and found.least is None
        if not fitting:
            assert not found.fitting
            continue
        best = min(p.seconds if minimise == STEP else p.needed for p in fitting)
        assert isclose(found.fitting[0].value, best, rel_tol=0, abs_tol=0), (model, sizes, minimise)
        assert prices[found.fitting[0].candidate] == found.fitting[0].price
        if within and minimise == STEP:
            assert all(inside(space, c) for c, p in prices.items() if p.fits and p.seconds == best)


def _inside(job: Job) -> bool:
    """Whether what the search finds, and all that is as fast, is in no corner: so that brute force can say so, too."""
    planned = plan(job)
    fitting = planned.found.fitting
    return bool(fitting) and all(inside(planned.space, p.candidate) for p in fitting if p.value == fitting[0].value)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_brute_force_agrees(seed: int) -> None:
    agree(seed, 8, 40)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_brute_force_agrees_on_large_spaces(seed: int) -> None:
    """In half of them the optimum is in no corner."""
    agree(seed, 500, 1500, within=bool(seed % 2))


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
    job, taken, take = job_of("layers", inside=2, outside=2, batch=4), list[object](), Search._take
    space, _ = space_of(job)
    best = min(p.seconds for p in all_priced(job, space).values() if p.fits)

    def counted(self: Search, of: Any) -> None:
        taken.append(of)
        assert len(taken) < 20 * space.total
        take(self, of)

    monkeypatch.setattr(Search, "_take", counted)
    for of, name in ((Search, "_grouped"), (LowerBounds, "seconds"), (LowerBounds, "beside")):
        monkeypatch.setattr(of, name, lambda *_: 0.0)
    monkeypatch.setattr("parc.planning.search.bunch_bound", lambda *_: 0.0)
    found = plan(job).found
    assert found.counts.left == 0 and found.fitting[0].value == best
