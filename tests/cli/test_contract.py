"""What docs/cli.md promises of every command alike: options, streams, colour, JSON, exit codes."""

from __future__ import annotations

import atexit
import json
import os
import pty
import re
import subprocess
import sys
from functools import cache
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
from click.testing import CliRunner, Result

import parc
from parc import api
from parc.cli import COMMANDS, cli
from tests.cli.sample import FILE

ROOT = Path(__file__).parent.parent.parent

CONFIG = str(ROOT / "examples" / "llama_3_8b.json")

WRITER = str(ROOT / "tests" / "cli" / "writer.par")

PACKED = str(ROOT / "tests" / "cli" / "packed.par")


NUMBERS = count()


@cache
def trained() -> str:
    """A checkpoint of what that file trains."""
    folder = mkdtemp()
    atexit.register(rmtree, folder)
    done = CliRunner().invoke(cli, ["run", PACKED, "--job", "fit", "--steps", "1", "--save", f"{folder}/saved"])
    assert done.exit_code == 0
    return folder


COMMAND: dict[str, list[str]] = {
    "init": ["init", "--from", CONFIG],
    "check": ["check", "FILE"],
    "compile": ["compile", "FILE"],
    "export": ["export", "torch", "FILE"],
    "run": ["run", "FILE", "--steps", "1"],
    "evaluate": ["evaluate", "FILE", "--steps", "1"],
    "generate": ["generate", WRITER, "--prompt", "a", "--steps", "2"],
    "serve": ["serve", WRITER, "--check", "--port", "0"],
    "convert": ["convert", "FILE", "--to", "FILE", "--plan"],
    "compress": ["compress", "CHECKPOINT", PACKED, "--job", "serve", "-o", "OUT", "--steps", "1"],
    "verify": ["verify", "FILE", "--steps", "1"],
    "cost": ["cost", "FILE"],
    "sweep": ["sweep", "FILE"],
    "plan": ["plan", "FILE", "--within", "0.2s"],
    "trace": ["trace", "FILE"],
    "report": ["report", "FILE"],
    "explain": ["explain", "FILE", "y"],
    "diff": ["diff", "FILE", "--strategy", "data", "--strategy", "both"],
    "fmt": ["fmt", "--check", "FILE"],
    "devices": ["devices", "a100_80"],
}
"""How each command is typed where all is well."""

FILES = [name for name in COMMAND if name not in ("devices", "init", "generate", "serve", "compress")]
JOBS = [name for name in FILES if name != "fmt"]
DATA = [name for name in COMMAND if name not in ("check", "fmt")]
BEHIND = {
    "check": "check",
    "compile": "emit",
    "export": "export",
    "run": "run",
    "evaluate": "run",
    "convert": "convert",
    "verify": "verify",
    "cost": "compile",
    "sweep": "sweep",
    "plan": "plan",
    "trace": "trace",
    "report": "report",
    "explain": "explain_tensor",
    "diff": "load_program",
}
"""The function of `parc.api` behind each."""


CLUSTERED = (
    FILE.replace("param degree = 2", "param degree = 4")
    .replace("mesh (dp = 2, tp = 2)", "mesh (dp = degree // 2, tp = 2)")
    .replace("train mlp(width) using", "train mlp(width) on pod(degree) using")
    + """
use std.devices (a100_80)

cluster pod(degree) {
  device gpu = a100_80
  level server = degree gpu over 300 GB/s, 1 us
}
"""
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mlp.par"
    path.write_text(parc.fmt(CLUSTERED))
    return str(path)


def run(name: str, file: str, *more: str) -> Result:
    given = {"FILE": file}
    if name == "compress":
        given |= {"CHECKPOINT": f"{trained()}/saved", "OUT": f"{trained()}/{next(NUMBERS)}"}
    return CliRunner().invoke(cli, [*(given.get(a, a) for a in COMMAND[name]), *more])


def found(result: Result) -> Any:
    """The one JSON object on stdout; nothing may be on stderr."""
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_every_command_is_held_to_it() -> None:
    assert set(COMMAND) == set(COMMANDS) and set(BEHIND) == set(JOBS)


@pytest.mark.parametrize("name", COMMAND)
def test_success_is_0_and_data_go_to_stdout(name: str, file: str) -> None:
    result = run(name, file)
    assert result.exit_code == 0, result.stderr
    assert bool(result.stdout) == (name in DATA) and "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", COMMAND)
