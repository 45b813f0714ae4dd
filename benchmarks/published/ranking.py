"""Whether what we rank first was fastest: `python -m benchmarks.published.ranking [--family NAME] [--worst N]`.

Published sweeps have rows that differ in nothing but the strategy. Of each such group the strategy whose step takes
least by our price is what `parc plan` would choose among them; it is held to the times that were measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean

import parc
from benchmarks.published.facts import SINGLE_NODE, TRAINING, Row, Unsupported, load
from benchmarks.published.generate import job
from compiler.cost.time.simulate import Simulation
from dsl.source import Source

SWEEPS = ("vtrain_single", "vtrain_multi", "bloom_sweep", "llmfoundry", "megatron_sc21")
"""Beginnings of the families that are looked at by default."""

STRATEGY = (
    *("dp", "tp", "pp", "vpp", "ep", "cp", "sp", "zero_stage", "fsdp_shards"),
    *("mbs", "microbatches", "recompute"),
)
"""Columns of what a strategy chooses."""

FREE = ("gbs", "n_dev", "inter_Gbps_per_node")
"""What is chosen besides where batch and devices are free: one node says nothing of links between nodes."""

BESIDE = ("row_id", "family", "tier", "source", "seconds", "seconds_from", "mem_per_dev", "mem_unit", "mem_kind")
"""Columns that are nothing of what was run."""

Choice = tuple[str, ...]
"""The cells of what was chosen."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rows that differ in what was chosen, and in nothing else. free: batch and devices as well."""

    free: bool
    rows: Mapping[Choice, Sequence[Row]]

    @property
    def one(self) -> Row:
        """Any of them, for what they share."""
        return next(iter(self.rows.values()))[0]

    @property
    def site(self) -> str:
        """The family, whose tables are one sweep."""
        return site(self.one)

    def __str__(self) -> str:
        row = self.one
        fixed = "" if self.free else f", {row['n_dev']} devices, batch {row['gbs']}"
        return f"{row['model']}, {row['seq_len']} positions{fixed}"

    def ranked(self, seconds: Callable[[Row], float]) -> Ranked:
        """seconds: of a step, as predicted. What was measured more than once counts with its mean; of strategies that
        are predicted alike the slowest counts."""
        measured = {choice: fmean(map(_measured, rows)) for choice, rows in self.rows.items()}
        predicted = {choice: fmean(_cost(row, seconds(row)) for row in rows) for choice, rows in self.rows.items()}
        first = min(predicted, key=lambda c: (predicted[c], -measured[c]))
        best = min(measured, key=lambda c: measured[c])
        return Ranked(self, first, best, measured[first] / measured[best] - 1, predicted[best] / predicted[first] - 1)


@dataclass(frozen=True, slots=True)
class Ranked:
    """first: what we rank first; best: what was fastest. loss: how much longer the first took than the best, as
    measured; apart: how much longer the best takes than the first, as predicted."""

    sweep: Sweep
    first: Choice
    best: Choice
    loss: float
    apart: float

    def line(self) -> str:
        """What was chosen, and what would have been better."""
        other = "" if self.first == self.best else f"; best: {self._shown(self.best)}, predicted {self.apart:+.1%}"
        return f"{self.loss:>6.1%}  {len(self.sweep.rows):>3}  {self.sweep}: {self._shown(self.first)}{other}"

    def _shown(self, choice: Choice) -> str:
        names = (*STRATEGY, *FREE) if self.sweep.free else STRATEGY
        cells = dict(zip(names, choice, strict=True))
        said = [f"{name} {cells[name]}" for name in names if cells[name] not in ("", "0", "1") and name != FREE[-1]]
        return " ".join(said) or "one device"


def site(row: Row) -> str:
    """The family: tables of one publication are one."""
    return next((name for name in SWEEPS if row.family.startswith(name)), row.family)


def sweeps(rows: Sequence[Row], free: bool = False) -> list[Sweep]:
    """Groups of at least two choices, in the order of the rows."""
    chosen = (*STRATEGY, *FREE) if free else STRATEGY
    found: dict[object, dict[Choice, list[Row]]] = {}
    for row in rows:
        shared = {c: row[c] for c in row.facts if c not in (*chosen, *BESIDE) and row[c]}
        of = found.setdefault((site(row), tuple(sorted(shared.items()))), {})
        of.setdefault(tuple(row[c] for c in chosen), []).append(row)
    return [Sweep(free, of) for of in found.values() if len(of) > 1]


def _measured(row: Row) -> float:
    assert row.seconds is not None
    return _cost(row, row.seconds)


def _cost(row: Row, seconds: float) -> float:
    """Device-seconds of a sample: where devices and batch are alike, in proportion to the time."""
    return seconds * row.number("n_dev") / row.number("gbs")


def predicted(row: Row) -> float | None:
    """Seconds of a step, or None where the row has no job."""
    try:
        return Simulation.of(parc.compile(Source(f"{row}.par", job(row)))).seconds()
    except (Unsupported, parc.ParcError):
        return None


def summary(found: Sequence[Ranked]) -> str:
    """A line per sweep, and one of all groups."""
    lines = [f"{'':<16} {'groups':>6} {'choices':>7} {'first is best':>13} {'mean loss':>9} {'largest':>7}"]
    names = list(dict.fromkeys(r.sweep.site for r in found))
    for name in (*names, "all"):
        of = [r for r in found if name in (r.sweep.site, "all")]
        losses = [r.loss for r in of]
        hits = f"{sum(not loss for loss in losses)} of {len(of)}"
        numbers = f"{len(of):>6} {sum(len(r.sweep.rows) for r in of):>7} {hits:>13}"
        lines.append(f"{name:<16} {numbers} {fmean(losses):>9.1%} {max(losses):>7.1%}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", action="append", help=f"the beginning of a family's name (default: {SWEEPS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--worst", type=int, metavar="N", help="only so many groups of each kind, the worst first")
    options = parser.parse_args(arguments)
    wanted = tuple(options.family or SWEEPS)
    rows = [r for r in (*load(TRAINING), *load(SINGLE_NODE)) if r.family.startswith(wanted) and r.seconds is not None]
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            found_times = list(pool.map(predicted, rows, chunksize=4))
    else:
        found_times = [predicted(row) for row in rows]
    times = {str(row): t for row, t in zip(rows, found_times) if t is not None}
    rows = [row for row in rows if str(row) in times]
    without = Counter(site(row) for row in rows) - Counter(
        site(r) for of in (sweeps(rows), sweeps(rows, True)) for s in of for same in s.rows.values() for r in same
    )
    titles = ("model, devices and batch alike", "batch and devices free: device-seconds per sample")
    for free, title in enumerate(titles):
        found = [sweep.ranked(lambda row: times[str(row)]) for sweep in sweeps(rows, bool(free))]
        print(title)
        if not found:
            print("no two rows differ in nothing else\n")
            continue
        print(summary(found), "\n", sep="\n")
        print("  loss    n  what we rank first")
        shown = sorted(found, key=lambda r: -r.loss)[: options.worst] if options.worst is not None else found
        print("\n".join(r.line() for r in shown), "\n")
    print(f"rows of which no other has the same model and sequence: {dict(without) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
