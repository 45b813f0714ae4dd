"""Fits what devices reach of their peaks on published steps: `python -m benchmarks.published.fit [GROUP] [--write]`.

A handful of physical numbers per device and software stack (`groups.py`), never one for a row: each within bounds,
drawn to a plausible value (a prior), so that numbers which the rows do not decide stay where physics has them. The loss
is robust: rows that no value fits (an allocator that thrashes, a source that is wrong) do not pull the others along.
Deterministic. Prints the `efficiency` lines of dsl/std/devices.par, and with `--write` puts them there;
`--validate` prints the tables of docs/validation.md instead (see `validate.py`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

import parc
from benchmarks.published.facts import SINGLE_NODE, Row, Unsupported, load
from benchmarks.published.generate import job
from benchmarks.published.groups import GROUPS, Group
from benchmarks.published.lines import efficiencies, write
from benchmarks.published.machines import device, software
from compiler.cost.calibration import DEFAULT, Calibration
from compiler.cost.simulate import Simulation
from dsl.source import Source

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """A parameter is drawn to `centre`; `spread`: standard deviation of its logarithm. It stays in [low, high]."""

    centre: float
    spread: float
    low: float
    high: float


PRIORS = {
    "product": Prior(0.78, 0.15, 0.4, 0.97),  # the best products that anyone measured reach 0.75 to 0.87 (microbench)
    "ramp": Prior(128.0, 0.8, 10.0, 600.0),
    "core": Prior(0.5, 0.35, 0.15, 0.95),
    "vector": Prior(0.8, 0.12, 0.5, 0.95),
    "launch": Prior(4e-6, 0.5, 1e-6, 2e-5),
    "host": Prior(1.5e-5, 0.8, 1e-6, 8e-5),
    "fusion": Prior(0.9, 0.1, 0.5, 1.0),
    "inner": Prior(0.75, 0.2, 0.3, 1.0),  # nccl-tests on 8 A100: 230 of 300 GB/s (microbench)
    "outer": Prior(0.75, 0.3, 0.2, 1.0),
    "inner_half": Prior(4e6, 0.7, 2e5, 5e7),
    "outer_half": Prior(2e6, 0.7, 2e5, 5e7),
    "alpha": Prior(2.0, 0.7, 0.5, 20.0),
    "slowdown": Prior(0.1, 0.7, 0.01, 0.4),
    "hidden": Prior(0.3, 0.7, 0.01, 1.0),
    "overlap": Prior(0.4, 0.7, 0.05, 0.95),
    "fixed": Prior(1e-2, 1.0, 1e-4, 0.1),
    "narrow": Prior(1.7, 0.2, 0.5, 4.0),
}
"""What is plausible, from data sheets, microbenchmarks (shared/costs.md) and the sources of `calibration.py`."""

ERROR = 0.04
"""Errors of a good model (of the logarithm): what a prior is weighed against."""

ROUGH = 2.0
"""Beyond so many of them a row counts in proportion to its error, not to the square."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A row with its program, ready to be priced; `stack` has its efficiencies."""

    row: Row
    simulation: Simulation
    device: str
    stack: str
    seconds: float


def samples(rows: Sequence[Row], wanted: Callable[[Row], bool] = lambda row: True) -> list[Sample]:
    """The rows that have a job; each is compiled once."""
    found = []
    for row in rows:
        try:
            if row.seconds is None or not wanted(row):
                continue
            simulation = Simulation.of(parc.compile(Source(f"{row}.par", job(row))))
        except (Unsupported, parc.ParcError):
            continue
        found.append(Sample(row, simulation, simulation.cluster.device.name, software(row)[0], row.seconds))
    return found


Values = dict[str, dict[str, float]]
"""Stack -> its parameters."""


class Problem:
    """A group's rows, as residuals of a vector of logarithms."""

    def __init__(self, group: Group, rows: Sequence[Sample]) -> None:
        self.group, self.rows = group, list(rows)
        self.names = [("", name) for name in group.free]
        self.names += [(stack, name) for stack, names in group.own.items() for name in names]
        priors = [self.prior(stack, name) for stack, name in self.names]
        self.centre = np.array([log(p.centre) for p in priors])
        self.spread = np.array([p.spread for p in priors])
        self.low = np.array([log(p.low) for p in priors])
        self.high = np.array([log(p.high) for p in priors])

    def prior(self, stack: str, name: str) -> Prior:
        """The group's own opinion, else the general one."""
        own = self.group.priors.get(name)
        return Prior(own[0], own[1], PRIORS[name].low, PRIORS[name].high) if own else PRIORS[name]

    def values(self, x: Vector) -> Values:
        """The parameters of each stack."""
        shared = {name: exp(v) for (stack, name), v in zip(self.names, x) if not stack}
        found: Values = {}
        for stack in self.group.stacks:
            own = {name: exp(v) for (of, name), v in zip(self.names, x) if of == stack}
            ours = {n: v for n, v in shared.items() if stack in self.group.only.get(n, (stack,))}
            found[stack] = {**self.group.fixed, **ours, **self.group.settled.get(stack, {}), **own}
        return found

    def errors(self, x: Vector) -> Vector:
        """log(predicted / measured) of each row."""
        values = self.values(x)
        cal = {stack: calibration(self.group, values[stack]) for stack in values}
        of = [cal[self.group.stack_of(s.stack)] for s in self.rows]
        return np.array([log(s.simulation.seconds(c) / s.seconds) for s, c in zip(self.rows, of)])

    def weights(self) -> Vector:
        """Families count alike where a group says so, however many rows each has."""
        counts: dict[str, int] = {}
        for s in self.rows:
            counts[s.row.family] = counts.get(s.row.family, 0) + 1
        if not self.group.families_alike:
            return np.ones(len(self.rows))
        mean = len(self.rows) / len(counts)
        return np.array([mean / counts[s.row.family] for s in self.rows])


