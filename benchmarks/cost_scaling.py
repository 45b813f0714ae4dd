"""Time to say what a step costs: the whole command, one simulation, and simulations as jobs grow."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import parc
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.driver import Compiled

GPT, PANGU, WALLS = (ROOT / "examples" / f"{name}.par" for name in ("gpt", "pangu_200b", "walls"))


@dataclass(frozen=True)
class Series:
    """A job at growing sizes. None may take more than `time` times the first one's CPU time."""

    title: str
    file: Path
    common: dict[str, int]
    cases: list[dict[str, int]]
    time: float


SERIES = [
    Series("devices", PANGU, {"pp": 1, "batch": 32768}, [{"dp": 1, "tp": 8}, {"dp": 1024, "tp": 8}], 1.2),
    Series(
        "devices, pipelined",
        PANGU,
        {"pp": 2, "batch": 16384},
        [{"dp": 2, "tp": 2}, {"dp": 64, "tp": 4}, {"dp": 512, "tp": 8}],
        1.2,
    ),
    Series("layers", GPT, {"hidden": 256}, [{"layers": n} for n in (4, 40, 400)], 1.3),
    Series("layers, pipelined", PANGU, {}, [{"layers": n} for n in (64, 16, 208, 1024)], 1.3),
    # Each action of each stage is played, so these grow, but an action takes a microsecond.
    Series("micro-batches", PANGU, {"batch": 8192}, [{"microbatches": n} for n in (32, 8, 128, 512)], 4.0),
]
COMMANDS = [
    ("cost pangu_200b", ["cost", str(PANGU)], 1.5),
    ("cost pangu_200b, slow", ["cost", str(PANGU), "--slow", "3=1.5", "--slow-link", "pod=2"], 2.0),
    ("check walls", ["check", str(WALLS)], 6.0),
]
SIMULATION = 0.1
"""CPU seconds of a simulation of 2,048 devices, from the compiled program."""


def least(function: Callable[[], object], runs: int) -> float:
    """CPU seconds of the fastest run: what other work on the machine adds is not ours."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return min(taken)


def command(arguments: list[str], runs: int) -> float:
    """CPU seconds of a whole process, Python's start included."""
    taken = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "parc", *arguments], cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def simulated(compiled: Compiled, runs: int) -> tuple[float, float]:
    """CPU seconds of a first simulation, and of one more with other prices."""
    simulation = Simulation.of(compiled)
    first = least(lambda: Simulation.of(compiled).run(), runs)
    simulation.run()
    return first, least(lambda: simulation.run(), runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="the least of so many is reported")
    runs = parser.parse_args().runs
    missed = 0

    def line(title: str, what: str, seconds: float, bound: float, more: str = "") -> None:
        nonlocal missed
        missed += seconds > bound
        print(f"{title:<24}{what:<34}{seconds:>9.3f}{bound:>8.2f}{more}{'  TOO SLOW' if seconds > bound else ''}")

    print(f"{'command':<58}{'CPU s':>9}{'limit':>8}")
    for title, arguments, bound in COMMANDS:
        line(title, "", command(arguments, runs), bound)
    print(f"\n{'2,048 devices':<58}{'CPU s':>9}{'limit':>8}")
    pangu = parc.compile(PANGU)
    first, again = simulated(pangu, runs)
    line("simulation", "", first, SIMULATION)
    line("again, other prices", "", again, SIMULATION)
    simulation = Simulation.of(pangu)
    simulation.run()
    line("one device slow", "", least(lambda: simulation.run(None, Variation({3: 1.5})), runs), 3 * SIMULATION)
    print(f"\n{'series':<24}{'parameters':<24}{'devices':>10}{'CPU s':>9}{'limit':>8}{'again':>9}{'ratio':>7}")
    for series in SERIES:
        base = 0.0
        for case in series.cases:
            compiled = parc.compile(series.file, params={**series.common, **case})
            first, again = simulated(compiled, runs)
            base = base or first
            what = f"{' '.join(f'{k}={v}' for k, v in case.items()):<24}{compiled.program.devices:>10,}"
            line(series.title, what, first, series.time * base, f"{again:>9.3f}{first / base:>7.2f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