def test_json_is_one_object_of_the_documented_form(name: str, file: str) -> None:
    given = found(run(name, file, "--json"))
    assert list(given) == ["parc", "schema", "command", "exit", "diagnostics", "result"]
    assert (given["parc"], given["schema"], given["command"], given["exit"]) == (parc.__version__, 1, name, 0)
    assert given["diagnostics"] == []
    page = (ROOT / "docs" / "cli.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", page[page.index("## JSON") :], re.MULTILINE)
    assert given["result"] and [key for key in given["result"] if f"`{key}`" not in row] == []


@pytest.mark.parametrize("name", FILES)
def test_diagnostics_are_1_on_stderr_with_their_place(name: str, file: str) -> None:
    Path(file).write_text(FILE.replace("relu(x @ w1)", "relu(x @ )"))
    result = run(name, file)
    assert result.exit_code == 1 and result.stdout == ""
    assert f"{file}:12:" in result.stderr and re.search(r"^error\[E\d{4}\]", result.stderr, re.MULTILINE)
    assert "^" in result.stderr
    given = found(run(name, file, "--json"))
    assert given["exit"] == 1
    (first, *_) = given["diagnostics"]
    assert set(first) == {"code", "severity", "message", "help", "place", "notes"} and first["severity"] == "error"
    assert set(first["place"]) == {"file", "start", "end", "line", "column", "end_line", "end_column"}
    assert first["place"]["line"] == 12


@pytest.mark.parametrize("name", JOBS)
def test_parameters(name: str, file: str) -> None:
    assert run(name, file, "-D", "degree=8", "-D", "width=16").exit_code == 0
    for wrong, code in (("degre=4", "E0106"), ("degree=3", "E0107"), ("degree=x", "E0106")):
        given = found(run(name, file, "-D", wrong, "--json"))
        assert given["exit"] == 1 and [d["code"] for d in given["diagnostics"]] == [code], wrong
    for wrong in ("degree", "=4", "degree=", "2=4"):
        assert run(name, file, "-D", wrong).exit_code == 2, wrong


def test_parameters_change_what_is_done(file: str) -> None:
    def result(name: str, *more: str) -> Any:
        return found(run(name, file, "--json", *more))["result"]

    eight = ("-D", "degree=8")
    assert result("check", *eight)["jobs"][0]["devices"] == 8
    assert "mesh (dp=8)" in result("compile", *eight)["text"]
    assert result("run", *eight)["devices"] == 8 and result("verify", *eight)["devices"] == 8
    assert "b=1/dp" in result("explain", *eight)["type"] and result("cost", *eight)["devices"] == 8
    assert "mesh (dp=8)" in result("diff", *eight)["text"]


@pytest.mark.parametrize("name", [n for n in JOBS if n != "diff"])
def test_strategies(name: str, file: str) -> None:
    shown = json.dumps(found(run(name, file, "--strategy", "both", "--json")))
    assert run(name, file, "--strategy", "both").exit_code == 0
    if name in ("check", "cost"):
        assert '"strategy": "both"' in shown
    elif name == "plan":  # that of which it fills what is left open: nothing, here
        assert '"strategy": "planned"' in shown
    elif name in ("run", "evaluate", "convert", "verify", "sweep", "trace", "report"):
        assert shown != json.dumps(found(run(name, file, "--json")))
    else:
        assert "tp=2" in shown or '"axis": "tp"' in shown
    given = found(run(name, file, "--strategy", "boht", "--json"))
    assert given["exit"] == 1 and "both" in given["diagnostics"][0]["help"]


@pytest.mark.parametrize("name", COMMAND)
def test_misuse_is_2(name: str, file: str) -> None:
    for more in (["--no-such-option"], ["a", "b", "c", "d"] if name != "fmt" else ["--chekc"]):
        result = run(name, file, *more)
        assert result.exit_code == 2 and result.stdout == "" and result.stderr
        given = found(run(name, file, *more, "--json"))
        assert given["exit"] == 2 and given["command"] == name and given["result"] == {}
        (one,) = given["diagnostics"]
        assert one["code"] is None and one["place"] is None and f"`parc {name} --help`" in one["help"]
        assert one["message"] in result.stderr
    if name not in FILES:  # it lists all, or has asked for its option
        return
    assert CliRunner().invoke(cli, [name]).exit_code == 2
    assert found(CliRunner().invoke(cli, [name, "--json"]))["exit"] == 2


