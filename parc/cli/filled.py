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

DAY = 86400.0


def as_json(found: FilledPlan, tokens: float | None, output: str | None) -> dict[str, Any]:
    """Plain values, with the keys of any plan. tokens: that are to be trained."""
    return {
        "output": output,
        "strategy": found.strategy,
        "text": found.text,
        "best": [_row(f, tokens) for f in found.best],
        "front": [],
        "certificate": found.certificate(),
    }


def _row(of: FilledValues, tokens: float | None) -> dict[str, Any]:
    values = {h.name: n for h, n in of.values}
    price = {"step_seconds": of.price.seconds, "needed_bytes": of.price.needed}
    return {"values": values, **price, "days": _days(of, tokens), "bound": of.bound}


def _days(of: FilledValues, tokens: float | None) -> float | None:
    """Until so many tokens are trained, without failures."""
    return tokens / of.price.tokens * of.price.seconds / DAY if tokens and of.price.tokens else None


def as_csv(found: FilledPlan, tokens: float | None) -> str:
    """A row for each of the best."""
    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow([*(h.name for h in found.holes), "step_seconds", "needed_bytes", "days", "bound"])
    for f in found.best:
        days = _days(f, tokens)
        price = [f.price.seconds, f.price.needed, "" if days is None else days, f.bound]
        rows.writerow([*(n for _, n in f.values), *price])
    return made.getvalue()


def shown(found: FilledPlan, tokens: float | None) -> str:
    """The best, and what was tried."""
    names, of = [h.name for h in found.holes], found.filled
    rows = []
    for f in found.best:
        days = [f"{_days(f, tokens) or 0:,.1f}"] if tokens else []
        rows.append([*(f"{n:,}" for _, n in f.values), seconds(f.price.seconds), amount(f.price.needed), *days])
    same = f"{of.same:,} say the same as others, " if of.same else ""
    refused, codes = sum(of.refused.values()), f" ({', '.join(sorted(of.refused))})" if of.refused else ""
    lines = [
        table([*names, "step", "memory", *(["days"] if tokens else [])], rows, color(sys.stderr), 0),
        f"{of.total:,} values of what is left open: {of.numbers:,} are not as many devices, {same}"
        f"{refused:,} are refused{codes}, {of.unfit:,} do not fit, "
        f"{len(of.fitting):,} fit, {of.not_better:,} are no better, by their bounds",
    ]
    if of.least is None:
        lines.append("proved: no other values are better")
    else:
        lines.append(f"not proved: {of.left:,} were not looked at in time: at most {found.gap:.1%} better")
    return "\n".join(lines)
