"""What SIGKILL leaves behind: the next one removes it, and nothing of those that live."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parc.cli.writing import write_file

ROOT = Path(__file__).parent.parent.parent


def left_over(folder: Path, code: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that writes `folder/target` slowly, and its temporary file; code: what it does in the middle."""
    program = (
        "import os, signal, sys, time\nfrom parc.cli.writing import write_file\n"
        f"def text():\n    yield 'x' * 100_000\n    print('there', flush=True)\n    {code}\n    yield 'y'\n"
        "write_file(sys.argv[1], text())\n"
    )
    command = [sys.executable, "-c", program, str(folder / "target")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    (temporary,) = (p for p in folder.iterdir() if f"-{process.pid}-" in p.name)
    return process, temporary


def end(process: subprocess.Popen[str]) -> None:
    """Wait for it, and close its pipes."""
    process.communicate()


def test_those_of_dead_ones_are_removed(tmp_path: Path) -> None:
    living, kept = left_over(tmp_path, "sys.stdin.read()")
    killed, gone = left_over(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    while killed.poll() is None and ") Z " not in Path(f"/proc/{killed.pid}/stat").read_text():
        pass
    write_file(str(tmp_path / "other"), "new")  # also while nobody has asked how the killed one ended
    assert kept.exists() and not gone.exists() and not (tmp_path / "target").exists()
    end(killed)
    end(living)
    assert sorted(os.listdir(tmp_path)) == ["other", "target"]
    assert (tmp_path / "target").read_text() == "x" * 100_000 + "y"


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """Of a process with the same number on another machine, or in a container; whatever only looks like one of ours."""
    killed, path = left_over(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    end(killed)
    _, machine, pid, start, chance = path.stem.split("-")
    other = f"{int(machine, 16) ^ 1:08x}"
    names = [
        f".parc-{other}-{pid}-{start}-{chance}.tmp",
        f".parc-{machine}-{pid}-{start}.tmp",
        f"{path.name}.txt",
        "a.tmp",
    ]
    for name in names:
        (tmp_path / name).write_text("x")
    folder = path.with_name(f".parc-{other}-{pid}-{start}-{'0' * 16}.tmp")
    folder.mkdir()
    link = path.with_name(path.name.replace(chance, "1" * 16))
    link.symlink_to("a.tmp")
    write_file(str(tmp_path / "new"), "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "new", folder.name, link.name])


def test_a_number_that_another_process_has_by_now(tmp_path: Path) -> None:
    """The number lives, and began at another time: the file is of one that has ended."""
    killed, path = left_over(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    end(killed)
    _, machine, pid, start, chance = path.stem.split("-")
    if start == "0":
        pytest.skip("the system does not tell when processes began")
    again = path.rename(path.with_name(path.name.replace(f"-{pid}-", f"-{os.getpid()}-")))
    write_file(str(tmp_path / "new"), "new")
    assert not again.exists() and os.listdir(tmp_path) == ["new"]
