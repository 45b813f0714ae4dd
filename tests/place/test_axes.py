"""Axes of a mesh: those that no rule names are told, and degrees that would divide leave room for the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from parc.cli import cli


def findings(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t.par", text))
    return caught.value.diagnostics


IDLE = """
use std.devices (a100_80)
use std.optimizers (sgd)
cluster pod() {
  device gpu = a100_80
  level server = 8 gpu over 30 GB/s, 1 us
}
model m() {
  dim b = 8, c = 12, d = 8
  input x : f32[b,d]
  input y : f32[c,d]
  weight w[d]
  loss mean(x * w) + mean(OTHER)
}
strategy plan for m {
  mesh (dp = 2, tp = 4)
  split b on dp
  RULES
}
job j {
  train m on pod using plan
  optimizer sgd(lr = 0.1)
}
"""


COMMANDS = ["check FILE", "cost FILE", "cost FILE FILE", "trace FILE", "report FILE", "run FILE --steps 1"]
COMMANDS += ["verify FILE --steps 1", "verify FILE --double", "compile FILE", "compile FILE --emit graph"]
COMMANDS += ["compile FILE --emit placed", "diff FILE FILE", "explain FILE w"]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_axis_that_no_rule_names_is_told_by_all_who_compile(command: str, tmp_path: Path) -> None:
    """Once, beside what was asked for, which is as it would be without."""
    file = tmp_path / "idle.par"
    arguments = command.replace("FILE", str(file)).split()
    file.write_text(IDLE.replace("RULES", "microbatches 1").replace("OTHER", "y"))
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0 and done.stderr.count("warning[E0416]: no rule names the mesh axis `tp`") == 1
    assert "`dp`" not in done.stderr and "warning" not in done.stdout
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert [(d["code"], d["severity"]) for d in found["diagnostics"]] == [("E0416", "warning")] and found["exit"] == 0
    file.write_text(IDLE.replace("RULES", "split d on tp").replace("OTHER", "y"))
    assert "warning" not in CliRunner().invoke(cli, arguments).stderr
    file.write_text(IDLE.replace("RULES", "split e on tp").replace("OTHER", "y"))  # an error: then no warnings
    assert "warning" not in CliRunner().invoke(cli, arguments).stderr


LAST = "or let the last be smaller, with `pad`"


def test_legal_degrees_leave_room_for_the_other_axes() -> None:
    """12 rows, half of them on each replica: micro-batches of 6; and the other way round."""
    other = "rename(y, c -> b)"
    text = (
        IDLE.replace("RULES", "split d on tp\n  microbatches 8 over b")
        .replace("OTHER", other)
        .replace("b = 8", "b = 16")
    )
    (found,) = findings(text)
    assert found.code == "E0501" and found.help == f"legal numbers of micro-batches here: 1, 2, 3, 6; {LAST}"
    assert found.span is not None and text[found.span.start : found.span.end] == "microbatches 8 over b"
    text = IDLE.replace("RULES", "split b on tp").replace("OTHER", other).replace("c = 12", "c = 18")
    found, *_ = findings(text.replace("(dp = 2, tp = 4)", "(tp = 4, dp = 2)"))
    assert found.code == "E0540" and found.help is not None and found.help.startswith("legal degrees of tp: 1, 3, 9;")
