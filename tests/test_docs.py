"""What the documentation shows is true: its examples work, its errors are those it says, its links lead somewhere."""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.ops import registry
from compiler.ops.comm import Comm
from compiler.ops.effects import Effect
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.parser import parse
from dsl.source import Source
from parc.cli import COMMANDS, cli
from parc.training import run
from runtime.prove import prove

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```par(?: error (E\d{4})| file (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text()
VALIDATION = (ROOT / "docs" / "validation.md").read_text()
COSTS = (ROOT / "docs" / "costs.md").read_text()
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")

JOB = """
optimizer plain(lr) {{
  w = w - lr * g
}}

job it {{
  train {model}
  optimizer plain(lr = 0.1)
}}
"""


@dataclass(frozen=True)
class Example:
    """A block of `.par` text: where it stands, and the code of its error, if it is to have one.

    `files` are the texts before it on its page that are called files, by name: it can use them.
    """

    page: Path
    line: int
    error: str | None
    text: str
    files: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples() -> list[Example]:
    found = []
    for page in PAGES:
        text = page.read_text()
        files: dict[str, str] = {}
        for match in FENCE.finditer(text):
            error, name, body = match.groups()
            found.append(Example(page, text.count("\n", 0, match.start(3)) + 1, error, body, dict(files)))
            if name:
                files[name] = body
    return found


def with_job(text: str) -> str:
    """A text that has a model but no job gets one, so that the model is evaluated."""
    try:
        items = parse(text, "example").items
    except ParcError:
        return text
    models = [i.name.id for i in items if isinstance(i, ast.Model)]
    if not models or any(isinstance(i, ast.Job) for i in items):
        return text
    return text + JOB.format(model=models[-1])


def test_there_are_examples() -> None:
    assert len(examples()) >= 15 and any(e.error for e in examples())


@pytest.mark.parametrize("example", examples(), ids=str)
def test_examples(example: Example, tmp_path: Path) -> None:
    source: Path | Source = Source(str(example), with_job(example.text))
    if example.files:
        source = tmp_path / "main.par"
        for name, text in {**example.files, source.name: with_job(example.text)}.items():
            (tmp_path / name).write_text(text)
    if example.error is None:
        parc.check(source)
        assert parc.fmt(example.text) == example.text
        return
    with pytest.raises(ParcError) as caught:
        parc.check(source)
    assert {d.code for d in caught.value.diagnostics} == {example.error}


CONSOLE = re.compile(r"^    \$ parc (.*)\n((?:    .*\n|\n)+)", re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PAGES if CONSOLE.search(p.read_text())], ids=lambda p: p.name)
def test_commands_print_what_the_page_shows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command, shown in CONSOLE.findall(page.read_text()):
        result = CliRunner().invoke(cli, command.split())
        assert result.exit_code == 0
        lines = [line.rstrip() for line in result.stdout.rstrip().split("\n")]
        expected = [line[4:] for line in shown.rstrip().split("\n")]
        assert without_left_out(lines, expected) == expected


def without_left_out(lines: list[str], expected: list[str]) -> list[str]:
    """The lines, with `…` for those for which it stands in what is expected (as few as can be)."""
    found = list[str]()
    at = 0
    for line, after in zip(expected, [*expected[1:], None]):
        if line == "…":
            left_out = len(lines) - at if after is None else lines[at:].index(after) if after in lines[at:] else 0
            found += ["…"] * (left_out > 0)
            at += left_out
        else:
            found += lines[at : at + 1]
            at += 1
    return found + lines[at:]


def test_lines_are_left_out_where_the_page_says_so() -> None:
    assert without_left_out(["a", "b", "c"], ["a", "…", "c"]) == ["a", "…", "c"]
    assert without_left_out(["a", "b", "c"], ["a", "…"]) == ["a", "…"]
    assert without_left_out(["a", "b", "c"], ["a", "c"]) == ["a", "b", "c"]
    assert without_left_out(["a", "c"], ["a", "…", "c"]) == ["a", "c"]
    assert without_left_out(["a", "b"], ["a", "…", "d"]) == ["a", "b"]


LEVELS = [e for e in examples() if e.page.name == "levels.md" and e.error is None and "job " in e.text]


@pytest.mark.parametrize("example", LEVELS, ids=str)
def test_each_level_of_programming_computes_what_the_model_does(example: Example, tmp_path: Path) -> None:
    for name, text in {**example.files, "main.par": example.text}.items():
        smaller = text.replace("hidden = 64", "hidden = 16").replace("vocab = 128", "vocab = 24")
        (tmp_path / name).write_text(smaller.replace("seq = 32", "seq = 8"))
    compiled = parc.compile(tmp_path / "main.par", double=True)
    assert compiled.program.devices == 8
    proof = prove(compiled.training, compiled.program, 1)
    assert proof.ok, proof.worst


def test_there_are_three_levels() -> None:
    assert len(LEVELS) == 3


def test_the_job_of_the_onboarding_page_is_the_file_beside_it() -> None:
    (text,) = [e.text for e in examples() if e.page.name == "onboarding.md"]
    assert text == (ROOT / "docs" / "onboarding.par").read_text()


def test_the_lowered_programs_that_are_shown_are_such() -> None:
    texts = re.findall(r"^```npu\n(.*?)^```$", (ROOT / "docs" / "program.md").read_text(), re.MULTILINE | re.DOTALL)
    assert texts
    for text in texts:
        program = parse_program(text)
        assert show(program) == text and verify(program) == ()
        assert len(run(program, 2).losses) == 2


def test_ops_of_lowered_programs_are_documented() -> None:
    page = (ROOT / "docs" / "program.md").read_text()
    missing = [m for m in registry.OPS if issubclass(registry.OPS[m], (Comm, Effect)) and f"`{m}" not in page]
    assert missing == ["relayout"]  # of placed graphs only


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [t for t in LINK.findall(page.read_text()) if "://" not in t and not (page.parent / t).exists()]
    assert broken == []


