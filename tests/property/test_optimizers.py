"""Random optimizers that read across dims and loops, under random strategies: equal to the serial program, or E0554."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.property.check import Outcome, check, new_ones, report
from tests.property.draw_optimizer import MATRICES, VECTORS, draw
from tests.some import by_all_cores

CI = range(100)
"""Of these, each that draws something that none before it has drawn."""
NIGHTLY = range(1000, 5000)
STRATEGIES = {
    "gpipe",
    "one_f_one_b",
    "interleaved",
    "zero_bubble",
    "zero",
    "tp",
    "pad",
    "data_parallel",
    "microbatches",
}

MORE = {"clip", "tied", "nested", "frozen", "places"}


def judge(seed: int) -> Outcome:
    """The outcome of one draw."""
    return check(draw(seed))


def judged(seeds: Sequence[int]) -> dict[int, Outcome]:
    """All outcomes; nothing may fail, and 80 % must be proved."""
    outcomes = dict(zip(seeds, by_all_cores(judge, seeds, 10), strict=True))
    failed = [seed for seed, o in outcomes.items() if o.what == "failed"]
    if failed:
        pytest.fail(f"{len(failed)} of {len(seeds)} fail\n" + report(draw(failed[0]), outcomes[failed[0]]))
    whats = Counter(o.what for o in outcomes.values())
    assert whats["proved"] >= 0.8 * len(seeds), Counter(o.why for o in outcomes.values())
    return outcomes


def test_proved_or_refused() -> None:
    every = {p.kind for p in (*VECTORS, *MATRICES)} | STRATEGIES | MORE
    outcomes = judged(new_ones(CI, draw, every))
    proved = {kind for seed, o in outcomes.items() if o.what == "proved" for kind in draw(seed).kinds}
    assert proved >= every


@pytest.mark.nightly
def test_thousands() -> None:
    judged([*CI, *NIGHTLY])


def test_the_same_seed_draws_the_same_text() -> None:
    assert [draw(s).text for s in range(40)] == [draw(s).text for s in range(40)]
    assert len({draw(s).text for s in range(40)}) == 40
