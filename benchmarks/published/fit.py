"""Fits what devices reach of their peaks on published steps: `python -m benchmarks.published.fit [GROUP] [--write]`.

A handful of physical numbers per device and software stack (`groups.py`), never one for a row: each within bounds,
drawn to a plausible value (a prior), so that numbers which the rows do not decide stay where physics has them. The loss
is robust: rows that no value fits (an allocator that thrashes, a source that is wrong) do not pull the others along.
Deterministic. Prints the `efficiency` lines of dsl/std/devices.par, and with `--write` puts them there;
`--validate` prints the table of docs/validation.md as well (see `validate.py`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import exp, log
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import parc
from benchmarks.published import mixture
from benchmarks.published.accelerators import known, most, power, reached
from benchmarks.published.facts import ERRORS, SINGLE_NODE, Row, Unsupported, load
from benchmarks.published.footprints import footprints
from benchmarks.published.generate import job
from benchmarks.published.group import Group
from benchmarks.published.groups import GROUPS
from benchmarks.published.lines import efficiencies, write, write_footprint
from benchmarks.published.machines import device, sheet
from benchmarks.published.software import relatives, software
from compiler.cost.price.calibration import DEFAULT, Calibration
from compiler.cost.time.simulate import Simulation
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
    "product": Prior(0.83, 0.15, 0.4, 0.97),  # with ample power; the best that anyone measured reach 0.73 to 0.87
    "ramp": Prior(128.0, 0.8, 10.0, 600.0),
    "core": Prior(0.5, 0.35, 0.15, 0.95),
    "vector": Prior(0.8, 0.12, 0.5, 0.95),
    "launch": Prior(4e-6, 0.5, 1e-6, 2e-5),
    "host": Prior(1.5e-5, 0.8, 1e-6, 8e-5),
    "fusion": Prior(0.9, 0.1, 0.02, 1.0),
    "inner": Prior(0.75, 0.2, 0.3, 1.0),  # nccl-tests on 8 A100: 230 of 300 GB/s (microbench)
    "outer": Prior(0.75, 0.3, 0.2, 1.0),
    "inner_half": Prior(8e6, 0.7, 2e5, 5e7),
    "outer_half": Prior(2e6, 0.7, 2e5, 5e7),
    "alpha": Prior(2.0, 0.7, 0.5, 20.0),
    "slowdown": Prior(0.1, 0.7, 0.01, 0.4),
    "jitter": Prior(0.01, 0.7, 0.0005, 0.03),
    "ahead": Prior(0.5, 0.7, 0.02, 1.0),
    "overlap": Prior(0.4, 0.7, 0.05, 0.95),
    "exchange": Prior(0.3, 0.7, 0.02, 0.9),
    "grouped": Prior(2e-5, 0.7, 1e-6, 2e-4),
    "fixed": Prior(1e-2, 1.0, 1e-4, 0.1),
    "narrow": Prior(1.7, 0.2, 0.5, 4.0),
}
"""What is plausible, from data sheets, microbenchmarks (micro.csv) and the sources of docs/costs.md."""

USUAL = 0.94
"""The share of an ample power's products where it is not published: the middle of those that are."""

ERROR = ERRORS["A"]
"""Errors of a good model (of the logarithm): what a prior is weighed against."""

BIAS = 0.12
"""How much software differs on the same device (of the logarithm): where a group has rows of many families, each is a
factor faster or slower as a whole. What the group gives is for a family of which nothing is known."""

MOST = 12
"""Rows of a family in a group of several: more say no more of what they have in common."""

ROUGH = 2.0
"""Beyond so many of them a row counts in proportion to its error, not to the square."""


class Priced(Protocol):
    """What takes as long as a calibration says."""

    def seconds(self, calibration: Calibration | None = None) -> float:
        """Of all of it."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A row with its program, ready to be priced; `stack` has its efficiencies, the first of `kin` that there is those
    of software like it."""

    row: Row
    simulation: Priced
    device: str
    stack: str
    seconds: float
    kin: tuple[str, ...] = ("",)


def samples(rows: Sequence[Row], jobs: int = 1) -> list[Sample]:
    """The rows that have a job; each is compiled once."""
    if jobs == 1:
        return [s for s in map(_sample, rows) if s]
    with ProcessPoolExecutor(jobs) as pool:
        return [s for s in pool.map(_sample, rows, chunksize=4) if s]


def _sample(row: Row) -> Sample | None:
    try:
        if row.seconds is None:
            return None
        simulation = Simulation.of(parc.compile(Source(f"{row}.par", job(row))))
    except (Unsupported, parc.ParcError):
        return None
    simulation.seconds()  # features are kept
    return sample(row, simulation)


def sample(row: Row, simulation: Simulation) -> Sample:
    """A row that has a time, with its program."""
    at = sheet(row).like
    name = simulation.cluster.device.name
    return Sample(row, simulation, name, software(row, at)[0], row.seconds or 0.0, tuple(relatives(row, at)))


Pairs = dict[str, list[tuple[float, float]]]
"""(predicted, measured) by family."""

Values = dict[str, dict[str, float]]
"""Stack -> its parameters."""


