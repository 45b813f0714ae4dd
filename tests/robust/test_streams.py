"""Standard streams that are closed, whose reader has gone, whose device is full: quiet, and an exit code that says so.

Each command runs in a fork of this process, which has loaded it already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import parc
from parc.cli import Cli, cli
from parc.cli.streams import BROKEN_PIPE, UNWRITABLE
from tests.cli.test_contract import CLUSTERED, COMMAND, DATA, NUMBERS, trained

WAYS = {
    **{name: ["job.par" if a == "FILE" else a for a in args] for name, args in COMMAND.items()},
    "help": ["--help"],
    "version": ["--version"],
    "help of a command": ["run", "--help"],
    "wrong use": ["check"],
    "errors": ["check", "missing.par"],
    "json": ["check", "--json", "job.par"],
    "from stdin": ["check", "-"],
}
CODES = {"wrong use": 2, "errors": 1, "from stdin": 0}
"""Where all is well with the streams."""

SILENT = {*COMMAND} - {*DATA} | {"wrong use", "errors", "from stdin"}
"""They have nothing to say on stdout."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job.par").write_text(parc.fmt(CLUSTERED))
    monkeypatch.chdir(tmp_path)


def ended(args: list[str], tmp_path: Path, streams: Callable[[], None]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, whose streams are as `streams` makes them in its process."""
    said = [tmp_path / "stdout", tmp_path / "stderr"]
    if "CHECKPOINT" in args:
        paths = {"CHECKPOINT": f"{trained()}/saved", "OUT": f"{trained()}/{next(NUMBERS)}"}
        args = [paths.get(a, a) for a in args]
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            for number, path in enumerate(said, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
            streams()
            from parc.cli import main

            sys.argv = ["parc", *args]
            try:
                main()
            except SystemExit as error:
                code = int(error.code or 0)
            for stream in (sys.stdout, sys.stderr):  # as Python does at its end
                stream.flush()
        except BaseException as error:
            os.write(2, repr(error).encode())
            code = 98
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), said[0].read_text(), said[1].read_text()


def closed(number: int) -> Callable[[], None]:
    def close() -> None:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # what Python makes of it

    return close


def gone(number: int) -> Callable[[], None]:
    """The reader of a pipe has gone."""

    def end() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], open(number, "w", closefd=False))  # noqa: SIM115  # no file

    return end


def full(number: int) -> Callable[[], None]:
    def fill() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    return fill


FEW = ("check", "compile", "run", "wrong use", "errors", "from stdin")
LINUX = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")


@pytest.mark.parametrize("way", FEW)
def test_stdin(way: str, tmp_path: Path) -> None:
    """Closed: nobody needs it but who reads from it."""
    code, _, told = ended(WAYS[way], tmp_path, closed(0))
    if way == "from stdin":
        assert (code, "E0013" in told) == (1, True)
    else:
        assert code == CODES.get(way, 0), told


def _each_way() -> Iterator[object]:
    """Every command in one of the three ways, what is common to all in each; the others with `-m nightly`."""
    for number, way in enumerate(WAYS):
        for turn, how in enumerate((closed, gone, full)):
            some = turn == number % 3 or way not in COMMAND or way in FEW
            marks = [LINUX] * (how is full) + [pytest.mark.nightly] * (not some)
            yield pytest.param(way, how, id=f"{how.__name__}-{way}", marks=marks)


@pytest.mark.parametrize(("way", "how"), list(_each_way()))
def test_stdout(way: str, how: Callable[[int], Callable[[], None]], tmp_path: Path) -> None:
    code, said, told = ended(WAYS[way], tmp_path, how(1))
    if way in SILENT:
        assert code == CODES.get(way, 0), told
    elif how is gone:
        assert code == BROKEN_PIPE and "rror" not in told
    else:
        assert code == UNWRITABLE and told.rstrip().splitlines()[-1].startswith(
            "Error: cannot write to standard output"
        )
    assert not said and "internal" not in told


@pytest.mark.parametrize("way", FEW)
@pytest.mark.parametrize("how", [closed, gone, pytest.param(full, marks=LINUX)])
def test_stderr(way: str, how: Callable[[int], Callable[[], None]], tmp_path: Path) -> None:
    """What a command finds is not lost for want of a place to talk of it; one that cannot be told of says so."""
    code, said, _ = ended(WAYS[way], tmp_path, how(2))
    allowed = {"closed": 0, "gone": BROKEN_PIPE, "full": UNWRITABLE}[how.__name__]
    assert code == CODES.get(way, 0) or code == allowed
    assert said or way in SILENT or code != 0


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code, _, _ = ended(["compile", "job.par", "-o", "out.npu"], tmp_path, closed(1))
    assert code == 0 and (tmp_path / "out.npu").read_text().startswith("program ")


def test_what_an_encoding_has_no_characters_for(tmp_path: Path) -> None:
    """Is escaped, as on stderr; bytes of an argument that are no text are written as they came."""
    (tmp_path / "job.par").write_text(parc.fmt(CLUSTERED) + "\nparam two = 2\ncheck two == 2\n")
    narrow = CliRunner(charset="latin-1").invoke(cli, ["check", "job.par"])
    assert narrow.exit_code == 0 and narrow.stdout.startswith("\\u2713 two == 2"), narrow.output

    def echoes() -> None:
        click.echo("\udcc2\ud800 \u2713")

    said = CliRunner().invoke(Cli("parc", callback=echoes, invoke_without_command=True), [])
    assert (said.exit_code, said.stdout_bytes) == (0, b"\xc2\\ud800 \xe2\x9c\x93\n"), said.output
