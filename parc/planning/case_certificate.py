"""A certificate of several cases: that of each, on which cluster and with which values, and what is compared."""

from __future__ import annotations

from hashlib import sha256
from math import inf
from typing import Any

from parc.planning.answer import FoundPlan
from parc.planning.certificate import FORMAT, certificate
from parc.planning.compared import CasePlan, ComparedPlans


def compared_certificate(of: ComparedPlans, keep: int) -> dict[str, Any]:
    """Plain values; days are compared as steps are. keep: so many of the best of each case are told in full, where
    nothing fits none."""
    planned = next(c.planned for c in of.cases if c.planned is not None)
    return {
        "format": FORMAT,
        "job": planned.job.name,
        "minimise": "step" if of.minimise == "days" else of.minimise,
        "asked": {
            "params": {n: list(v) for n, v in of.asked.params},
            "devices": list(of.asked.devices),
            "without": list(planned.space.without.names),
        },
        "cases": [_case(of, case, keep) for case in of.cases],
        "best": of.best,
        "gap": of.gap,
        "proved": of.proved,
        "file": sha256(of.found.text.encode("utf-8", "surrogatepass")).hexdigest(),
    }


def _case(of: ComparedPlans, case: CasePlan, keep: int) -> dict[str, Any]:
    found = case.found.certificate if isinstance(case.found, FoundPlan) else None
    if found is None and case.planned is not None:
        found = certificate(case.planned, keep)
    value = case.value(of.minimise)
    return {
        "params": dict(case.params),
        "levels": list(case.levels) or None,
        "devices": case.devices,
        "limit": None if case.limit == inf else case.limit,
        "value": None if value == inf else value,
        "code": case.error.code if case.error is not None else "",
        "certificate": None if found is None else {k: v for k, v in found.items() if k != "file"},
    }
