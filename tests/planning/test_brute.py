"""What a search finds is what pricing all one by one finds, on drawn jobs (`python -m tests.planning` has more)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parc.planning.bounds import LowerBounds
from tests.planning.__main__ import noted, read, told
from tests.planning.drawn_models import KINDS
from tests.planning.drawn_spaces import ORDER
from tests.planning.held import Disagreement, searched, whole_space
from tests.planning.judged import JudgedSpace, judged
from tests.planning.models import job_of

SMALL = 10, 60
"""Candidates, of which each model is drawn by default."""


@pytest.mark.parametrize("seed", [0, 2, 4, pytest.param(3, marks=pytest.mark.nightly)])
def test_small_spaces(seed: int) -> None:
    of = judged(seed, *SMALL, certify=seed == 3)
    assert not of.wrong and of.legal and of.bounds > 100, of


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_large_spaces(seed: int) -> None:
    """One of each kind and more; all 200 are a run of their own."""
    of = judged(seed)
    assert not of.wrong and of.legal >= 500, of


def test_a_bound_above_a_price_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the search finds the best all the same."""
    whole = whole_space(job_of("layers", inside=2, outside=2, batch=4))
    slowest = max(p.seconds for p in whole.prices.values())
    monkeypatch.setattr(LowerBounds, "seconds", lambda *_: slowest * 1.01)
    with pytest.raises(Disagreement, match="a bound is above a price"):
        searched(whole, "step", True)


def test_each_kind_is_drawn() -> None:
    assert {*ORDER} == {*KINDS}


def test_a_run_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    kept, first = tmp_path / "kept", JudgedSpace(3, "layers", legal=510, inside=True)
    assert not read(kept) and [*noted([first], kept)] == [first]
    with kept.open("a") as file:
        file.write(json.dumps(first.row)[:40])  # ended in the middle of a line
    second = JudgedSpace(4, "tied", wrong="the best is another")
    assert [*noted([second], kept)] == [second]
    assert read(kept) == {3: first, 4: second}
    assert "2 spaces, 1 agree" in told(read(kept).values()) and "seed 4 (tied): the best" in told([second])
