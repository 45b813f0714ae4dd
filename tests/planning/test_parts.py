"""A search that several processes share finds what one finds, and leaves nothing out that one would not."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import sleep

import pytest

from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.planning import parts, search
from parc.planning.answer import FoundPlan
from parc.planning.found import Counts, Found
from parc.planning.planning import Planned, plan
from parc.planning.search import Search
from tests.planning.models import job_of, text_of

SIZES = {"inside": 2, "outside": 2, "batch": 8}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Planned]:
    """Plans dense layers in so many processes; of few candidates first estimates are no use."""
    monkeypatch.setattr(search, "WORTH", 1 << 60)

    def planned(processes: int) -> Planned:
        job = job_of("layers", **SIZES)
        return plan(job, own=job.strategy, processes=processes)  # what is most like its own is priced before all else

    return planned


def test_parts_find_what_one_process_finds(shared: Callable[[int], Planned]) -> None:
    one, two = shared(1).found, shared(3).found
    assert one.fitting[0].price == two.fitting[0].price and two.least is None
    assert one.counts.total == two.counts.total and two.counts.left == 0
    assert len(two.tried) == two.counts.priced + sum(two.counts.refused.values())
    assert len({t.candidate for t in two.tried}) == len(two.tried)
    known = [(kind, of.rows) for kind, works in two.layers.items() for of in works]
    assert len(set(known)) == len(known)


def test_certificates_of_parts_hold() -> None:
    found = api.plan(Source("job.par", text_of("layers", **SIZES)), within=None, processes=2)
    assert isinstance(found, FoundPlan) and found.planned.found.least is None
    certified(Source("job.par", found.text), found.certificate)


def test_what_a_process_had_that_ends_is_searched_here(
    shared: Callable[[int], Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = list[int]()

    def ended(*_: object) -> None:
        os._exit(1)

    one = shared(1).found
    monkeypatch.setattr(parts, "_search", ended)
    monkeypatch.setattr(search, "search_parts", lambda *of: (began.append(1), parts.search_parts(*of)))
    found = shared(2).found
    assert began and found.fitting[0].price == one.fitting[0].price
    assert found.least is None and found.counts.total == one.counts.total


def test_what_is_left_when_time_is_over_is_told(
    shared: Callable[[int], Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "search_parts", lambda of, n, _: parts.search_parts(of, n, lambda: True))
    monkeypatch.setattr(Search, "take", _slowly(Search.take))
    found: Found = shared(2).found
    assert found.counts.left and found.least is not None and found.counts.total == shared(1).found.counts.total
    assert 0.0 < found.gap < 1.0


def _slowly(take: Callable[[Search, object], None]) -> Callable[[Search, object], None]:
    def slow(of: Search, entry: object) -> None:
        sleep(0.05)
        take(of, entry)

    return slow


def test_counts_add_up() -> None:
    before = Counts(not_better=3, refused={"E0502": 1})
    after = Counts(not_better=5, fitting=2, refused={"E0502": 1, "E0608": 4})
    since = after.less(before)
    assert (since.not_better, since.fitting, since.refused) == (2, 2, {"E0608": 4})
    before.add(since)
    assert before == after
