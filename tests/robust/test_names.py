"""Names of programs from others: what can be printed is a name, and nothing but a name in texts that are executed."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.text import parse_program, show
from dsl.diagnostics import ParcError
from dsl.printable import legible, printable
from dsl.source import Source
from parc import api
from parc.cli import cli
from runtime.executor import LocalExecutor
from runtime.numpy.backend import Numpy
from runtime.rank.compiled import CompiledRank
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.cli.test_contract import CLUSTERED
from tests.program.samples import BATCH, LAYERS, PIPELINE
from tests.robust.test_programs import FIT
from tests.runtime import threads

HOSTILE = 'x""";import os;"""\\\'#{0}%s`'
"""Would end a docstring, a string, a comment, a format."""

NAMED = (
    r"(?:%|program |input |weight |gradient |counter |metric |saved |report |state |statistic |as )([A-Za-z_][\w.]*)"
)
WORDS = {"sum", "max", "fold", "last", "dp", "tp", "mb", "pp"}
TEXTS = {"fit": FIT, "pipeline": PIPELINE, "layers": LAYERS, "batch": BATCH}


def renamed(text: str) -> str:
    """Everything that has a name of its own has a hostile one."""
    names = sorted({*re.findall(NAMED, text)} - WORDS, key=len, reverse=True)
    plain = re.compile(rf'(?<![\w."])({"|".join(map(re.escape, names))})(?![\w."#])')
    role = re.compile(r"(\s*(?:loss|weight|state|input|report|metric) )?(.*)")
    lines = (role.fullmatch(line) for line in text.split("\n"))
    return "\n".join((m[1] or "") + plain.sub(lambda n: json.dumps(HOSTILE + n[1]), m[2]) for m in lines if m)


@pytest.mark.parametrize("name", TEXTS)
def test_programs_are_what_they_were(name: str) -> None:
    before, after = parse_program(TEXTS[name]), parse_program(renamed(TEXTS[name]))
    assert before != after and parse_program(show(after)) == after
    source = Source("p.npu", show(after))
    if name != "layers":
        losses = api.run(Source("p.npu", TEXTS[name]), 1).losses, api.run(source, 1).losses
        assert len(losses[0]) == len(losses[1])
    old, new = (ast.parse(api.export(Source("p.npu", show(p)), "torch")) for p in (before, after))
    assert [type(n) for n in old.body] == [type(n) for n in new.body]
    assert sum(isinstance(n, ast.Import) for n in ast.walk(old)) == sum(
        isinstance(n, ast.Import) for n in ast.walk(new)
    )


@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_executors(executor: type[LocalExecutor]) -> None:
    program = parse_program(renamed(FIT))
    batches = api.batches(Source("p.npu", show(program)), 1)
    assert executor(program).step(next(iter(batches))).loss.shape == ()
    assert all(d.compiled for d in threads.devices(program, Numpy(), CompiledRank))


def test_letters_that_nobody_sees_are_no_names() -> None:
    """Two names that look alike are one to whoever reads a program."""
    for code in (0x034F, 0x115F, 0x2800, 0x3164, 0xFE0F, 0xFFA0, 0xE0100):
        assert chr(code).isprintable()
        with pytest.raises(ParcError, match=f"E0673.*U\\+{code:04X}"):
            parse_program(FIT.replace("program fit", f'program "fi{chr(code)}t"'))
        assert printable(f"a{chr(code)}b") == "a\ufffdb"
    assert legible("Größe 層 ж é") and printable("Größe 層 ж é\n") == "Größe 層 ж é\n"


JOB = """\
model line() {
  dim b = 2, d = 1
  input x : f32[b]
  weight w[d]
  loss mean(w * x)
}

job fit {
  train line()
  optimizer sgd(lr = 0.1)
  data csv("d.csv")
}
"""


def test_what_data_say_stays_in_its_line(tmp_path: Path) -> None:
    """Cells and columns with ends of lines cannot be made to look like messages of their own."""
    forged = "x\nerror[E0001]: forged\n"
    (tmp_path / "p.par").write_text("use std.optimizers\n" + JOB)
    for table in (f'a,"{forged}"\n1,2\n', f'x\n"{forged}"\n'):
        (tmp_path / "d.csv").write_text(table)
        done = CliRunner().invoke(cli, ["run", str(tmp_path / "p.par"), "--steps", "1"])
        assert done.exit_code == 1 and "error[E070" in done.stderr, done.stderr
        assert "forged" in done.stderr and "\nerror[E0001]" not in done.stderr, done.stderr


EVIL = "a\x1b]0;owned\x07\u202e\nerror[E0001]: forged.par"


@pytest.mark.parametrize(
    "args",
    [["explain", EVIL, "y"], ["fmt", "--check", EVIL], ["cost", EVIL, "job.par"], ["report", EVIL],
     ["report", EVIL, "job.par"], ["diff", "--text", "other.par", EVIL]],
    ids=lambda args: " ".join(args).replace(EVIL, "EVIL"),
)  # fmt: skip
def test_names_of_files_stay_in_their_lines(args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tables, pages and diffs as in messages: a folder from others has names as they like."""
    monkeypatch.chdir(tmp_path)
    for name in (EVIL, "job.par"):
        Path(name).write_text(CLUSTERED + "\n\n")
    Path("other.par").write_text(CLUSTERED.replace("param degree = 4", "param degree = 8"))
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == (args[0] == "fmt") and "forged" in done.output, done.output
    assert all(map(legible, done.output.split("\n"))) and "\nerror[E0001]" not in done.output


@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
def test_names_of_files_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = b"\xff.par".decode("utf-8", "surrogateescape")
    Path(name).write_text(CLUSTERED)
    assert CliRunner().invoke(cli, ["report", name, "-o", "out.html"]).exit_code == 0
    assert "\ufffd.par" in Path("out.html").read_text("utf-8")


def test_printable() -> None:
    assert printable("a\x1b[2J\u202eb\n\ud800é") == "a\ufffd[2J\ufffdb\n\ufffdé"
    assert printable("\x1b[31mred\x1b[0m\x07", styled=True) == "\x1b[31mred\x1b[0m\ufffd"