def test_the_tour_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:dsl|compiler|runtime|parc|docs|tests)/[\w./-]+)`", text)
    assert len(paths) > 10
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"`{name} " in text
        shown = CliRunner().invoke(cli, [name, "--help"]).stdout
        missing = [o for o in re.findall(r"(?<![\w-])--[a-z-]+", shown) if o not in text and o != "--help"]
        assert missing == []


def test_the_readme_has_the_commands_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("run", "ask", "test"):
        assert len(re.findall(rf"^<!-- ci: {name} -->\n```sh\n(?:(?!```)[^\n]*\n)+```$", text, re.MULTILINE)) == 1


@pytest.mark.nightly
def test_the_questions_of_the_readme_have_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, in a checkout with its environment activated; `.ci/run` asks them of what is installed."""
    (block,) = re.findall(r"^<!-- ci: ask -->\n```sh\n((?:(?!```)[^\n]*\n)+)```$", README, re.MULTILINE)
    first, *lines = block.splitlines()
    assert first.split()[:2] == ["source", ".venv/bin/activate"] and len(lines) > 8
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        name, *args = shlex.split(line, comments=True)
        result = CliRunner().invoke(cli, args)
        assert name == "parc" and result.exit_code == 0, f"{line}\n{result.output}"
    assert gzip.decompress((tmp_path / "step.json.gz").read_bytes()).startswith(b"{")


def test_the_readme_shows_what_a_reader_looks_for() -> None:
    for link in ("docs/validation.md", "docs/report.png", "docs/costs.md"):
        assert f"({link})" in README
    assert (ROOT / "docs" / "report.png").stat().st_size < 150_000
    told = re.search(
        r"Of (\d+) published .*? is ([\d.]+)% off in\nthe median and ([\d.]+)% in the mean", README, re.DOTALL
    )
    found = re.search(
        r"rows of such a table (\d+) have a job.*?mean ([\d.]+)%, median ([\d.]+)%", VALIDATION, re.DOTALL
    )
    assert told and found and told.groups() == (found[1], found[3], found[2])
    cited = {int(n) for n in re.findall(r"\[(\d+)\]", COSTS.split("\n1. ")[0])}
    assert cited == {int(n) for n in re.findall(r"^(\d+)\. ", COSTS, re.MULTILINE)}
