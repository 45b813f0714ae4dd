"""Where a search begins: at the file's own strategy, told beside the best; and what is known when it is interrupted."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from compiler.strategy import SERIAL
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.planning.answer import FoundPlan
from parc.planning.firsts import firsts
from parc.planning.found import PricedPlan
from parc.planning.planning import plan
from parc.planning.pricing import StrategyPricer
from parc.planning.search import Search
from parc.planning.written import lines_of, strategy_of
from tests.planning.brute import all_priced, some, space_of
from tests.planning.models import MODELS, job_of, text_of


@pytest.mark.parametrize("model", MODELS)
def test_a_strategy_of_the_space_is_itself(model: str) -> None:
    """Whatever its axes are called, and where some have one device alone."""
    space, _ = space_of(job_of(model, inside=4))
    for of in some(space, 60, 5):
        assert firsts(space, strategy_of(space, of))[0] == of
    assert all(len(of.axes) == 1 and of.rules.zero == 1 for of in firsts(space, SERIAL))


def own(model: str, lines: list[str], **sizes: float) -> str:
    """The file with a strategy of its own."""
    name = {"transformer": "gpt", "tables": "recommender"}.get(model, "net")
    text = text_of(model, **sizes).replace("on pod\n", "on pod using mine\n")
    statements = "\n  ".join(lines)
    return f"{text}\nstrategy mine for {name} {{\n  {statements}\n}}\n"


def test_a_plan_is_never_slower_than_what_the_file_had() -> None:
    """Even without any time: the strategy is priced first, and is told beside the best."""
    job = job_of("layers", batch=4, inside=2, outside=2)
    space, _ = space_of(job)
    priced = {of: p for of, p in all_priced(job, space).items() if p.fits}
    best = min(priced, key=lambda of: priced[of].seconds)
    text = own("layers", lines_of(space, best, ()), batch=4, inside=2, outside=2)
    found = api.plan(Source("job.par", text), within=0.0)
    assert isinstance(found, FoundPlan) and found.best[0].price == priced[best]
    assert found.own is not None and found.own.price == priced[best] and found.own.name == "mine"
    assert found.planned.found.counts.total == space.total
    assert certified(Source("job.par", found.text), found.certificate).gap == found.planned.found.gap


def test_what_the_space_has_not_is_told_beside_the_best() -> None:
    text = own("transformer", ["mesh (x = 2, y = 2)", "split b on x", "split d on y for activations"])
    found = api.plan(Source("job.par", text), within=0.0)
    assert isinstance(found, FoundPlan) and found.own is not None
    assert found.own.price.seconds != found.best[0].price.seconds
    text = own("transformer", ["mesh (x = 3)", "split b on x"])  # as many devices as the cluster has not
    found = api.plan(Source("job.par", text), within=0.0)
    assert isinstance(found, FoundPlan) and found.own is None


def test_candidates_that_are_first_count_once() -> None:
    job = job_of("layers", batch=4)
    space, bounds = space_of(job)
    whole = plan(job).found
    for seed in range(3):
        begin = tuple(some(space, 5, seed))
        found = Search(space, bounds, StrategyPricer(job, space.by_hand), firsts=begin).run()
        assert found.fitting[0].value == whole.fitting[0].value and found.least is None
        assert found.counts.total == space.total and found.counts.left == 0
        assert len({t.candidate for t in found.tried}) == len(found.tried)


def interrupt(times: int) -> Any:
    def told(best: PricedPlan, counts: object) -> None:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

    return told


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_interrupted_has_a_certificate_that_holds(times: int) -> None:
    """Once: all that is left is known. Twice: it ends at once, and as little is said of the rest as is known."""
    source = Source("job.par", text_of("transformer", batch=4))
    found = api.plan(source, told=interrupt(times), within=None)
    assert isinstance(found, FoundPlan) and found.planned.found.interrupted and len(found.best) == 1
    counts = found.planned.found.counts
    assert counts.left > 0 and counts.total == found.planned.space.total
    assert 0 < certified(Source("job.par", found.text), found.certificate).gap < 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
