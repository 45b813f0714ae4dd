"""`parc cost`: what it says of a step, of two, and of slow devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.cost.time.simulate import Simulation
from parc import api
from parc.cli import cli
from parc.estimate import TWICE

EXAMPLES = Path(__file__).parents[2] / "examples"
runner = CliRunner()


def invoke(*args: str, code: int = 0) -> str:
    found = runner.invoke(cli, ["cost", *args])
    assert found.exit_code == code, found.output
    return found.output


def test_cost_says_what_it_costs() -> None:
    text = invoke(str(EXAMPLES / "gpt.par"), "-D", "dp=2", "-D", "tp=2")
    for word in ("step", "MFU", "HFU", "bubble", "exposed", "device memory", "tp", "of the step."):
        assert word in text


def test_cost_as_json() -> None:
    found = json.loads(invoke(str(EXAMPLES / "gpt.par"), "-D", "dp=2", "--json"))["result"]
    s = Simulation.of(parc.compile(EXAMPLES / "gpt.par", params={"dp": 2})).run()
    assert found["step_seconds"] == s.step_seconds and found["tokens_per_second"] == s.tokens_per_second
    assert found["devices"] == sum(m["devices"] for m in found["memory"] if m["memory"] == "hbm")
    assert all(m["peak"] == sum(m["roles"].values()) for m in found["memory"])
    assert all(h["step_seconds"] < found["step_seconds"] for h in found["helps"])


def test_cost_says_whether_it_fits() -> None:
    """The same small layers with tables of a terabyte: few changes are tried, to make it fit."""
    file, large = str(EXAMPLES / "recsys.par"), ("-D", "users=1000000000", "-D", "hidden=256")
    assert "does not fit" in invoke(file, *large) and "does not fit" not in invoke(file)
    assert [json.loads(invoke(file, *o, "--json"))["result"]["fits"] for o in ((), large)] == [True, False]


def test_cost_compares_two_files() -> None:
    text = invoke(str(EXAMPLES / "gpt.par"), str(EXAMPLES / "llama.par"))
    assert "of a step" in text and "longer than" in text
    both = json.loads(invoke(str(EXAMPLES / "gpt.par"), str(EXAMPLES / "llama.par"), "--json"))["result"]["jobs"]
    assert [j["model"] for j in both] == ["gpt", "llama"]


def test_slow_devices_and_links_on_the_command_line() -> None:
    file = str(EXAMPLES / "gpt.par")
    options = ("-D", "dp=2", "-D", "tp=2", "--json")
    base, device, link = (
        json.loads(invoke(file, *options, *more))["result"]["step_seconds"]
        for more in ((), ("--slow", "3=2"), ("--slow-link", "server=8"))
    )
    assert device > base and link > base
    assert "no device 4" in invoke(file, *options[:-1], "--slow", "4=2", code=2)
    assert "no level" in invoke(file, "--slow-link", "rack=2", code=2)
    assert "what=factor" in invoke(file, "--slow", "3", code=2)


def test_nobody_asks_what_would_help_a_long_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is one more price; what needs none is told."""
    file, params = str(EXAMPLES / "gpt.par"), {"pp": 2, "dp": 2}
    every = api.cost(file, params=params)
    monkeypatch.setattr("parc.estimate.HELPED", 1)
    few = api.cost(file, params=params)
    assert few.timeline.step_seconds == every.timeline.step_seconds
    assert len(every.helps) > 1 and [h.what for h in few.helps] == [h.what for h in every.helps if h.what == TWICE]
