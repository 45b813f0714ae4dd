"""`check` of a job's results: what the lowered program needs, held against what the file demands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.evaluate.checks import RESULTS
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from parc import api
from parc.cli import cli

FILE = """\
use std.devices (a100_80)

param degree = 2 in {1, 2, 4}
param most = 1 GiB

optimizer sgd(lr) {
  w = w - lr * g
}

cluster pod {
  device gpu = a100_80
  level server = degree gpu over 300 GB/s, 1 us
}

model line(width = 1024) {
  dim b = 8, d = width
  input x : f32[b,d]
  weight w[d]
  loss mean(x @ w)
}

strategy data for line {
  mesh (dp = degree)
  split b on dp
}

job fit {
  train line on pod using data
  optimizer sgd(lr = 0.1)
}

job alone {
  train line
  optimizer sgd(lr = 0.1)
}

fn half(x) {
  return x / 2
}

"""


def refused(check: str, **options: object) -> Diagnostic:
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t", f"{FILE}check {check}\n"), **options)  # type: ignore[arg-type]
    (found,) = caught.value.diagnostics
    return found


@pytest.mark.parametrize(
    "check",
    [
        "fit.memory.peak <= 1 GiB",
        "fit.memory.peak <= most and half(fit.memory.peak) <= most",
        "fit.memory.peak > 1 KiB and fit.memory.peak < alone.memory.peak",
        "not fit.memory.peak == alone.memory.peak or degree == 1",
        "fit.step_time > 1 us and fit.step_time < 1 h",
        "fit.mfu >= 0.0 and fit.mfu <= 1.0 and fit.hfu >= fit.mfu and fit.bubble == 0.0",
        "fit.samples_per_second > 0 and fit.tokens_per_second >= fit.samples_per_second",
        "(fit.memory.peak if degree > 1 else 0 B) < most",
    ],
)
def test_checks_that_hold(check: str) -> None:
    assert len(parc.check(Source("t", f"{FILE}check {check}\n")).jobs) == 2


def test_a_check_that_fails_says_what_it_found() -> None:
    found = refused("fit.memory.peak < most / 10 ** 9")
    assert found.code == "E0217" and found.span is not None
    (peak, _), (most, _) = found.notes
    assert re.fullmatch(r"fit\.memory\.peak = [\d.]+ Ki?B", peak) and most == "most = 1 GiB"


def test_the_peak_is_that_of_the_program() -> None:
    peak = api.cost(Source("t", FILE), job="fit").peak
    assert parc.check(Source("t", f"{FILE}check fit.memory.peak == {peak} B\n"))
    assert refused(f"fit.memory.peak == {peak + 1} B").code == "E0217"
    assert refused(f"fit.memory.peak == {peak} B", params={"degree": "4"}).code == "E0217"


@pytest.mark.parametrize(
    ("check", "code", "text"),
    [
        ("fit.step_tim < 1 us", "E0101", "did you mean `step_time`?"),
        ("fit.memory < 1 B", "E0101", "memory.peak"),
        ("fitt.memory.peak < 1 B", "E0113", "did you mean `fit`?"),
        ("fit.memory.peak < mosst", "E0101", "did you mean `most`?"),
        ("fit.memory.peak < 1 us", "E0212", ""),
        ("fit.memory.peak / 0 < 1 B", "E0211", ""),
        ("fit.memory.peak", "E0210", ""),
        ("[1].memory.peak < 1 B", "E0210", "check pretrain.memory.peak"),
        ("alone.step_time < 1 s", "E0801", ""),
        ("undefined(fit.memory.peak) < 1 B", "E0103", ""),
    ],
)
def test_checks_that_make_no_sense(check: str, code: str, text: str) -> None:
    found = refused(check)
    assert found.code == code and text in (found.help or "")


def test_checks_of_other_jobs_are_left_alone() -> None:
    text = f"{FILE}check fit.memory.peak < 1 B\ncheck alone.memory.peak < 1 B and fit.memory.peak < 1 B\n"
    assert parc.check(Source("t", text), job="alone").jobs
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t", text))
    assert [d.code for d in caught.value.diagnostics] == ["E0217", "E0217"]


def test_the_command_fails() -> None:
    result = CliRunner().invoke(cli, ["check", "-"], input=f"{FILE}check fit.memory.peak <= 1 B\n")
    assert result.exit_code == 1 and "error[E0217]: this check does not hold" in result.stderr
    assert "note: fit.memory.peak = " in result.stderr


def test_the_results_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
    assert [name for name in RESULTS if f"`fit.{name}`" not in page] == []
