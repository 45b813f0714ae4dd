"""Random optimizers that read across dims and loops, under random strategies: equal to the serial program, or E0554."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.property.check import Outcome, check, report
from tests.property.draw_optimizer import MATRICES, VECTORS, draw
from tests.some import by_all_cores

CI = range(100)
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


def right(outcomes: dict[int, Outcome]) -> None:
    """Nothing failed."""
    failed = [seed for seed, o in outcomes.items() if o.what == "failed"]
    if failed:
        pytest.fail(f"{len(failed)} of {len(outcomes)} fail\n" + report(draw(failed[0]), outcomes[failed[0]]))


def test_proved_or_refused() -> None:
    """Draws with something that none before was proved with, until all is."""
    left = {p.kind for p in (*VECTORS, *MATRICES)} | STRATEGIES | MORE
    outcomes: dict[int, Outcome] = {}
    for seed in CI:
        if left & {*draw(seed).kinds}:
            outcomes[seed] = judge(seed)
            if outcomes[seed].what == "proved":
                left -= {*draw(seed).kinds}
    right(outcomes)
    assert not left


@pytest.mark.nightly
def test_thousands() -> None:
    seeds = [*CI, *NIGHTLY]
    outcomes = dict(zip(seeds, by_all_cores(judge, seeds, 10), strict=True))
    right(outcomes)
    whats = Counter(o.what for o in outcomes.values())
    assert whats["proved"] >= 0.8 * len(seeds), Counter(o.why for o in outcomes.values())


def test_the_same_seed_draws_the_same_text() -> None:
    assert [draw(s).text for s in range(40)] == [draw(s).text for s in range(40)]
    assert len({draw(s).text for s in range(40)}) == 40