def usage(name: str, file: str, *more: str) -> str:
    """The message of a command that is not used correctly, the same in JSON."""
    result = run(name, file, *more)
    assert result.exit_code == 2 and result.stdout == "", result.output
    (one,) = found(run(name, file, *more, "--json"))["diagnostics"]
    assert one["message"] in result.stderr
    return str(one["message"])


SINGLE = {
    "check": [],
    "compile": ["-o x", "--output x", "--emit ast"],
    "export": ["-o x", "--output x"],
    "run": ["--steps 1", "--threads 1"],
    "evaluate": ["--steps 1", "--from x", "-o x"],
    "convert": ["-o x", "--from-job fit"],
    "verify": ["--tolerance 1", "--executor private"],
    "cost": [],
    "sweep": [],
    "plan": ["-o x", "--within 1s", "--devices 2"],
    "trace": ["-o x", "--detail none"],
    "report": ["-o x"],
    "explain": [],
    "diff": ["--job fit"],
}
"""Options that every command has but once, besides `--job` and `--strategy`."""


@pytest.mark.parametrize("name", JOBS)
def test_what_is_given_twice_is_misuse(name: str, file: str) -> None:
    """The last would count in silence."""
    assert "`degree` is given twice" in usage(name, file, "-D", "degree=4", "-D", "degree=8")
    assert "`degree` is given twice" in usage(name, file, "-D", "degree=4", "-D", "width=8", "-D", "degree=4")
    common = ["--job fit", "--strategy both"] if name not in ("cost", "diff", "report") else []
    for option in (*SINGLE[name], *common):
        words = option.split()
        long = "--output" if words[0] == "-o" else words[0]
        assert f"`{long}` is given twice" in usage(name, file, *words, *words)
        assert "is given twice" in usage(name, file, *words, f"{words[0]}={words[1]}" if words[0] != "-o" else "-ox")


@pytest.mark.parametrize("name", ["cost", "trace", "report"])
def test_one_device_or_level_given_twice_is_misuse(name: str, file: str) -> None:
    assert "`0` is given twice" in usage(name, file, "--slow", "0=2", "--slow", "0=3")
    assert "`00` is given twice" in usage(name, file, "--slow", "0=2", "--slow", "1=2", "--slow", "00=3")
    assert "`node` is given twice" in usage(name, file, "--slow-link", "node=2", "--slow-link", "node=2")


def test_the_empty_name_of_a_device_is_misuse() -> None:
    for name in ("", " "):
        result = CliRunner().invoke(cli, ["devices", name])
        assert result.exit_code == 2 and "the name is empty" in result.stderr, result.stderr


def test_what_may_be_given_twice(file: str) -> None:
    for name in ("cost", "diff"):
        given = [] if name == "diff" else ["--strategy", "data", "--strategy", "both"]
        assert run(name, file, *given).exit_code == 0
    assert run("cost", file, "--slow", "0=2", "--slow", "1=2").exit_code == 0
    assert run("check", file, "--json", "--json").exit_code == 0


@pytest.mark.parametrize("name", JOBS)
def test_an_empty_name_is_misuse(name: str, file: str) -> None:
    """Such as `--job "$JOB"` where the variable is not set."""
    for option in ("--job", "--strategy"):
        for empty in ("", " "):
            if not (name == "diff" and option == "--strategy"):
                assert "the name is empty" in usage(name, file, option, empty)
            else:
                assert CliRunner().invoke(cli, ["diff", file, "--strategy", empty]).exit_code == 2


@pytest.mark.parametrize("name", ["check", "run", "diff"])
def test_options_that_a_lowered_program_has_no_use_for_are_misuse(name: str, file: str, tmp_path: Path) -> None:
    lowered = str(tmp_path / "mlp.npu")
    assert run("compile", file, "-o", lowered).exit_code == 0
    files = [lowered, lowered] if name == "diff" else [lowered]
    more = ["--steps", "1"] if name == "run" else []
    assert CliRunner().invoke(cli, [name, *files, *more]).exit_code == 0
    for option in (["-D", "degree=4"], ["--strategy", "both"], ["--job", "fit"]):
        result = CliRunner().invoke(cli, [name, *files, *more, *option])
        assert result.exit_code == 2 and f"`{option[0]}` goes with the `.par` file" in result.stderr
    result = CliRunner().invoke(cli, [name, *files, *more, "--double"])
    assert result.exit_code == 2
    with pytest.raises(TypeError, match="`params` goes with"):
        parc.run(lowered, 1, params={"degree": 4})