class Problem:
    """A group's rows, as residuals of a vector of logarithms."""

    def __init__(self, group: Group, rows: Sequence[Sample]) -> None:
        self.group, self.rows = group, list(rows)
        self.owners = [group.owner(s.stack, s.kin) for s in rows]
        self.error = np.array([s.row.error for s in rows])
        self.priced: dict[tuple[int, Calibration], float] = {}
        self.names = [("", name) for name in group.free]
        self.names += [(stack, name) for stack, names in group.own.items() for name in names]
        priors = [self.prior(stack, name) for stack, name in self.names]
        families = sorted({s.row.family for s in self.rows}) if group.families else []
        self.of = np.array([[float(s.row.family == f) for f in families] for s in self.rows])
        self.of = self.of.reshape(len(self.rows), len(families))
        none = np.zeros(len(families))  # a factor of each family: near 1
        self.centre = np.array([*(log(p.centre) for p in priors), *none])
        self.spread = np.array([*(p.spread for p in priors), *none + BIAS])
        self.low = np.array([*(log(p.low) for p in priors), *none - 1.0])
        self.high = np.array([*(log(p.high) for p in priors), *none + 1.0])

    def prior(self, stack: str, name: str) -> Prior:
        """The group's own opinion, of a stack or of all, else the general one. Products are at most what the best of
        the device allows, and what is plausible of them depends on its power."""
        usual = PRIORS[name]
        if name == "product":
            sheets = [known(device) for device in self.group.devices]
            high = min(usual.high, *(most(of) for of in sheets))
            centre = usual.centre * min(power(of) if of and of.watts else USUAL for of in sheets)
            usual = Prior(min(centre, 0.95 * high), usual.spread, usual.low, high)
        own = self.group.priors.get(f"{stack} {name}") or self.group.priors.get(name)
        return Prior(own[0], own[1], usual.low, usual.high) if own else usual

    def values(self, x: Vector) -> Values:
        """The parameters of each stack."""
        shared = {name: exp(v) for (stack, name), v in zip(self.names, x) if not stack}
        found: Values = {}
        for stack in self.group.stacks:
            own = {name: exp(v) for (of, name), v in zip(self.names, x) if of == stack}
            ours = {n: v for n, v in shared.items() if stack in self.group.only.get(n, (stack,))}
            found[stack] = {**self.group.fixed, **ours, **self.group.settled.get(stack, {}), **own}
        for stack, names in self.group.shared.items():
            found[stack].update((name, found[of][name]) for name, of in names.items())
        return found

    def errors(self, x: Vector) -> Vector:
        """log(predicted / measured) of each row, but for the factor of its family."""
        return self.plain(x) + self.of @ x[len(self.names) :]

    def plain(self, x: Vector) -> Vector:
        """log(predicted / measured) of each row."""
        values = self.values(x)
        cal = {stack: calibration(self.group, values[stack]) for stack in values}
        return np.array(
            [self._error(i, self.on(s.device, cal[of])) for i, (s, of) in enumerate(zip(self.rows, self.owners))]
        )

    def on(self, device: str, cal: Calibration) -> Calibration:
        """Numbers of the group's first device on another."""
        if not self.group.power or device == self.group.devices[0] or (of := known(device)) is None:
            return cal
        return cal.changed(product=reached(cal.product, of, self.group.devices[0]))

    def _error(self, i: int, cal: Calibration) -> float:
        """Of one row; what some stacks have does not move the rows of others, which are not priced again."""
        if (i, cal) not in self.priced:
            of = self.rows[i]
            self.priced[i, cal] = log(of.simulation.seconds(cal) / of.seconds)
        return self.priced[i, cal]


def calibration(group: Group, values: Mapping[str, float]) -> Calibration:
    """Of a stack; kernels' launch is the device's own."""
    return DEFAULT.changed(**{"launch": group.launch, **values})


def loss(problem: Problem, x: Vector, errors: Vector) -> float:
    """Twice the negative logarithm of the posterior, but for a constant: Huber's errors and the priors."""
    z = np.abs(errors) / problem.error
    robust = np.where(z <= ROUGH, z * z, 2 * ROUGH * z - ROUGH * ROUGH)
    prior = ((x - problem.centre) / problem.spread) ** 2
    return float(np.sum(robust) + np.sum(prior))


def jacobian(problem: Problem, x: Vector, errors: Vector) -> Vector:
    """d errors / d x, by differences that stay within bounds."""
    step = np.where(problem.spread > 0.3, 0.1, 0.02)
    columns = []
    for i in range(len(problem.names)):
        moved = x.copy()
        moved[i] += step[i] if x[i] + step[i] <= problem.high[i] else -step[i]
        columns.append((problem.errors(moved) - errors) / (moved[i] - x[i]))
    return np.stack([*columns, *problem.of.T], axis=1) if len(x) else np.zeros((len(errors), 0))


