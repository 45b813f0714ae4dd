"""Published rows that differ in their strategy alone are one sweep; what is ranked first is held to the fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from benchmarks.published import ranking
from benchmarks.published.facts import SINGLE_NODE, Row, load
from benchmarks.published.ranking import BESIDE, FREE, STRATEGY, main, sweeps


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for row in (*load(), *load(SINGLE_NODE)) if row.family.startswith(ranking.SWEEPS)]


def measured(row: Row) -> float:
    return row.seconds or 0.0


@pytest.mark.parametrize("free", [False, True])
def test_rows_of_a_sweep_differ_in_what_is_chosen_alone(rows: Sequence[Row], free: bool) -> None:
    found = sweeps(rows, free)
    assert sum(len(s.rows) for s in found if s.site == "vtrain_single") == 720
    for sweep in found:
        assert len(sweep.rows) > 1
        for row in (row for of in sweep.rows.values() for row in of):
            other = {c for c in sweep.one.facts.keys() | row.facts.keys() if row[c] != sweep.one[c]}
            assert other <= {*STRATEGY, *BESIDE, *(FREE if free else ())}


def test_a_price_that_is_the_measured_time_loses_nothing_and_its_inverse_all(rows: Sequence[Row]) -> None:
    for free in (False, True):
        for sweep in sweeps(rows, free):
            right = sweep.ranked(measured)
            assert right.loss == 0 and right.first == right.best and right.apart == 0
    (sweep,) = (s for s in sweeps(rows) if "h6144" in str(s))
    worst = max(r.seconds or 0.0 for of in sweep.rows.values() for r in of)
    slow = sweep.ranked(lambda row: 1 / measured(row))
    assert slow.loss == pytest.approx(worst / 9.6036 - 1) and slow.apart > 0  # vtrain_multi-0027
    assert "; best: dp 32 tp 8 mbs 8" in slow.line()


def test_of_strategies_that_are_predicted_alike_the_slowest_counts_and_repeated_ones_with_their_mean() -> None:
    row = next(r for r in load() if r.family == "vtrain_multi")

    def run(name: str, mbs: str, seconds: str) -> Row:
        return replace(row, facts={**row.facts, "row_id": name, "mbs": mbs, "seconds": seconds})

    some = [run("a", "1", "2"), run("b", "2", "4"), run("c", "2", "6"), run("d", "4", "3")]
    (sweep,) = sweeps(some)
    assert len(sweep.rows) == 3 and sweep.ranked(lambda _: 1.0).loss == pytest.approx(1.5)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = [r for r in load() if r.family == "bloom_sweep" and r["heads"] == "64" and r["layers"] == "96"]
    monkeypatch.setattr(ranking, "load", lambda path=None: few if path == SINGLE_NODE else [])
    assert main(["--family", "bloom"]) == 0
    told = capsys.readouterr().out
    assert told.count("GPT-177B 12288x96, 2048 positions") == 2 and "bloom_sweep           1       2" in told
    assert main(["--family", "none"]) == 0
    assert capsys.readouterr().out.count("no two rows") == 2