@pytest.mark.parametrize("name", ["verify", "cost", "trace", "report", "explain", "fmt"])
def test_a_lowered_program_where_a_file_is_needed_is_misuse(name: str, file: str, tmp_path: Path) -> None:
    lowered = str(tmp_path / "mlp.npu")
    assert run("compile", file, "-o", lowered).exit_code == 0
    assert f"`{lowered}` is a lowered program" in usage(name, lowered)


def test_a_lowered_program_beside_a_file(file: str, tmp_path: Path) -> None:
    """Options are of the file; the program keeps its own strategy."""
    lowered = str(tmp_path / "mlp.npu")
    assert run("compile", file, "--strategy", "both", "-o", lowered).exit_code == 0

    def diff(*more: str) -> Result:
        return CliRunner().invoke(cli, ["diff", lowered, file, "--exit-code", "--text", *more])

    assert diff().exit_code == 1 and diff("--strategy", "both").exit_code == 0
    assert f"--- {lowered}\n" in diff().stdout and f"+++ {file} (data)\n" in diff("--strategy", "data").stdout
    assert diff("-D", "width=16", "--job", "fit").exit_code == 1
    assert diff("--strategy", "data", "--strategy", "both").exit_code == 2


@pytest.mark.parametrize("name", ["compile", "trace", "report"])
def test_what_cannot_be_written_is_2(name: str, file: str) -> None:
    result = run(name, file, "-o", "/no/such/folder/x")
    assert result.exit_code == 2 and "cannot write `/no/such/folder/x`" in result.stderr
    given = found(run(name, file, "-o", "/no/such/folder/x", "--json"))
    assert given["exit"] == 2 and given["result"] == {}
    assert given["diagnostics"][0]["message"].startswith("cannot write `/no/such/folder/x`")


@pytest.mark.parametrize("name", JOBS)
def test_our_own_bugs_are_3(name: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(api, BEHIND[name], broken)
    result = run(name, file)
    assert result.exit_code == 3 and "internal error: ZeroDivisionError: of all things" in result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    result = run(name, file, "--json")
    assert result.exit_code == 3 and json.loads(result.stdout)["exit"] == 3


@pytest.mark.parametrize("name", FILES)
def test_limits_are_4(name: str, file: str) -> None:
    Path(file).write_text(FILE + f"\nparam deep = {'(' * 100_000}1\n")
    result = run(name, file)
    assert result.exit_code == 4 and result.stdout == "" and "error[E09" in result.stderr
    given = found(run(name, file, "--json"))
    assert given["exit"] == 4 and {d["code"][:3] for d in given["diagnostics"]} == {"E09"}


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""A progress bar also moves the cursor: that is no colour."""


def on_terminal(args: list[str], **environment: str) -> str:
    """What a command writes to a terminal."""
    end, terminal = pty.openpty()
    settings = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    settings |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", **environment}
    done = subprocess.Popen([sys.executable, "-m", "parc", *args], stdout=terminal, stderr=terminal, env=settings)
    os.close(terminal)
    shown = b""
    while True:
        try:
            more = os.read(end, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not more:
            break
        shown += more
    os.close(end)
    done.wait()
    return shown.decode()


@pytest.mark.parametrize("name", ["verify", "explain", "diff"])
def test_colour_is_for_terminals_and_can_be_refused(name: str, file: str) -> None:
    args = [file if a == "FILE" else a for a in COMMAND[name]]
    assert COLOUR.search(on_terminal(args))
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[" not in on_terminal(args, **environment)


def test_messages_are_coloured_likewise(file: str) -> None:
    Path(file).write_text("param x = =\n")
    assert COLOUR.search(on_terminal(["check", file]))
    assert "\x1b[" not in on_terminal(["check", file], NO_COLOR="1")
    assert not COLOUR.search(on_terminal(["run", str(ROOT / "examples" / "recsys.par"), "--steps", "2"], NO_COLOR="1"))
