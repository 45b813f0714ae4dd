"""How well the cost model predicts what it was not fitted on: `python -m benchmarks.published.fit --validate`.

Four errors for each family: of the rows that were fitted; of rows left out of the fit (each fifth in turn); of the
family as of unknown software, with the general numbers of its device, fitted on all other families; and with nothing
fitted at all (the defaults of `calibration.py`). What is fitted anew without some rows is one Gauss-Newton step away
from the fit with them: no row is priced again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.published.fit import Problem, Sample, Vector, fit, jacobian, newton
from benchmarks.published.groups import Group
from benchmarks.published.machines import fused
from benchmarks.published.score import Score, score
from compiler.cost.calibration import DEFAULT

FOLDS = 5

Pairs = list[tuple[float, float]]


class Fitted:
    """A group's rows at its fitted numbers, with slopes."""

    def __init__(self, group: Group, rows: Sequence[Sample], x: Vector | None = None) -> None:
        self.problem = Problem(group, rows)
        self.x = fit(self.problem) if x is None else x
        self.errors = self.problem.errors(self.x)
        self.slopes = jacobian(self.problem, self.x, self.errors)

    def without(self, left: Vector) -> Vector:
        """Errors of all rows after a fit without some (`left`: true for those)."""
        problem = self.problem
        counted = problem.weights() * ~left
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
        families = np.array([s.row.family for s in self.problem.rows])
        found = np.zeros(len(families))
        for family in set(families):
            left = families == family
            found[left] = self.without(left)[left]
        return found


def defaults(sample: Sample) -> float:
    """A row's error with nothing fitted: only whether attention is fused is known."""
    cal = DEFAULT.changed(fused_attention=float(fused(sample.row)))
    return float(np.log(sample.simulation.seconds(cal) / sample.seconds))


def tables(known: Sequence[Sample], groups: Sequence[Group], fitted: Mapping[str, Vector] | None = None) -> str:
    """Of all families, in Markdown. `fitted`: the numbers of groups that are known."""
    columns: list[dict[str, Pairs]] = [{}, {}, {}, {}]
    for group in groups:
        rows = [s for s in known if group.takes(s.device, s.stack, s.row.family)]
        if not rows:
            continue
        of = Fitted(group, rows, (fitted or {}).get(group.name))
        if group.families:
            if len({s.row.family for s in rows}) > 1:
                _add(columns[2], rows, of.foreign())
            continue
        _add(columns[0], rows, of.errors)
        _add(columns[1], rows, of.folded())
        _add(columns[3], rows, np.array([defaults(s) for s in rows]))
    head = ["family", "rows", "mean", "median", "largest", "bias", "rank"]
    head += ["left out: mean", "rank", "unknown software: mean", "rank", "defaults: mean", "rank"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for family, found in columns[0].items():
        a = score(found)
        cells = [family, str(a.n), f"{a.mean:.1%}", f"{a.median:.1%}", f"{a.largest:.0%}", f"{a.bias:+.1%}", _rank(a)]
        for column in columns[1:]:
            b = score(column[family]) if family in column else None
            cells += [f"{b.mean:.1%}", _rank(b)] if b else ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _add(into: dict[str, Pairs], rows: Sequence[Sample], errors: Vector) -> None:
    for sample, error in zip(rows, errors):
        into.setdefault(sample.row.family, []).append((sample.seconds * float(np.exp(error)), sample.seconds))


def _rank(s: Score) -> str:
    return f"{s.rank:.3f}" if s.rank == s.rank else "–"
