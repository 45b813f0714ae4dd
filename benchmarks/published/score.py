"""Predictions against published measurements: `python -m benchmarks.published.score [CSV] [--family NAME]`.

Time is the cost model's (`compiler.cost.simulate`), where there is one; memory is the replay's peak of the fullest one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import parc
from benchmarks.published.facts import TRAINING, Row, load
from benchmarks.published.generate import Unsupported, job
from compiler.cost.memory import memory_use
from compiler.cost.replay import FIRST
from dsl.source import Source


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a step, or None where no cost model is there; bytes of the fullest device."""

    seconds: float | None
    memory: float | None


Predict = Callable[[Row], Prediction]


@dataclass(frozen=True, slots=True)
class Score:
    """Relative errors of predictions: (predicted - measured) / measured."""

    n: int
    mean: float  # of the absolute errors
    median: float
    largest: float
    bias: float  # mean of the signed errors
    rank: float  # Spearman's correlation; nan where it is not defined


def score(pairs: Sequence[tuple[float, float]]) -> Score:
    """Of (predicted, measured), at least one."""
    errors = [(predicted - measured) / measured for predicted, measured in pairs]
    sizes = [abs(e) for e in errors]
    return Score(len(pairs), fmean(sizes), median(sizes), max(sizes), fmean(errors), rank_correlation(pairs))


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's: 1 if one order is the other; equal values share their mean rank."""
    left, right = _ranks([a for a, _ in pairs]), _ranks([b for _, b in pairs])
    mean = (len(pairs) + 1) / 2
    both = sum((a - mean) * (b - mean) for a, b in zip(left, right))
    spread = sum((a - mean) ** 2 for a in left) * sum((b - mean) ** 2 for b in right)
    return both / spread**0.5 if spread else float("nan")


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first = {v: i for i, v in reversed(list(enumerate(order)))}
    last = {v: i for i, v in enumerate(order)}
    return [(first[v] + last[v]) / 2 + 1 for v in values]


def predict(row: Row) -> Prediction:
    """From the row's job alone; nothing that was measured goes in. Raises `Unsupported` or `ParcError`."""
    compiled = parc.compile(Source(f"{row}.par", job(row)))
    seconds = None
    if importlib.util.find_spec("compiler.cost") and importlib.util.find_spec("compiler.cost.simulate"):
        simulate = importlib.import_module("compiler.cost.simulate")
        seconds = float(simulate.simulate(compiled).step_seconds)
    memory = None
    if row.memory is not None:
        memory = max(float(use[FIRST].bytes) for use in memory_use(compiled.program).values())
    return Prediction(seconds, memory)


@dataclass(frozen=True, slots=True)
class Pairs:
    """(predicted, measured) by family, and how many rows have no job."""

    seconds: dict[str, list[tuple[float, float]]]
    memory: dict[str, list[tuple[float, float]]]
    left_out: int


def collect(rows: Iterable[Row], how: Predict = predict) -> Pairs:
    """All predictions; rows that the language has no words for are counted."""
    found = Pairs({}, {}, 0)
    left_out = 0
    for row in rows:
        try:
            prediction = how(row)
        except Unsupported:
            left_out += 1
            continue
        if prediction.seconds is not None:
            found.seconds.setdefault(row.family, []).append((prediction.seconds, row.seconds))
        if prediction.memory is not None and row.memory is not None:
            found.memory.setdefault(row.family, []).append((prediction.memory, row.memory))
    return Pairs(found.seconds, found.memory, left_out)


def table(title: str, families: dict[str, list[tuple[float, float]]]) -> str:
    """A line per family, and one of all."""
    head = f"{title:<22} {'n':>5} {'mean':>7} {'median':>7} {'max':>7} {'bias':>7} {'rank':>6}"
    lines = [head]
    everything = [pair for pairs in families.values() for pair in pairs]
    for name, pairs in [*families.items(), ("all", everything)]:
        s = score(pairs)
        errors = (s.mean, s.median, s.largest, s.bias)
        lines.append(f"{name:<22} {s.n:>5} " + " ".join(f"{e:>7.1%}" for e in errors) + f" {s.rank:>6.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", nargs="?", type=Path, default=TRAINING)
    parser.add_argument("--family", help="only rows of this family")
    options = parser.parse_args(arguments)
    rows = [row for row in load(options.csv) if options.family in (None, row.family)]
    found = collect(rows)
    for title, families in (("time", found.seconds), ("memory", found.memory)):
        print(table(title, families) if families else f"{title}: nothing to score")
        print()
    print(f"{found.left_out} of {len(rows)} rows are left out: the language has no words for them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
