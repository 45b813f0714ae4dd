"""What fits nowhere gets a plan with the optimizer's states, weights or activations in the hosts' memory."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan
from parc.planning.offloads import offloads
from parc.planning.planning import plan
from parc.planning.pricing import StrategyPricer
from parc.planning.search import MEMORY, STEP
from parc.planning.written import strategy_of
from tests.planning.brute import all_priced, candidates, priced, some, space_of
from tests.planning.models import text_of
from tests.planning.test_layers import hold

SMALL: dict[str, float] = {
    **{"inside": 1, "outside": 2, "hidden": 32, "batch": 4, "memory": 0.0725},
    **{"outer": 20, "flops": 1, "vector": 0.1, "bandwidth": 16},
}


def with_host(model: str, host: str = "host memory 64 GiB, 20 GB/s over 4 GB/s", **sizes: float) -> Source:
    """The job, with a server that has such a memory and an optimizer that has states."""
    text = text_of(model, **{**SMALL, **sizes}).replace("  device npu = chip\n", f"  device npu = chip\n  {host}\n")
    return Source("job.par", text.replace("(sgd)", "(adamw)").replace("sgd(lr", "adamw(lr"))


def job_of(source: Source) -> Job:
    return evaluate_file(source).job


@pytest.fixture(scope="module")
def found() -> FoundPlan:
    found = api.plan(with_host("layers"), within=None)
    assert isinstance(found, FoundPlan)
    return found


def test_what_fits_nowhere_fits_with_the_hosts_as_brute_force_finds(found: FoundPlan) -> None:
    job = job_of(with_host("layers"))
    space, bounds = space_of(job)
    assert not any(p.fits for p in all_priced(job, space).values())
    away = offloads(job)
    assert away[:2] == (("optimizer",), ("optimizer", "weights")) == found.planned.space.offloads[:2]
    space = replace(space, offloads=away)
    prices = all_priced(job, space)
    assert len(prices) == len(list(candidates(space)))
    for of, price in prices.items():
        assert bounds.seconds(of) <= price.seconds and bounds.bytes(of) <= price.needed, of
    fitting = [p for p in prices.values() if p.fits]
    assert 0 < len(fitting) < len(prices)
    assert found.best[0].price.seconds == min(p.seconds for p in fitting) and " to host" in found.text
    assert plan(job, MEMORY, away=away).found.fitting[0].value == min(p.needed for p in fitting)
    of = found.best[0].candidate
    assert priced(job, space, of) == prices[of]


def test_its_certificate_holds_and_says_what_is_with_the_hosts(found: FoundPlan) -> None:
    source, certificate = Source("job.par", found.text), json.loads(json.dumps(found.certificate))
    assert "with the hosts optimizer, or optimizer and weights" in certified(source, certificate).space
    assert certificate["proved"] and "all on the devices" in certificate["space"]["without"]
    for path, value in (
        (("space", "offload", 0), ["weights", "optimizer"]),
        (("space", "offload"), [["optimizer"]]),
        (("space", "offload"), [[]]),
        (("tried", 0, "offload"), []),
        (("best", 0, "offload"), ["activations"]),
        (("cluster", "host"), 1e9),
    ):
        mutant = at = deepcopy(certificate)
        for p in path[:-1]:
            at = at[p]
        at[path[-1]] = value
        with pytest.raises(Unfounded):
            certified(source, mutant)


@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_bounds_are_admissible(compute: str) -> None:
    source = with_host("transformer", inside=2, layers=3, memory=16000)
    stated = f"  optimizer adamw(lr = 1e-3)\n  precision {compute}, master f32\n"
    job = job_of(replace(source, text=source.text.replace("  optimizer adamw(lr = 1e-3)\n", stated)))
    space, bounds = space_of(job)
    space = replace(space, offloads=offloads(job))
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), some(space, 5, 3)) >= 3


def test_what_fits_is_searched_on_the_devices_alone() -> None:
    found = api.plan(with_host("layers", memory=16000), within=None)
    assert isinstance(found, FoundPlan) and found.planned.space.offloads == ((),)
    assert "offload" in found.certificate["space"]["without"]


def test_a_host_whose_memory_is_too_small_is_no_place() -> None:
    """All have room on the devices, with the hosts too little: of what is there nothing fits."""
    job = job_of(with_host("layers", "host memory 0.001 MB, 20 GB/s over 4 GB/s", memory=16000))
    space, _ = space_of(job)
    space = replace(space, offloads=offloads(job))
    pricer = StrategyPricer(job)
    for of in some(space, 3, 1):
        pricer.needed(strategy_of(space, of))
        assert not pricer.price().fits and pricer.price() == priced(job, space, of)
    assert not plan(job, STEP, away=space.offloads).found.fitting
    with pytest.raises(ParcError, match="nor does any that was tried with states"):
        api.plan(with_host("layers", "host memory 0.001 MB, 20 GB/s over 4 GB/s"), within=None)
