"""Commands that write are killed (SIGKILL) while they do: what they write is whole, old or new; what they leave behind,
the next one removes, and nothing of those that live."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dsl.replacing import replacing
from tests.fuzz.campaign import commit
from tests.fuzz.par import ROOT

TEXT = """\
use std.devices (a100_80)
use std.optimizers (sgd)
use std.tactics

model net() {
  dim b = 8, d = 4, f = 8
  input x : f32[b,d]
  weight w1[d,f], w2[f,d]
  h[b,f] = x @ w1
  y[b,d] = tanh(h) @ w2
  loss mean(y * y)
}

cluster pair {
  device gpu = a100_80
  level node = 2 gpu over 300 GB/s, 2 us
}

strategy plan for net {
  mesh (dp = 2)
  data_parallel(dp)
}

job fit {
  train net() on pair using plan
  optimizer sgd(lr = 0.1)
}
"""
UGLY = TEXT.replace("  ", "      ").replace(", ", ",  ") + "# end\n" * 50
"""The same in another form, for `fmt`."""

EACH = 20
"""Kills after which the command is left to its end, and has removed what is left over."""


@dataclass(frozen=True)
class Writer:
    """A command that writes `target`, which is `before` first. run: does it, in this process."""

    name: str
    target: str
    before: bytes
    run: Callable[[Path], None]


@dataclass
class Kills:
    """What came of them. `hit`: how many left a temporary file, so that they met the writing itself; `old`, `new`: what
    was there afterwards."""

    count: int = 0
    hit: int = 0
    old: int = 0
    new: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"kills: {self.count:,}, {self.hit:,} of them while a file was written; afterwards {self.old:,} old ones "
            f"and {self.new:,} new ones, {len(self.wrong)} failures"
        )
        return "\n".join([head, *self.wrong[:20]])


def _command(name: str, *args: str, target: str = "out", before: bytes = b"before") -> Writer:
    def run(folder: Path) -> None:
        from parc.cli import cli

        os.chdir(folder)
        cli.main(args, "parc")

    return Writer(name, target, before, run)


def _golden(folder: Path) -> None:
    from compiler.text import parse_program
    from tests.golden.cases import CASES, PROGRAMS, update

    case = next(c for c in CASES if c.name == "example_recsys")
    program = parse_program((PROGRAMS / "example_recsys.npu").read_text(encoding="utf-8"))
    import tests.golden.cases as cases

    class Equal:
        ok = True
        rows = ()

    cases.prove = lambda *_, **__: Equal()  # type: ignore[assignment]  # what it takes is not asked here
    update(folder / "out", case, program)


def _tables(folder: Path) -> None:
    from dsl import tables

    tables.write(folder / "out", (ROOT / "grammar.lark").read_text(encoding="utf-8"))


WRITERS = (
    _command("compile", "compile", "net.par", "-o", "out"),
    _command("compile, gzip", "compile", "net.par", "-o", "out.gz", target="out.gz"),
    _command("compile --emit", "compile", "net.par", "--emit", "graph", "-o", "out"),
    _command("report", "report", "net.par", "-o", "out"),
    _command("trace", "trace", "net.par", "-o", "out"),
    _command("export", "export", "torch", "net.par", "-o", "out"),
    _command("fmt", "fmt", "out", before=UGLY.encode()),
    Writer("golden update", "out", b"before", _golden),
    Writer("tables", "out", b"before", _tables),
)


def kills(count: int, seed: int, end: float | None = None) -> Kills:
    """Kill writing commands, each in turn, at a moment by chance: after they began, or after their file appeared.

    end: of `time.monotonic`, when no more are begun.
    """
    found, rng = Kills(), Random(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folders = {w.name: _made(Path(name) / str(i)) for i, w in enumerate(WRITERS)}
        whole: dict[str, tuple[bytes, float]] = {}
        for writer in WRITERS:
            folder = folders[writer.name]
            whole[writer.name] = _to_the_end(writer, folder)
            if whole[writer.name][0] == writer.before:
                raise SystemExit(f"{writer.name} does not write: {(folder / 'said').read_text()}")
        for number in range(count):
            if end is not None and time.monotonic() > end:
                break
            writer = WRITERS[number % len(WRITERS)]
            folder = folders[writer.name]
            new, seconds = whole[writer.name]
            pid = _kill(writer, folder, rng, seconds)
            content = (folder / writer.target).read_bytes()
            found.count += 1
            found.hit += any(f"-{pid}-" in left for left in _temporary(folder))
            found.old += content == writer.before
            found.new += content == new
            if content not in (writer.before, new):
                found.wrong.append(f"kill {number}, {writer.name}: torn, {len(content):,} bytes of {len(new):,}")
            if number // len(WRITERS) % EACH == EACH - 1 or number >= count - len(WRITERS):
                _left_over(writer, folder, new, found)
    return found


def _made(folder: Path) -> Path:
    folder.mkdir()
    (folder / "net.par").write_text(TEXT)
    return folder


def _to_the_end(writer: Writer, folder: Path) -> tuple[bytes, float]:
    """What the command writes if it is left alone, and how long it takes (seconds)."""
    begun = time.monotonic()
    _wait(_started(writer, folder))
    return (folder / writer.target).read_bytes(), time.monotonic() - begun


def _left_over(writer: Writer, folder: Path, new: bytes, found: Kills) -> None:
    """The command runs to its end beside a file that this process is writing: that one alone stays."""
    with replacing(folder / "mine") as mine:
        mine.write(b"mine")
        (own,) = (p for p in _temporary(folder) if f"-{os.getpid()}-" in p)
        content, _ = _to_the_end(writer, folder)
        left = _temporary(folder)
    if content != new:
        found.wrong.append(f"{writer.name}: {len(content):,} bytes of {len(new):,} after kills")
    if left != [own]:
        found.wrong.append(f"{writer.name}: left over are {left}, and not {own} alone")


def _temporary(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".parc-")]


def _started(writer: Writer, folder: Path) -> int:
    (folder / writer.target).write_bytes(writer.before)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        writer.run(folder)
    except SystemExit:
        pass
    finally:
        sys.stdout.flush()
        os._exit(0)


def _kill(writer: Writer, folder: Path, rng: Random, seconds: float) -> int:
    before = set(_temporary(folder))
    pid = _started(writer, folder)
    end = time.monotonic() + 10 + 10 * seconds
    if rng.random() < 0.2:
        time.sleep(rng.random() * seconds)
    else:
        while (
            time.monotonic() < end
            and set(_temporary(folder)) <= before
            and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        ):
            pass
        time.sleep(rng.choice((0.0, 0.0, rng.random() * 1e-3, rng.random() * 1e-2)))
    os.kill(pid, signal.SIGKILL)
    _wait(pid)
    return pid


def _wait(pid: int) -> None:
    os.waitpid(pid, 0)


def summary(found: Kills, seed: int) -> str:
    """A line for people."""
    return f"{found}  (seed {seed}, commit {commit()})"
