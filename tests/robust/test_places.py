"""A program that decodes says how many positions there are, and nobody goes beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.cli import cli
from runtime.executor import LocalExecutor
from runtime.rank.executor import RankExecutor
from runtime.stacked.emulator import Emulator

TEXT = """\
use std.layers (embedding, softmax)
model m() {
  dim b = 2, s = 8, v = 11, d = 4
  input tokens : int32[b, s] in 0..v
  x = embedding(tokens, over v, over d)
  dim t = s
  key[b, t, d] = rename(x, s -> t)
  scores[b, s, t] = x @ key
  z = where(iota(s) >= iota(t), scores, -1e30)
  y[b, s, d] = softmax(z, over t) @ key
  output y
}
strategy two for m {
  mesh (dp = 2)
  split b on dp
}
job serve {
  infer m() using two
  decode over s, prefill 4
}
"""

LINE = "state position: int32[] = zeros within 0..9"


@pytest.fixture(scope="module")
def program() -> Program:
    return parse_program(api.emit(Source("m.par", TEXT), "program", entries=("prefill", "decode")))


def test_the_text_says_how_many_there_are(program: Program) -> None:
    text = show(program)
    assert text.count(LINE) == 2 and parse_program(text) == program


@pytest.mark.parametrize(("line", "told"), [
    (LINE.replace("0..9", "9..9"), "E0671"), (LINE.replace("0..9", "0..2147483649"), "E0671"),
    (LINE.replace("int32[]", "f32[]"), "E0671"), ("output y: f32[b=1/dp, s=4, d=4] within 0..9", "E0670"),
])  # fmt: skip
def test_ranges_that_cannot_be(program: Program, line: str, told: str) -> None:
    old = LINE if "position" in line else "output y: f32[b=1/dp, s=4, d=4]"
    text = show(program.only("prefill"))
    assert old in text
    try:
        codes = [d.code for d in verify(parse_program(text.replace(old, line)))]
    except ParcError as error:
        codes = [error.code]
    assert told in codes


@pytest.mark.parametrize("kind", [Emulator, RankExecutor])
def test_no_step_goes_beyond(program: Program, kind: type[LocalExecutor]) -> None:
    """Two prefills of four fill the eight places; a position more has none, nor a prefill behind five positions."""
    four, one = {"tokens.first": np.zeros((2, 4), np.int32)}, {"tokens.next": np.zeros((2, 1), np.int32)}
    run = kind(program)
    run.call("prefill", four)
    run.call("prefill", four)
    with pytest.raises(ParcError, match="E0789.*`position` is 9 behind this step, and stays in 0..9"):
        run.call("decode", one)
    run = kind(program)
    run.call("prefill", four)
    run.call("decode", one)
    with pytest.raises(ParcError, match="E0789"):
        run.call("prefill", four)


def test_the_command_refuses_it(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "m.npu"
    file.write_text(show(program))
    assert CliRunner().invoke(cli, ["run", str(file), "--steps", "2"]).exit_code == 0
    told = CliRunner().invoke(cli, ["run", str(file), "--steps", "3"])
    assert told.exit_code == 1 and "error[E0789]" in told.stderr