def newton(problem: Problem, x: Vector, errors: Vector, slopes: Vector, counted: Vector) -> tuple[Vector, Vector]:
    """The matrix and the slope of a Gauss-Newton step; `counted`: how much each row counts."""
    z = np.abs(errors) / problem.error
    weight = counted * np.minimum(1.0, ROUGH / np.maximum(z, 1e-9)) / problem.error**2
    normal = slopes.T @ (weight[:, None] * slopes) + np.diag(1 / problem.spread**2)
    return normal, slopes.T @ (weight * errors) + (x - problem.centre) / problem.spread**2


def begin(problem: Problem) -> Vector:
    """From the priors' centres one pass over the numbers, each moved where that helps: there are several valleys."""
    x = np.clip(problem.centre, problem.low, problem.high)
    best = loss(problem, x, problem.errors(x))
    for i in range(len(problem.names)):
        for by in (1.5, -1.5, 3.0):
            moved = x.copy()
            moved[i] = np.clip(x[i] + by * problem.spread[i], problem.low[i], problem.high[i])
            value = loss(problem, moved, problem.errors(moved))
            if value < best:
                x, best = moved, value
                break
    return x


def fit(problem: Problem, rounds: int = 12, near: Vector | None = None) -> Vector:
    """Gauss–Newton with damping on the priors' scale, reweighted for the robust loss. near: where to begin."""
    x = begin(problem) if near is None else near
    errors = problem.errors(x)
    best, damping = loss(problem, x, errors), 0.1
    for _ in range(rounds):
        normal, slope = newton(problem, x, errors, jacobian(problem, x, errors), np.ones(len(errors)))
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


def chosen(group: Group, rows: Sequence[Row]) -> list[Row]:
    """What a group is fitted on: of a family in a group of several at most MOST rows, from the shortest to the longest
    step. Runs that nobody tuned are left out."""
    taken = [row for row in rows if row.seconds and row.tier != "C" and _takes(group, row)]
    if not group.families:
        return taken
    found = []
    for family in dict.fromkeys(row.family for row in taken):
        of = sorted((row for row in taken if row.family == family), key=lambda row: row.seconds or 0.0)
        found += [of[i * len(of) // MOST] for i in range(MOST)] if len(of) > MOST else of
    return found


def _takes(group: Group, row: Row) -> bool:
    if mixture.mixed(row) and "exchange" not in group.free:  # what differs most between stacks is how they do that
        return False
    try:
        name = device(row)[0]
        return group.takes(name, software(row, name)[0], row.family)
    except Unsupported:
        return False


def fitted(group: Group, rows: Sequence[Sample], columns: bool, near: bool) -> tuple[list[str], str, list[Pairs]]:
    """The group's lines, what to say of it, and its part of the table of docs/validation.md, where that is wanted.
    near: begins at the numbers that its devices state."""
    from benchmarks.published.expected import as_stated
    from benchmarks.published.validate import of_group

    problem = Problem(group, rows)
    x = fit(problem, near=as_stated(problem) if near else None)
    errors = np.abs(np.expm1(problem.plain(x)))
    note = f"# {group.name}: {len(rows)} rows, {len(problem.names)} numbers, mean |error| {errors.mean():.1%}"
    return efficiencies(group, problem.values(x)), note, of_group(problem, x) if columns else []


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="names of groups, or `footprints`; all if there are none")
    parser.add_argument("--write", action="store_true", help="put the lines into dsl/std/devices.par")
    parser.add_argument("--validate", action="store_true", help="the tables of docs/validation.md as well")
    parser.add_argument("--near", action="store_true", help="begin at the numbers that stand there")
    parser.add_argument("--every", type=int, default=18, metavar="N", help="of the rows of one node each Nth")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    options = parser.parse_args(arguments)
    unknown = set(options.groups) - {"footprints", *(g.name for g in GROUPS)}
    if unknown:
        print(f"no group {', '.join(sorted(unknown))}: {', '.join(g.name for g in GROUPS)}", file=sys.stderr)
        return 2
    groups = [g for g in GROUPS if not options.groups or g.name in options.groups]
    begun = time.perf_counter()
    rows = [*load(), *load(SINGLE_NODE)[:: options.every]]
    of = {g.name: [str(row) for row in chosen(g, rows)] for g in groups}
    wanted = {name for names in of.values() for name in names}
    known = {str(s.row): s for s in samples([row for row in rows if str(row) in wanted], options.jobs)}
    print(f"# {len(known)} of {len(wanted)} rows have a job, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    mine = [(g, found) for g in groups if (found := [known[name] for name in of[g.name] if name in known])]
    parts = []
    with ProcessPoolExecutor(options.jobs) as pool:
        tasks = [pool.submit(fitted, g, found, options.validate, options.near) for g, found in mine]
        for (group, _), task in zip(mine, tasks):
            lines, note, columns = task.result()
            parts.append(columns)
            print(f"{note}, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
            print("\n".join(lines), flush=True)
            if options.write:
                write(group, lines)
    if not options.groups or "footprints" in options.groups:
        for devices, lines in footprints(load(), options.jobs):
            print(f"# {', '.join(devices)}", "\n".join(lines), sep="\n", flush=True)
            if options.write:
                write_footprint(devices, lines)
    if options.validate:
        from benchmarks.published.validate import table

        print(table(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
