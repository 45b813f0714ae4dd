"""Pricing one strategy after the other: the same figures as `cost`, without what only a person needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import compiler.verify
from compiler.cost.kernels import flops
from compiler.driver import run_passes
from parc import api

FILE = Path(__file__).parents[2] / "examples" / "gpt.par"
SMALL = {"layers": 4, "hidden": 64, "batch": 32}


@pytest.mark.parametrize("params", [{}, {"dp": 2, "tp": 2}, {"pp": 2, "microbatches": 4}, {"dp": 4, "zero": 3}])
def test_it_is_what_cost_says(params: dict[str, int]) -> None:
    estimate = api.cost(FILE, params=SMALL | params)
    found = api.price(api.evaluate(FILE, params=SMALL | params).job)
    assert found.seconds == estimate.timeline.step_seconds
    assert (found.needed, found.fits) == (estimate.needed, estimate.fits)


def test_nothing_is_verified_and_the_model_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the strategies of other sizes of the mesh, on one model."""
    calls: list[str] = []
    monkeypatch.setattr(compiler.verify, "verify", lambda *of: calls.append("verify"))
    plain, serial = (api.evaluate(FILE, params=SMALL | p).job for p in ({"dp": 4}, {}))
    other = replace(serial, strategy=plain.strategy, cluster=plain.cluster)
    assert api.price(other) == api.price(plain) != api.price(serial)
    assert not calls
    graphs = [run_passes(job, "update").training for job in (serial, other)]
    monkeypatch.setattr(flops, "differentiate", lambda m: calls.append("differentiated again"))
    flops._model_flops.cache_clear()
    assert flops.model_flops(graphs[0]) == flops.model_flops(graphs[1]) and not calls
    assert flops._model_flops.cache_info().misses == 1
