"""Time to compile, and length of the lowered program, as layers, micro-batches and devices grow: neither may grow."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import parc

GPT = ROOT / "examples" / "gpt.par"
PANGU = ROOT / "examples" / "pangu_200b.par"
SMALL = {"layers": 2, "hidden": 128, "heads": 8, "seq": 128, "batch": 64}


@dataclass(frozen=True)
class Series:
    """A job at growing sizes. None may take more than `time` times the first one's CPU time, and none's text may differ
    by more than the fraction `text` from the first one's."""

    title: str
    file: Path
    common: dict[str, int]
    cases: list[dict[str, int]]
    time: float = 1.5
    text: float = 0.02


DEVICES = [{"dp": 4, "tp": 2}, {"dp": 16, "tp": 8}, {"dp": 128, "tp": 8}, {"dp": 1024, "tp": 8}]
PIPELINED = [{"dp": 2, "tp": 2}, {"dp": 64, "tp": 4}, {"dp": 512, "tp": 8}]
STAGES = [{"pp": n, "layers": n} for n in (2, 8, 64)]
SERIES = [
    Series("layers", GPT, SMALL, [{"layers": n} for n in (2, 20, 200, 1000)]),
    Series("layers, pipelined", GPT, SMALL | {"pp": 2, "microbatches": 8}, [{"layers": n} for n in (2, 20, 200, 1000)]),
    Series("micro-batches", GPT, SMALL | {"pp": 2, "batch": 512}, [{"microbatches": n} for n in (8, 64, 512)]),
    Series("devices", GPT, SMALL | {"batch": 1024}, DEVICES, 1.2),
    Series("devices, pipelined", GPT, SMALL | {"batch": 1024, "pp": 2, "microbatches": 2}, PIPELINED, 1.2),
    Series("pangu, layers", PANGU, {}, [{"layers": n} for n in (64, 16, 100, 200, 203)]),
    Series("pangu, 2 stages", PANGU, {"pp": 2}, [{"layers": n} for n in (2, 3, 64, 200)]),
    Series("pangu, micro-batches", PANGU, {"batch": 8192}, [{"microbatches": n} for n in (32, 8, 512)]),
    Series("pangu, devices", PANGU, {"pp": 2, "batch": 16384}, PIPELINED, 1.2),
    # More stages are more classes of devices (first, inner, last), so this may grow, but not beyond three of them.
    Series("stages", GPT, SMALL | {"batch": 512, "microbatches": 64}, STAGES, 2, 1),
]


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
    print(f"{'series':<20} {'parameters':<40} {'devices':>7} {'CPU s':>6} {'ratio':>6} {'bytes':>8} {'ratio':>6}")
    for s in SERIES:
        first: tuple[float, int] | None = None
        for case in s.cases:
            params = s.common | case
            seconds, text = measured(lambda f=s.file, p=params: parc.emit(f, params=p), runs)  # type: ignore[misc]
            first = first or (seconds, len(text))
            slow, long = seconds > s.time * first[0], abs(len(text) / first[1] - 1) > s.text
            failed |= slow or long
            devices = 1 + max(map(int, re.findall(r"\d+", " ".join(re.findall(r": devices (\S+)", text)))))
            shown = " ".join(f"{k}={v}" for k, v in case.items())
            verdict = ("   SLOW" if slow else "") + ("   LONG" if long else "")
            print(
                f"{s.title:<20} {shown:<40} {devices:7} {seconds:6.2f} {seconds / first[0]:6.2f} "
                f"{len(text):8,} {len(text) / first[1]:6.3f}{verdict}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
