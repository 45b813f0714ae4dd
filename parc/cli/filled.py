"""What `parc plan` shows of a file whose holes it has filled."""

from __future__ import annotations

import csv
import io
import sys
from typing import Any

from parc.cli.common import color
from parc.cli.tables import amount, seconds, table
from parc.planning.filled_answer import FilledPlan
from parc.planning.filling import FilledValues


def as_json(found: FilledPlan, output: str | None) -> dict[str, Any]:
    """Plain values, with the keys of any plan."""
    return {
        "output": output,
        "strategy": found.strategy,
        "text": found.text,
        "best": [_row(f) for f in found.best],
        "front": [],
        "certificate": found.certificate(),
    }


def _row(of: FilledValues) -> dict[str, Any]:
    values = {h.name: n for h, n in of.values}
    return {"values": values, "step_seconds": of.price.seconds, "needed_bytes": of.price.needed, "bound": of.bound}


def as_csv(found: FilledPlan) -> str:
    """A row for each of the best."""
    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow([*(h.name for h in found.holes), "step_seconds", "needed_bytes", "bound"])
    rows.writerows([*(n for _, n in f.values), f.price.seconds, f.price.needed, f.bound] for f in found.best)
    return made.getvalue()


def shown(found: FilledPlan) -> str:
    """The best, and what was tried."""
    names, of = [h.name for h in found.holes], found.filled
    rows = [[*(f"{n:,}" for _, n in f.values), seconds(f.price.seconds), amount(f.price.needed)] for f in found.best]
    refused, codes = sum(of.refused.values()), f" ({', '.join(sorted(of.refused))})" if of.refused else ""
    lines = [
        table([*names, "step", "memory"], rows, color(sys.stderr), 0),
        f"{of.total:,} values of what is left open: {of.numbers:,} are not as many devices, "
        f"{refused:,} are refused{codes}, {of.unfit:,} do not fit, "
        f"{len(of.fitting):,} fit, {of.not_better:,} are no better, by their bounds",
    ]
    if of.least is None:
        lines.append("proved: no other values are better")
    else:
        lines.append(f"not proved: {of.left:,} were not looked at in time: at most {found.gap:.1%} better")
    return "\n".join(lines)
