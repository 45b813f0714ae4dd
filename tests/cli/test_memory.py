"""What `parc cost` tells of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from parc import api
from parc.cli import cli
from parc.units import amount

EXAMPLES = Path(__file__).parents[2] / "examples"
GPT = str(EXAMPLES / "gpt.par")


def cost(*args: str) -> str:
    result = CliRunner().invoke(cli, ["cost", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cost(*args, "--json"))["result"]
    return found


@pytest.mark.parametrize("options", ["", "pp=2 dp=2 zero=1 microbatches=4"])
def test_the_fullest_moment(options: str) -> None:
    args = [GPT, *(word for o in options.split() for word in ("-D", o))]
    found, text = as_json(*args), cost(*args)
    (full,) = found["fullest"]
    own = full["program"]
    assert full["needed"] == max(m["needed"] for m in found["memory"]) == found["needed"]
    assert full["first"] in [m["first"] for m in found["memory"] if m["needed"] == full["needed"]]
    assert own["peak"] == max(m["program"]["peak"] for m in found["memory"]) == found["program_peak"]
    assert own["arena"] == pytest.approx(own["peak"] * (1 + own["fragmentation"]))
    assert own["peak"] <= own["arena"] and own["peak"] <= own["reserved"]
    assert full["peak"] < full["reserved"] <= full["needed"] < found["capacity"] and found["fits"]
    for moment in (full, own):
        assert moment["peak"] == sum(moment["roles"].values())
        sizes = [v["bytes"] for v in moment["largest"]]
        assert sizes == sorted(sizes, reverse=True)
        assert f"fullest in {moment['action']} of stage {moment['stage']}" in text
    for v in full["largest"][:3]:
        assert v["name"] in text and v["type"] in text
    for n in (full["peak"], full["reserved"], full["needed"], own["peak"], own["arena"], own["reserved"]):
        assert amount(n) in text


def test_a_value_that_systems_have_in_16_bits_is_shown_so() -> None:
    """Of the copies of weights in the compute type, and of what is between kernels."""
    found = as_json(str(EXAMPLES / "pangu_200b.par"))["fullest"][0]
    assert found["largest"][0]["type"].startswith("f16[") and found["program"]["largest"][0]["type"].startswith("f32[")


def test_the_waterfall_adds_up() -> None:
    """Bars follow each other: each begins where the last one ended."""
    lines = [line for line in cost(GPT).splitlines() if "█" in line]
    ends = [0]
    first = min(line.index("█") for line in lines)
    for line in lines:
        start, stop = line.index("█") - first, line.rindex("█") + 1 - first
        assert start == ends[-1]
        ends.append(stop)
    assert ends[-1] <= 24
    shares = [float(line.split("%")[0].split()[-1]) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_estimates_from_python() -> None:
    found = api.cost(GPT, params={"dp": 2})
    (full,) = found.fullest
    assert full.moment.peak == found.peak == sum(a.bytes for a in full.moment.alive)
    assert full.program.moment.peak == found.program_peak == sum(a.bytes for a in full.program.moment.alive)
