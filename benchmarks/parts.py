"""CPU seconds of single parts of parc, and that none grows with layers or micro-batches beyond what it says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import parc
from benchmarks.cost_scaling import least
from compiler.driver import Compiled, run_passes
from compiler.memory.caching_allocator import reserved
from compiler.memory.fullest import traced
from compiler.memory.occupancy import occupancy
from compiler.memory.offsets import allocation
from compiler.memory.peak import memory_use
from compiler.program import Program
from compiler.schedules.rolled import families, rolled
from compiler.text import show
from parc import api

GPT, PANGU = (ROOT / "examples" / f"{name}.par" for name in ("gpt", "pangu_200b"))
FEW = {"layers": 8, "microbatches": 8}
MANY = {"layers": 1024, "microbatches": 1024}


@dataclass(frozen=True)
class Part:
    """A function of a compiled job, and the CPU seconds that it may take for PanGu on 2,048 devices."""

    title: str
    run: Callable[[Compiled], object]
    limit: float


@dataclass(frozen=True)
class Growth:
    """A function of a program that may take `times` as long, and `more` seconds, with many layers and micro-batches
    instead of few."""

    title: str
    run: Callable[[Program], object]
    times: float
    more: float


def _schedules() -> None:
    for name in ("gpipe", "one_f_one_b", "zero_bubble", "interleaved"):
        families(rolled(name, 16, 2 if name == "interleaved" else 1, 16 * 10**5))


PARTS = [
    Part("training graph", lambda c: run_passes(c.job, "update"), 0.1),
    Part("printing the program", lambda c: show(c.program), 0.1),
    Part("memory over time", lambda c: occupancy(c.program), 0.2),
    Part("the page", lambda c: api.report(api.estimate(c)), 2.0),
    Part("4 schedules of 1,600,000 micro-batches", lambda c: _schedules(), 0.1),
]
GROWTHS = [
    Growth("peak of memory", memory_use, 3, 0.1),
    Growth("memory over time", occupancy, 3, 0.3),  # of each action
    Growth("fixed offsets", lambda p: allocation(traced(p, 1), 1), 2, 0.05),
    Growth("a caching allocator", lambda p: reserved(traced(p, 1), 1), 2, 0.05),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="the least of so many is reported")
    runs = parser.parse_args().runs
    missed = 0

    def line(title: str, seconds: float, limit: float) -> None:
        nonlocal missed
        missed += seconds > limit
        print(f"{title:<44}{seconds:>8.3f}{limit:>8.2f}{'  TOO SLOW' if seconds > limit else ''}", flush=True)

    print(f"{'of PanGu on 2,048 devices':<44}{'CPU s':>8}{'limit':>8}")
    pangu = parc.compile(PANGU)
    for part in PARTS:
        line(part.title, least(lambda part=part: part.run(pangu), runs), part.limit)  # type: ignore[misc]
    print(f"\n{'1024 layers and micro-batches instead of 8':<44}{'CPU s':>8}{'limit':>8}")
    few, many = (parc.compile(GPT, params={"pp": 4, "batch": 1024, **size}).program for size in (FEW, MANY))
    for growth in GROWTHS:
        base, grown = (least(lambda g=growth, p=p: g.run(p), runs) for p in (few, many))  # type: ignore[misc]
        line(growth.title, grown, growth.times * base + growth.more)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
