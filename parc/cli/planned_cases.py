"""What `parc plan` shows of several numbers of devices, and of parameters with several values."""

from __future__ import annotations

import csv
import io
import sys
from typing import Any

from parc.cli.common import color
from parc.cli.tables import table
from parc.planning.answer import FoundPlan
from parc.planning.compared import CasePlan, ComparedPlans
from parc.planning.filled_answer import FilledPlan

DAY = 86400.0


def as_json(of: ComparedPlans, tokens: float | None) -> dict[str, Any]:
    """What is told besides the best case's plan."""
    front = of.front
    rows = [
        {"params": dict(case.params), **_figures(case, tokens), "front": at in front, "strategy": _lines(case)}
        for at, case in enumerate(of.cases)
    ]
    told = {"minimise": of.minimise, "best": of.best, "gap": of.gap, "proved": of.proved}
    return {"cases": rows, "compared": told, **({"certificate": of.certificate} if of.certificate else {})}


def _figures(case: CasePlan, tokens: float | None) -> dict[str, Any]:
    price, error = case.price, case.error
    days = tokens / price.tokens * price.seconds / DAY if tokens and price is not None and price.tokens else None
    return {
        "devices": case.devices or None,
        "samples": case.samples or None,
        "step_seconds": price.seconds if price is not None else None,
        "needed_bytes": price.needed if price is not None else None,
        "tokens": price.tokens if price is not None else None,
        "days": days,
        "device_days": None if days is None else days * case.devices,
        "least": case.least,
        "code": error.code if error is not None else "",
        "message": error.message if error is not None else "",
    }


def _lines(case: CasePlan) -> list[str]:
    """The statements of its plan; of numbers that were left open these."""
    if isinstance(case.found, FoundPlan):
        from parc.planning.refining import plain_lines
        from parc.planning.written import lines_of

        found = case.found
        if found.refined is not None:
            return plain_lines(found.planned, found.refined)
        return lines_of(found.planned.space, found.best[0].candidate)
    return [f"{h.name} = {n}" for h, n in case.found.best[0].values] if isinstance(case.found, FilledPlan) else []


def as_csv(of: ComparedPlans, tokens: float | None) -> str:
    """A row for each case."""
    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    names = [name for name, _ in of.cases[0].params]
    front = of.front
    rows.writerow([*names, *_figures(of.cases[0], tokens), "front", "strategy"])
    for at, case in enumerate(of.cases):
        figures = ["" if v is None else v for v in _figures(case, tokens).values()]
        rows.writerow([*(v for _, v in case.params), *figures, str(at in front).lower(), "; ".join(_lines(case))])
    return made.getvalue()


def shown(of: ComparedPlans, tokens: float | None) -> str:
    """All cases, the best marked, and what is proved of them together."""
    head, rows = of.table(tokens)
    return f"{of.told}\n{table(head, rows, color(sys.stderr), 0, {len(head) - 1})}"
