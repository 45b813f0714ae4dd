"""`parc check` of a file as a process of its own, with bounded time and memory."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

ROOT = Path(__file__).parents[2]
SECONDS = 2
"""What a file may cost, on a machine that has nothing else to do: `benchmarks/hostile.py` holds them to it."""
PATIENCE = 5 * SECONDS
"""What tests allow: they run on busy machines, and are after what grows without bounds."""
MEGABYTES = 512


@dataclass(frozen=True)
class Ending:
    """How the process ended: exit status (negative: a signal), codes in order, CPU seconds, peak MiB, what it said."""

    status: int
    codes: tuple[str, ...]
    seconds: float
    megabytes: float
    said: str


LAUNCH = """
import os, sys
_, status, used = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
os.write(int(sys.argv[1]), f"{status} {used.ru_utime + used.ru_stime} {used.ru_maxrss}".encode())
"""
"""A small process between: a child begins with its parent's peak of memory, and a test's may be large."""


def _limit() -> None:
    """Address space and CPU time; beyond the latter the process is killed, so that no test hangs."""
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES * 2**20, MEGABYTES * 2**20))
    resource.setrlimit(resource.RLIMIT_CPU, (2 * PATIENCE, 2 * PATIENCE))


def check(path: str | Path, folder: Path) -> Ending:
    """Run it in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "OPENBLAS_NUM_THREADS": "1"}
    reader, writer = os.pipe()
    with TemporaryFile() as out, os.fdopen(reader) as told:
        command = [sys.executable, "-I", "-S", "-c", LAUNCH, str(writer)]
        command += [sys.executable, "-m", "parc", "check", str(path)]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=_limit,
            pass_fds=[writer],
        )
        os.close(writer)
        status, seconds, peak = told.read().split()
        assert process.wait() == 0
        out.seek(0)
        said = out.read().decode("utf-8", "replace")
    codes = re.findall(r"^error\[(E\d{4})\]", said, re.MULTILINE)
    ended = os.waitstatus_to_exitcode(int(status))
    return Ending(ended, tuple(codes), float(seconds), float(peak) / 1024, said)


def parse_all(names: list[str]) -> list[tuple[str, tuple[str, ...], float]]:
    """Read and format cases of `hostile`, all in one bounded process: name, codes of errors, CPU seconds of each."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.dsl.hostile", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(name, tuple(c for c in codes.split(",") if c != "ok"), float(seconds)) for name, codes, seconds in rows]
