"""What `parc cost` says of a step in a sentence, what would help, and how two jobs compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from parc import api
from parc.cli import cli
from parc.comparison import compare
from parc.estimate import TWICE, Estimate

EXAMPLES = Path(__file__).parents[2] / "examples"
GPT, WALLS = str(EXAMPLES / "gpt.par"), str(EXAMPLES / "walls.par")
WIDE = {"hidden": 2048, "heads": 32, "seq": 1024}


def estimate(**params: int) -> Estimate:
    return api.cost(GPT, params=params)


BOUND = {
    "products": ({**WIDE, "layers": 2, "batch": 16}, "Products of matrices", "products of matrices twice as fast"),
    "tensor parallel across servers": (
        {**WIDE, "layers": 2, "tp": 32, "batch": 16},
        "Communication over tp that nothing hides",
        "links of server twice as fast",
    ),
    "a small batch for each replica": (
        {"hidden": 2048, "heads": 32, "seq": 64, "layers": 4, "dp": 64, "batch": 64},
        "Communication over dp that nothing hides",
        TWICE,
    ),
    "few micro-batches": (
        {"hidden": 1024, "heads": 16, "seq": 512, "layers": 8, "pp": 8, "microbatches": 4, "batch": 16},
        "Device groups that wait for each other (the bubble of the pipeline)",
        "products of matrices twice as fast",  # of all stages: what others wait for as well
    ),
    "a long context": (
        {"layers": 2, "hidden": 512, "heads": 8, "seq": 8192, "batch": 2},
        "Products",
        "fused attention",
    ),
    "short kernels": ({"layers": 96, "hidden": 64, "batch": 4}, "Launches", "kernels that cost the host nothing"),
    "few tokens": ({"layers": 8, "hidden": 4096, "heads": 32, "seq": 16, "batch": 1}, "The optimizer", TWICE),
    "a tiny model": ({}, "What a step costs once", TWICE),
}


@pytest.mark.parametrize("case", BOUND)
def test_the_bottleneck_and_what_would_help_most(case: str) -> None:
    params, bottleneck, help = BOUND[case]
    found = estimate(**params)
    assert found.timeline.bottleneck.startswith(bottleneck)
    assert found.helps[0].what == help
    assert all(h.seconds < found.timeline.step_seconds for h in found.helps)
    assert "pp" not in params or found.helps[1].what == TWICE
    # What is named are parts of the step of the slowest devices.
    parts = found.timeline.candidates.values()
    assert min(parts) > -1e-9 and sum(parts) <= 1.02 * found.timeline.step_seconds


@pytest.mark.parametrize(
    "params",
    [
        {"pp": 4, "layers": 8, "hidden": 512, "seq": 256, "microbatches": 4, "batch": 64},
        {"dp": 4, "layers": 4, "hidden": 1024, "heads": 16, "microbatches": 4, "batch": 64},
        {"dp": 2, "pp": 2, "zero": 1, "layers": 8, "hidden": 512, "microbatches": 8, "batch": 64},
    ],
)
def test_twice_the_batch_is_as_said(params: dict[str, int]) -> None:
    """The time for as many samples, against the job with twice the batch and twice the micro-batches."""
    (said,) = (h.seconds for h in estimate(**params).helps if h.what == TWICE)
    twice = estimate(**{**params, "batch": 2 * params["batch"], "microbatches": 2 * params["microbatches"]})
    assert said == pytest.approx(twice.timeline.step_seconds / 2, rel=0.04)


def test_what_infers_updates_nothing_once() -> None:
    """Its step has none of the host's work for an update: twice the batch would not help."""
    found = api.cost(str(EXAMPLES / "gpt_serving.par"), job="on_two")
    assert found.helps and all(h.seconds > 0 and h.what != TWICE for h in found.helps)
    assert found.timeline.once_seconds < 1e-9


def invoke(*args: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli, ["cost", *args])
    assert found.exit_code == code, found.output
    return found.output


def test_two_jobs_of_a_file() -> None:
    text = invoke(WALLS, "--job", "pretrain", "--job", "misplaced")
    assert re.search(r"^of a step +pretrain +misplaced$", text, re.MULTILINE)
    assert re.search(r"^exposed over tp +[\d.]+ s +[\d.]+ s +\+\d+\.\d%$", text, re.MULTILINE)
    assert re.search(r"^memory: weight +3\.2 GiB +3\.2 GiB +\+0\.0%$", text, re.MULTILINE)
    last = text.rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"misplaced takes \d+% longer than pretrain, most of all for communication over tp that nothing hides "
        r"\(\+[\d.]+ s\)\.",
        last,
    )


def test_memory_is_part_of_the_verdict() -> None:
    found = json.loads(invoke(WALLS, "--job", "pretrain", "--job", "without_recompute", "--json"))["result"]
    verdict = found["comparison"]["verdict"]
    assert "less time than pretrain, most of all for products of matrices (-" in verdict
    assert re.search(r"; it needs [\d.]+ GiB of device memory more\.$", verdict)
    assert [j["job"] for j in found["jobs"]] == ["pretrain", "without_recompute"]
    a, b = (j["step_seconds"] for j in found["jobs"])
    assert found["comparison"]["step"] == b / a - 1 < 0 < found["comparison"]["memory"]
    large = "without_optimizer_parallel"
    verdict = json.loads(invoke(WALLS, "--job", "pretrain", "--job", large, "--json"))["result"]["comparison"][
        "verdict"
    ]
    assert re.search(r"; it needs [\d.]+ GiB of device memory more, which there is not\.$", verdict)
    assert "does not fit" in invoke(WALLS, "--job", large, "--job", large)


def test_two_strategies_and_two_files() -> None:
    file = str(EXAMPLES / "walls.par")
    strategies = ("--job", "pretrain", "--strategy", "hybrid", "--strategy", "across_servers")
    assert "across_servers takes" in invoke(file, *strategies)
    same = invoke(GPT, GPT)
    assert f"{GPT} takes as long as {GPT}." in same
    one = json.loads(invoke(file, "--job", "pretrain", "--strategy", "across_servers", "--json"))["result"]
    assert one["strategy"] == "across_servers"  # one replaces the job's own
    assert "two things" in invoke(GPT, GPT, GPT, code=2)
    assert "two things" in invoke(file, *strategies, "--strategy", "hybrid", code=2)


def test_axes_in_another_order_are_the_same_axes() -> None:
    """`dp+tp` of one mesh is `tp+dp` of the other, which has the two the other way round."""
    pair = ["--job", "pretrain", "--job", "misplaced"]
    text = invoke(WALLS, *pair)
    assert "exposed over dp+tp" in text and "tp+dp" not in text
    causes = json.loads(invoke(WALLS, *pair, "--json"))["result"]["comparison"]["causes"]
    assert not any("tp+dp" in what for what in causes)


def test_causes_explain_the_difference() -> None:
    """The parts that change sum up to the change of the step, and the one that is named goes the same way."""
    slow, fast = estimate(**WIDE, layers=2, tp=32, batch=16), estimate(**WIDE, layers=2, tp=4, batch=16)
    found = compare(slow, fast)
    change = fast.timeline.step_seconds - slow.timeline.step_seconds
    assert sum(found.causes.values()) == pytest.approx(change, rel=0.05)
    assert found.cause is not None and (found.cause[1] > 0) == (change > 0)
    back = compare(fast, slow)
    assert back.causes == pytest.approx({what: -s for what, s in found.causes.items()})
    assert compare(fast, fast).cause is None and compare(fast, fast).equal
