"""From the command to the first step on four processes: `parc run --engine torch`, and torchrun with a script that only
imports torch and makes the group.

CPU seconds of a whole command with all its processes, medians of runs that take turns. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PROCESSES, LIMIT = 4, 1.3
BARE = """\
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
dist.destroy_process_group()
"""
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES)]
PARC = ["-m", "parc", "run", str(ROOT / "examples" / "gpt.par"), "--engine", "torch", "--steps", "1"]
CASES = {
    "dp 4": ["-D", "dp=4"],
    "pp 2 x dp 2, ZeRO-1": ["-D", "pp=2", "-D", "dp=2", "-D", "zero=1", "-D", "microbatches=4"],
}


def measured(arguments: list[str]) -> float:
    """CPU seconds of a command and all processes that it waits for. Raises CalledProcessError."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=ROOT, **quiet)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Print a line for each; 1 if the bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bare.py"
        script.write_text(BARE)
        commands = {"torchrun, a bare script": [*TORCHRUN, str(script)]}
        for name, options in CASES.items():
            commands[f"parc run, {name}"] = [*PARC, *options]
            commands[f"torchrun -m parc run, {name}"] = [*TORCHRUN, *PARC, *options]
        found: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(runs + 1):  # the first fills the file system's and Python's caches
            for name, arguments in commands.items():
                taken = measured(arguments)
                found[name] += [taken] if turn else []
    bare, *_ = (median(times) for times in found.values())
    missed = False
    print(f"{'CPU seconds of a command, 4 processes':42} {'median':>7} {'ratio':>6} {'limit':>6}")
    for name, times in found.items():
        ratio = median(times) / bare
        bound = LIMIT if "parc" in name else None
        missed |= bound is not None and ratio > bound
        shown = f"{bound:6.2f}" if bound is not None else f"{'–':>6}"
        print(f"{name:42} {median(times):7.2f} {ratio:6.2f} {shown}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
