"""Time to compile, and size of the lowered program, as layers, micro-batches and devices grow: neither may grow."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import parc
from compiler.text import show

GPT = ROOT / "examples" / "gpt.par"
SMALL = {"layers": 2, "hidden": 128, "heads": 8, "seq": 128, "batch": 64}
SERIES: dict[str, list[dict[str, int]]] = {
    "layers": [{"layers": n} for n in (2, 20, 200, 1000)],
    "layers, pipelined": [{"layers": n, "pp": 2, "microbatches": 8} for n in (2, 20, 200, 1000)],
    "micro-batches": [{"pp": 2, "microbatches": n, "batch": 512} for n in (8, 64, 512)],
    "stages": [{"pp": n, "microbatches": 64, "layers": n, "batch": 512} for n in (2, 8, 64)],
    "data parallel": [{"dp": n, "tp": 8, "batch": 1024} for n in (1, 16, 128, 1024)],
}
ALLOWED = 2.0
"""The slowest of a series may take this many times as long as its first, and be that many times as long as text."""


def measured(function: Callable[[], str], runs: int) -> tuple[float, str]:
    """CPU seconds of the median run, and the result."""
    times, result = [], ""
    for _ in range(runs):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return median(times), result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    failed = False
    parc.compile(GPT, params=SMALL)  # imports, and parses the standard library
    print(f"{'series':<20} {'parameters':<48} {'devices':>7} {'CPU s':>6} {'ratio':>6} {'lines':>6}")
    for title, cases in SERIES.items():
        first: tuple[float, int] | None = None
        for case in cases:
            params = SMALL | case
            seconds, text = measured(lambda params=params: show(parc.compile(GPT, params=params).program), runs)  # type: ignore[misc]
            lines = text.count("\n")
            first = first or (seconds, lines)
            slow = seconds > ALLOWED * first[0] or lines > ALLOWED * first[1]
            failed |= slow
            devices = case.get("dp", 1) * case.get("tp", 1) * case.get("pp", 1)
            shown = " ".join(f"{k}={v}" for k, v in case.items())
            verdict = "   GROWS" if slow else ""
            print(
                f"{title:<20} {shown:<48} {devices:7} {seconds:6.2f} {seconds / first[0]:6.2f} {lines:6}{verdict}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
