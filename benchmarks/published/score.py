"""Predictions against published measurements: `python -m benchmarks.published.score [CSV] [--family NAME] [--jobs N]`.

Time is the cost model's (`compiler.cost.time`); memory is the peak of the fullest device, scored apart for each
kind of measurement. Any table with the columns of README.md will do; what a row does not say, or the language has no
words for, is counted at the end.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

import parc
from benchmarks.published.facts import TRAINING, Row, Unsupported, load
from benchmarks.published.generate import expressible, job
from compiler.cost.memory.systems import Systems
from compiler.cost.time.simulate import Simulation
from dsl.source import Source


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a step; bytes of the fullest device, or None where they were not asked for."""

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
    seconds = Simulation.of(compiled).seconds()
    if row.memory is None:
        return Prediction(seconds, None)
    of = Systems(compiled).fullest
    states = sum(of.peak.roles.get(role, 0) for role in ("weight", "optimizer"))
    kinds = {"allocated": of.peak.bytes, "driver": of.needed, "init": states}
    return Prediction(seconds, kinds.get(row.memory_kind, of.reserved))


Pairs = dict[str, list[tuple[float, float]]]
"""(predicted, measured) by family."""


@dataclass(frozen=True, slots=True)
class Found:
    """Seconds; bytes by the kind of the measurement; how many rows were left out, by reason."""

    seconds: Pairs
    memory: dict[str, Pairs]
    left_out: Counter[str]


def collect(rows: Iterable[Row], how: Predict = predict, jobs: int = 1) -> Found:
    """All predictions; rows that the language has no words for, or that say too little, are counted by reason."""
    found = Found({}, {}, Counter())
    rows = list(rows)
    tried: Iterable[Prediction | str]
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            tried = list(pool.map(partial(_try, how), rows, chunksize=4))
    else:
        tried = (_try(how, row) for row in rows)
    for row, prediction in zip(rows, tried):
        if isinstance(prediction, str):
            found.left_out[prediction] += 1
            continue
        if prediction.seconds is not None and row.seconds is not None:
            found.seconds.setdefault(row.family, []).append((prediction.seconds, row.seconds))
        if prediction.memory is not None and row.memory is not None:
            kind = found.memory.setdefault(row.memory_kind, {})
            kind.setdefault(row.family, []).append((prediction.memory, row.memory))
    return found


def _try(how: Predict, row: Row) -> Prediction | str:
    """The prediction, or why there is none."""
    try:
        if row.seconds is None and row.memory is None:
            expressible(row)
            return "neither the time nor the memory of a step is stated"
        return how(row)
    except Unsupported as reason:
        return str(reason)
    except parc.ParcError as error:
        first = error.diagnostics[0]
        return f"the job does not compile: {first.code}"


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
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth row")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    options = parser.parse_args(arguments)
    try:
        rows = [row for row in load(options.csv) if options.family in (None, row.family)][:: max(1, options.every)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        print(f"{options.csv} is not a table that can be read: {error}", file=sys.stderr)
        return 2
    found = collect(rows, jobs=options.jobs)
    titles = {"time": found.seconds} | {f"memory ({kind})": of for kind, of in sorted(found.memory.items())}
    for title, families in titles.items():
        print(table(title, families) if families else f"{title}: nothing to score")
        print()
    print(f"{found.left_out.total()} of {len(rows)} rows are left out")
    for reason, n in found.left_out.most_common():
        print(f"{n:>5}  {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
