"""How well the cost model predicts what it was not fitted on: `python -m benchmarks.published.fit --validate`.

Four errors for each family: of the rows that were fitted; of rows left out of the fit (each fifth in turn); of the
family as of unknown software, with the general numbers of its device, fitted anew on all other families; and with
nothing fitted at all (the defaults of `calibration.py`, `NARROW` where products are narrow). A fit without a fifth of
the rows is one Gauss-Newton step away from the fit with them: no row is priced again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.published.accelerators import narrow
from benchmarks.published.fit import Pairs, Problem, Sample, Vector, fit, jacobian, newton
from benchmarks.published.machines import NARROW
from benchmarks.published.score import Score, score
from benchmarks.published.software import fused
from compiler.cost.price.calibration import DEFAULT

FOLDS = 5
ROUNDS = 3  # of a fit that begins at one with more rows


class Fitted:
    """A group's rows at its fitted numbers, with slopes."""

    def __init__(self, problem: Problem, x: Vector) -> None:
        self.problem, self.x = problem, x
        self.errors = problem.errors(x)
        self.slopes = jacobian(problem, x, self.errors)

    def without(self, left: Vector) -> Vector:
        """Errors of all rows after a fit without some (`left`: true for those)."""
        problem = self.problem
        counted = 1.0 * ~left
        normal, slope = newton(problem, self.x, self.errors, self.slopes, counted)
        moved = np.clip(self.x - np.linalg.solve(normal, slope), problem.low, problem.high)
        return self.errors + self.slopes @ (moved - self.x)

    def folded(self) -> Vector:
        """Each row's error by a fit on four fifths of the others; they are dealt in turn, by family and time."""
        rows = self.problem.rows
        order = sorted(range(len(rows)), key=lambda i: (rows[i].row.family, rows[i].seconds))
        found = np.zeros(len(rows))
        for fold in range(FOLDS):
            left = np.zeros(len(rows), dtype=bool)
            left[order[fold::FOLDS]] = True
            found[left] = self.without(left)[left]
        return found

    def foreign(self) -> Vector:
        """Each row's error by a fit on the families of the others."""
        problem = self.problem
        families = np.array([s.row.family for s in problem.rows])
        found = np.zeros(len(families))
        for family in sorted(set(families)):
            others = Problem(problem.group, [s for s in problem.rows if s.row.family != family])
            names = sorted(set(families))
            factors = self.x[len(problem.names) :][[name != family for name in names]]
            x = fit(others, ROUNDS, np.concatenate([self.x[: len(problem.names)], factors]))
            mine = Problem(problem.group, [s for s in problem.rows if s.row.family == family])
            found[families == family] = mine.plain(x)
        return found


def defaults(sample: Sample) -> float:
    """A row's error with nothing fitted: what is known is whether attention is fused, and products are narrow."""
    times = NARROW if narrow(sample.row) > 1 else 1.0
    cal = DEFAULT.changed(fused_attention=float(fused(sample.row)), narrow=times)
    return float(np.log(sample.simulation.seconds(cal) / sample.seconds))


def of_group(problem: Problem, x: Vector) -> list[Pairs]:
    """A group's part of the four columns of the table."""
    rows = problem.rows
    of = Fitted(problem, x)
    if problem.group.families:
        several = len({s.row.family for s in rows}) > 1
        return [{}, {}, _pairs(rows, of.foreign()) if several else {}, {}]
    nothing = np.array([defaults(s) for s in rows])
    return [_pairs(rows, of.errors), _pairs(rows, of.folded()), {}, _pairs(rows, nothing)]


def table(parts: Sequence[Sequence[Pairs]]) -> str:
    """Of all families, in Markdown, from the parts of all groups."""
    columns: list[Pairs] = [{}, {}, {}, {}]
    for part in parts:
        for column, found in zip(columns, part):
            for family, pairs in found.items():
                column.setdefault(family, []).extend(pairs)
    head = ["family", "rows", "mean", "median", "largest", "bias", "rank"]
    head += ["left out: mean", "rank", "unknown software: mean", "bias", "rank", "defaults: mean", "rank"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for family in dict.fromkeys(name for column in columns for name in column):
        cells = [family, *["–"] * 6]
        if family in columns[0]:
            a = score(columns[0][family])
            cells = [
                family,
                str(a.n),
                f"{a.mean:.1%}",
                f"{a.median:.1%}",
                f"{a.largest:.0%}",
                f"{a.bias:+.1%}",
                _rank(a),
            ]
        for i, column in enumerate(columns[1:]):
            b = score(column[family]) if family in column else None
            bias = ([f"{b.bias:+.0%}"] if b else ["–"]) if i == 1 else []
            cells += [f"{b.mean:.1%}", *bias, _rank(b)] if b else ["–", *bias, "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pairs(rows: Sequence[Sample], errors: Vector) -> Pairs:
    found: Pairs = {}
    for sample, error in zip(rows, errors):
        found.setdefault(sample.row.family, []).append((sample.seconds * float(np.exp(error)), sample.seconds))
    return found


def _rank(s: Score) -> str:
    return f"{s.rank:.3f}" if s.rank == s.rank else "–"