def calibration(group: Group, values: Mapping[str, float]) -> Calibration:
    """Of a stack; kernels' launch is the device's own."""
    return DEFAULT.changed(**{"launch": group.launch, **values})


def loss(problem: Problem, x: Vector, errors: Vector) -> float:
    """Twice the negative logarithm of the posterior, but for a constant: Huber's errors and the priors."""
    z = np.abs(errors) / ERROR
    robust = np.where(z <= ROUGH, z * z, 2 * ROUGH * z - ROUGH * ROUGH)
    prior = ((x - problem.centre) / problem.spread) ** 2
    return float(np.sum(problem.weights() * robust) + np.sum(prior))


def jacobian(problem: Problem, x: Vector, errors: Vector) -> Vector:
    """d errors / d x, by differences that stay within bounds."""
    step = np.where(problem.spread > 0.3, 0.1, 0.02)
    columns = []
    for i in range(len(x)):
        moved = x.copy()
        moved[i] += step[i] if x[i] + step[i] <= problem.high[i] else -step[i]
        columns.append((problem.errors(moved) - errors) / (moved[i] - x[i]))
    return np.stack(columns, axis=1) if columns else np.zeros((len(errors), 0))


def newton(problem: Problem, x: Vector, errors: Vector, slopes: Vector, counted: Vector) -> tuple[Vector, Vector]:
    """The matrix and the slope of a Gauss-Newton step; `counted`: how much each row counts."""
    z = np.abs(errors) / ERROR
    weight = counted * np.minimum(1.0, ROUGH / np.maximum(z, 1e-9)) / ERROR**2
    normal = slopes.T @ (weight[:, None] * slopes) + np.diag(1 / problem.spread**2)
    return normal, slopes.T @ (weight * errors) + (x - problem.centre) / problem.spread**2


def begin(problem: Problem) -> Vector:
    """From the priors' centres one pass over the numbers, each moved where that helps: there are several valleys."""
    x = np.clip(problem.centre, problem.low, problem.high)
    best = loss(problem, x, problem.errors(x))
    for i in range(len(x)):
        for by in (1.5, -1.5, 3.0):
            moved = x.copy()
            moved[i] = np.clip(x[i] + by * problem.spread[i], problem.low[i], problem.high[i])
            value = loss(problem, moved, problem.errors(moved))
            if value < best:
                x, best = moved, value
                break
    return x


def fit(problem: Problem, rounds: int = 12) -> Vector:
    """Gauss–Newton with damping on the priors' scale, reweighted for the robust loss."""
    x = begin(problem)
    errors = problem.errors(x)
    best, damping = loss(problem, x, errors), 0.1
    for _ in range(rounds):
        normal, slope = newton(problem, x, errors, jacobian(problem, x, errors), problem.weights())
        for _ in range(5):
            move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slope)
            new = np.clip(x + move, problem.low, problem.high)
            found = problem.errors(new)
            value = loss(problem, new, found)
            if value < best:
                break
            damping *= 4
        else:
            break
        better = best - value
        x, errors, best, damping = new, found, value, max(damping / 4, 1e-3)
        if better < 0.05:
            break
    return x


def chosen(group: Group, all_rows: Sequence[Sample]) -> list[Sample]:
    """The samples that a group is fitted on."""
    return [s for s in all_rows if group.takes(s.device, s.stack, s.row.family)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="names of groups; all if there are none")
    parser.add_argument("--write", action="store_true", help="put the lines into dsl/std/devices.par")
    parser.add_argument("--validate", action="store_true", help="the tables of docs/validation.md instead")
    parser.add_argument("--every", type=int, default=6, metavar="N", help="of the rows of one node each Nth")
    options = parser.parse_args(arguments)
    unknown = set(options.groups) - {g.name for g in GROUPS}
    if unknown:
        print(f"no group {', '.join(sorted(unknown))}: {', '.join(g.name for g in GROUPS)}", file=sys.stderr)
        return 2
    groups = [g for g in GROUPS if not options.groups or g.name in options.groups]
    begun = time.perf_counter()
    rows = [*load(), *load(SINGLE_NODE)[:: options.every]]
    known = samples(rows, lambda row: any(g.takes(device(row)[0], software(row)[0], row.family) for g in groups))
    print(f"# {len(known)} of {len(rows)} rows have a job, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    if options.validate:
        from benchmarks.published.validate import tables

        print(tables(known, groups))
        return 0
    for group in groups:
        mine = chosen(group, known)
        if not mine:
            continue
        problem = Problem(group, mine)
        x = fit(problem)
        errors = np.abs(np.expm1(problem.errors(x)))
        print(f"# {group.name}: {len(mine)} rows, {len(x)} numbers, mean |error| {errors.mean():.1%}", file=sys.stderr)
        lines = efficiencies(group, problem.values(x))
        print("\n".join(lines))
        if options.write:
            write(group, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
