"""Random models under random strategies: each is proved equal to the serial program, or refused by a code.

`python -m tests.property --count 10000` runs many more on all cores and reduces what fails; `--seed N` shows one.
With `--costs` they are priced instead (`costs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.property import costs
from tests.property.case import Case
from tests.property.check import REFUSALS, Judge, Outcome, check, new_ones, report, shrink
from tests.property.draw_job import OPTIMIZERS
from tests.property.draw_strategy import draw
from tests.some import by_all_cores

CI = range(190, 275)
"""Of these, each that draws something that none before it has drawn."""
COSTS = range(12)
NIGHTLY = range(1000, 11000)

EVERYWHERE = {
    "attention", "grouped_attention", "mlp", "relu_mlp", "swiglu", "moe", "conv", "group_norm", "contract", "scale",
    "map", "dropout", "where", "cumsum", "flip", "slice_pad", "concat", "split_merge", "iota", "window", "top_k",
    "cross_attention", "nested", "take",
    "tied", "reduce_mean", "reduce_max", "reduce_sum", "head", "tied_head", "mse", "square",
    "data_parallel", "tensor_parallel", "megatron", "context_parallel", "ulysses", "spatial", "expert_parallel",
    "moe_parallel", "zero_1", "zero_2", "zero_3", "gpipe", "one_f_one_b", "interleaved", "zero_bubble", "microbatches",
    "scan", "shift", "normal", "scatter",
    "lora", "deep", "mask", "gather", "stop_gradient", "unit", "frozen", "keep", "adapters", "counted_head", "places",
    "metric_mean", "metric_sum", "metric_max", "metric_ratio", "metric_count", "loss_scale", "mixed",
    "counted", "no_sum", "last", "uneven", "uneven_shards",
    "per_microbatch", "two_passes", "beside", "as_they_come", "row", "state", "offload",
    "rows", "looked_up", "implemented", "fuse_off",
    "around", "recompute", "layout", "wild", "scoped", "pad", "clip", *(o.partition("(")[0] for o in OPTIMIZERS),
}  # fmt: skip
"""What must occur in proved cases."""


def judge(seed: int) -> Outcome:
    """The outcome of one draw."""
    return check(draw(seed))


def judge_costs(seed: int) -> Outcome:
    """That of what it costs."""
    return costs.check(draw(seed))


def all_of(seeds: Sequence[int], judge: Callable[[int], Outcome] = judge) -> dict[int, Outcome]:
    """The outcomes of many draws, by seed, with all cores."""
    return dict(zip(seeds, by_all_cores(judge, seeds, 10)))


def judged(outcomes: dict[int, Outcome], how: Judge = check) -> None:
    """Nothing failed, and at least 70 % of all draws were proved."""
    failed = {seed: o for seed, o in outcomes.items() if o.what == "failed"}
    if failed:
        first = min(failed)
        why = dict(Counter(o.why for o in failed.values()))
        pytest.fail(f"{len(failed)} of {len(outcomes)} fail: {why}\n" + report(draw(first), failed[first], how))
    whats = Counter(o.what for o in outcomes.values())
    refusals = Counter(o.why for o in outcomes.values() if o.what == "refused")
    print(f"proved {whats['proved']} of {len(outcomes)}, refused {dict(refusals)}")
    assert set(refusals) <= REFUSALS | {"E0404"}
    assert whats["proved"] >= 0.7 * len(outcomes), refusals


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome]:
    """Always the same draws; of all that may be drawn there is something in them."""
    return all_of(new_ones(CI, draw, EVERYWHERE))


def test_proved_or_refused(outcomes: dict[int, Outcome]) -> None:
    judged(outcomes)


def test_everything_is_drawn_and_proved(outcomes: dict[int, Outcome]) -> None:
    proved = {kind for seed, o in outcomes.items() if o.what == "proved" for kind in draw(seed).kinds}
    assert proved >= EVERYWHERE, sorted(EVERYWHERE - proved)


def test_costs() -> None:
    judged(all_of(COSTS, judge_costs), costs.check)


@pytest.mark.nightly
def test_costs_of_a_thousand() -> None:
    judged(all_of(range(2000, 3000), judge_costs), costs.check)


@pytest.mark.nightly
def test_ten_thousand() -> None:
    judged(all_of([*CI, *NIGHTLY]))


def test_the_same_seed_draws_the_same_text() -> None:
    assert [draw(s).text for s in range(40)] == [draw(s).text for s in range(40)]
    assert len({draw(s).text for s in range(40)}) == 40


def test_failures_are_reduced() -> None:
    """A case with a strategy that the generator never draws: the reduced one keeps only what it takes to fail."""
    case = next(c for c in map(draw, range(100)) if check(c).what == "proved" and c.loop and c.rules and c.before)
    wrong: Case = replace(case, rules=(*case.rules, replace(case.rules[0], lines=("split nonsense on nowhere",))))
    outcome = check(wrong)
    assert outcome.what == "failed" and outcome.why == "refused by E0401"
    small = shrink(wrong, outcome)
    assert check(small).why == outcome.why
    assert [r.lines for r in small.rules] == [("split nonsense on nowhere",)]
    assert not small.before and not small.after and not small.loop
    assert "split nonsense" in report(wrong, outcome)


@pytest.mark.parametrize("seed", [200069, 200827])
def test_what_failed_once_is_mended(seed: int) -> None:
    """Regions that lost what they were for when what stood beside others moved."""
    assert judge(seed).what == "proved"


def test_what_failed_once_is_refused() -> None:
    """What is true or false cannot be kept of a first pass."""
    found = judge(20154)
    assert (found.what, found.why) == ("refused", "E0502")
