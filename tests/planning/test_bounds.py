"""No bound is above what a strategy takes or needs; the shared price is the full one."""

from __future__ import annotations

import pytest

from dsl.diagnostics import ParcError
from parc.planning.pricing import StrategyPricer
from parc.planning.written import strategy_of
from tests.planning.brute import priced, some, space_of
from tests.planning.models import MODELS, job_of

CASES = [
    (model, sizes)
    for model in MODELS
    for sizes in (
        {"inside": 2, "outside": 2},
        {"inside": 4, "outside": 1, "hidden": 64, "flops": 0.1, "bandwidth": 4, "batch": 16},
        {"inside": 2, "outside": 3, "inner": 1, "outer": 0.05, "batch": 12, "hidden": 96, "layers": 3},
    )
]


@pytest.mark.parametrize(("model", "sizes"), CASES)
def test_bounds_are_admissible(model: str, sizes: dict[str, float]) -> None:
    job = job_of(model, **sizes)
    space, bounds = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    seen = 0
    for of in some(space, 5, 7):
        full = priced(job, space, of)
        try:
            needed = pricer.needed(strategy_of(space, of))
        except ParcError:
            assert full is None
            continue
        assert full is not None and (needed, pricer.price()) == (full.needed, full)
        assert bounds.seconds(of) <= full.seconds, of
        assert bounds.bytes(of) <= full.needed, of
        seen += 1
    assert seen >= 2
