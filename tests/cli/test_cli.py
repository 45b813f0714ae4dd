"""What all commands have in common: exit codes, streams, JSON, politeness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import parc
from dsl.diagnostics import fail
from parc.cli import COMMANDS, Cli, cli
from parc.cli.common import Command, Output, json_option
from tests.cli.sample import FILE

ROOT = Path(__file__).parent.parent.parent
runner = CliRunner()


def test_check_looks_for_the_data(tmp_path: Path) -> None:
    """As `run` would find it; the file is not read."""
    text = FILE.replace("train mlp(width) using data", 'train mlp(width) using data\n  data csv("there/x.csv")')
    (tmp_path / "main.par").write_text(text)
    command = ["--json", str(tmp_path / "main.par")]
    told = []
    for name in ("check", "run"):
        result = runner.invoke(cli, [name, *command])
        assert result.exit_code == 1
        told.append(json.loads(result.stdout)["diagnostics"])
    assert told[0] == told[1] and told[0][0]["code"] == "E0704" and told[0][0]["place"]["line"] > 1
    (tmp_path / "there").mkdir()
    assert "the folder has no files" in runner.invoke(cli, ["check", *command[1:]]).stderr
    (tmp_path / "there" / "x.csv").write_bytes(b"\xff no table")
    assert runner.invoke(cli, ["check", *command]).exit_code == 0
    (tmp_path / "main.par").write_text(text.replace("there/x.csv", "x" * 3000))
    assert "E0704" in runner.invoke(cli, ["check", *command[1:]]).stderr


def parc_process(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "parc", *args], text=True, capture_output=True, env=environment, **options
    )


@pytest.fixture
def group() -> Cli:
    """A group with one command that ends in each of the ways."""

    @click.group(cls=Cli)
    @click.option("--debug", is_flag=True)
    def group(debug: bool) -> None:
        pass

    @click.command("end", cls=Command)
    @click.argument("how")
    @json_option
    def end(out: Output, how: str) -> bool:
        out.result = {"how": how}
        if how == "bug":
            raise KeyError("gone")
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "memory":
            raise MemoryError
        if how.startswith("E"):
            raise fail(how, "this is wrong")
        return how == "fine"

    group.get_command = lambda ctx, name: end if name == "end" else None  # type: ignore[method-assign]
    group.resolve_command = lambda ctx, args: (args[0], end, args[1:])  # type: ignore[method-assign]
    return group


@pytest.mark.parametrize(
    ("how", "code"),
    [("fine", 0), ("unfit", 1), ("E0001", 1), ("E0903", 4), ("memory", 4), ("bug", 3), ("interrupt", 130)],
)
def test_each_ending_has_its_exit_code(group: Cli, how: str, code: int) -> None:
    assert runner.invoke(group, ["end", how]).exit_code == code
    if how != "interrupt":
        result = runner.invoke(group, ["end", how, "--json"])
        assert result.exit_code == code
        found = json.loads(result.stdout)
        assert found["exit"] == code and found["result"] == {"how": how}
        assert (found["parc"], found["schema"], found["command"]) == (parc.__version__, 1, "end")
        told = {"memory": ["E0910"]}.get(how, [how] if how.startswith("E") else [])
        assert [d["code"] for d in found["diagnostics"]] == told


def test_a_bug_is_reported_without_a_traceback(group: Cli) -> None:
    result = runner.invoke(group, ["end", "bug"])
    assert "internal error: KeyError: 'gone'" in result.stderr and "bug in parc" in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert "Traceback" in runner.invoke(group, ["--debug", "end", "bug"]).stderr
    assert "Traceback" in runner.invoke(group, ["end", "bug"], env={"PARC_DEBUG": "1"}).stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = runner.invoke(cli, [name, "--help"])
    assert result.exit_code == 0 and result.stdout.startswith(f"Usage: parc {name}") and "--json" in result.stdout


def test_help_lists_every_command() -> None:
    result = runner.invoke(cli, ["--help"])
    assert result.exit_code == 0 and all(f"  {name} " in result.stdout for name in COMMANDS)


def test_version() -> None:
    assert runner.invoke(cli, ["--version"]).stdout == f"parc {parc.__version__}\n"


@pytest.mark.parametrize(
    "args", [["chek", "x.par"], ["fmt"], ["check", "--nope", "x.par"], ["check", "-D", "1x=2", "x.par"]]
)
def test_usage_errors(args: list[str]) -> None:
    result = runner.invoke(cli, args)
    assert result.exit_code == 2 and "Error: " in result.stderr and result.stdout == ""


def test_a_misspelt_command_gets_a_suggestion() -> None:
    assert "did you mean `check`?" in runner.invoke(cli, ["chek", "x.par"]).stderr


# --- fmt -----------------------------------------------------------------------------------------------

UGLY, CANONICAL = "param   x=3\n", "param x = 3\n"


def test_fmt_writes_in_place(tmp_path: Path) -> None:
    file = tmp_path / "a.par"
    file.write_text(UGLY)
    assert runner.invoke(cli, ["fmt", "--check", str(file)]).exit_code == 1
    assert file.read_text() == UGLY
    assert runner.invoke(cli, ["fmt", str(file)]).exit_code == 0
    assert file.read_text() == CANONICAL
    assert runner.invoke(cli, ["fmt", "--check", str(file)]).exit_code == 0


def test_fmt_of_standard_input() -> None:
    result = runner.invoke(cli, ["fmt", "-"], input=UGLY)
    assert (result.exit_code, result.stdout, result.stderr) == (0, CANONICAL, "")


def test_fmt_reports_all_broken_files_and_formats_the_others(tmp_path: Path) -> None:
    for name, text in (("a", "param x = =\n"), ("b", UGLY), ("c", "what\n")):
        (tmp_path / f"{name}.par").write_text(text)
    result = runner.invoke(cli, ["fmt", *(str(tmp_path / f"{n}.par") for n in "abc")])
    assert result.exit_code == 1 and result.stderr.count("error[") == 2
    assert (tmp_path / "b.par").read_text() == CANONICAL


def test_fmt_of_bytes_that_are_no_text() -> None:
    result = runner.invoke(cli, ["fmt", "-"], input=b"\xff\xfe")
    assert result.exit_code == 1 and "error[E0012]" in result.stderr


# --- explain CODE ---------------------------------------------------------------------------------------


def test_explain_a_code() -> None:
    result = runner.invoke(cli, ["explain", "e0010"])
    assert result.exit_code == 0 and result.stdout.startswith("E0010: ") and "This does not:" in result.stdout
    found = json.loads(runner.invoke(cli, ["explain", "E0010", "--json"]).stdout)["result"]
    assert found["code"] == "E0010" and found["failing"] != found["mended"]


def test_explain_all_codes() -> None:
    from dsl.codes import CODES

    lines = runner.invoke(cli, ["explain", "all"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(CODES)


def test_explain_an_unknown_code() -> None:
    result = runner.invoke(cli, ["explain", "E00010"])
    assert result.exit_code == 2 and "E0010" in result.stderr


# --- files and streams ----------------------------------------------------------------------------------


def test_writing_where_one_cannot_is_no_bug_of_ours(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none" / "a", "No such file or directory"), (tmp_path, "Is a directory")):
        result = runner.invoke(cli, ["compile", "examples/gpt.par", "-o", str(path)])
        assert result.exit_code == 2 and result.stderr == f"Error: cannot write `{path}`: {why}\n"


def test_a_reader_that_stops_is_no_error() -> None:
    """Exit code 141 where what is printed does not fit the pipe, and not a word about it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = f"{sys.executable} -m parc compile examples/gpt.par | head -c 1; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stderr.strip() == "141"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("words", ["compile FILE", "check FILE --json", "explain all", "--help"])
def test_a_full_disk_is_no_bug_of_ours(words: str) -> None:
    line = words.replace("FILE", "examples/gpt.par")
    command = f"{sys.executable} -m parc {line} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "Error: cannot write to standard output: No space left on device\n")


def test_no_colour_where_nobody_looks() -> None:
    done = parc_process("explain", "E0001")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    done = parc_process("fmt", "-", input="param x = =")
    assert done.returncode == 1 and "error[E0001]" in done.stderr and "\x1b" not in done.stderr


def test_shell_completion_knows_the_commands() -> None:
    environment = {"_PARC_COMPLETE": "bash_complete", "COMP_WORDS": "parc c", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from parc.cli import main; main()"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert {line.split(",")[1] for line in done.stdout.split()} == {"check", "compile", "compress", "convert", "cost"}
