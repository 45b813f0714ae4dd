"""CPU seconds and memory of whole commands, start to end: what somebody waits for who types one."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
GPT = str(ROOT / "examples" / "gpt.par")
PANGU = str(ROOT / "examples" / "pangu_200b.par")
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": (["-c", "pass"], None),
    "import parc": (["-c", "import parc"], 0.1),
    "parc --help": (["-m", "parc", "--help"], 0.3),
    "parc explain E0001": (["-m", "parc", "explain", "E0001"], 0.5),
    "parc fmt --check": (["-m", "parc", "fmt", "--check", GPT], 0.5),
    "parc check": (["-m", "parc", "check", GPT], 0.7),
    "parc compile": (["-m", "parc", "compile", GPT], None),
    "parc compile pangu": (["-m", "parc", "compile", PANGU], 2.0),
    "parc run --steps 1": (["-m", "parc", "run", GPT, "--steps", "1"], None),
}
"""What is typed, its arguments to Python, and the CPU seconds that it may take at most."""


MEMORY = 300
"""MB that any of them but `run` may hold at most."""


def measured(arguments: list[str]) -> tuple[float, float]:
    """User and system time of one run, and the most memory that it held, in MB. Raises CalledProcessError."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *arguments], stdout=nowhere, stderr=nowhere, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    slow = 0
    print(f"{'command':<22} {'median':>7} {'least':>7} {'limit':>7}   CPU s {'MB':>6}")
    for title, (arguments, limit) in COMMANDS.items():
        measured(arguments)  # fills the file system's and Python's caches
        found = [measured(arguments) for _ in range(runs)]
        times, memory = [t for t, _ in found], max(m for _, m in found)
        late = limit is not None and min(times) > limit
        large = memory > MEMORY and "run" not in arguments
        slow += late or large
        shown = f"{limit:7.2f}" if limit is not None else f"{'–':>7}"
        verdict = ("   TOO SLOW" if late else "") + ("   TOO LARGE" if large else "")
        print(f"{title:<22} {median(times):7.3f} {min(times):7.3f} {shown} {memory:13.0f}{verdict}", flush=True)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
