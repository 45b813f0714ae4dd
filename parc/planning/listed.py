"""Weights whose gradients may stay lists of rows (`compiler/passes/sparse.py`), whatever splits them: no bound knows
how large these are, or that devices add them up."""

from __future__ import annotations

from compiler.model import Job
from compiler.ops.index import Take
from compiler.walk import bodies
from compiler.zero_preserving import why_not


def listed(job: Job) -> frozenset[str]:
    """By name: what rows may be taken of, if its optimizer leaves others alone."""
    takes = [n for body in bodies(job.model.graph) for n in body.nodes if isinstance(n.op, Take)]
    tables = [frozenset(n.inputs[0].type.names) for n in takes]
    updates = {u.weight: u for u in job.updates}
    found = set[str]()
    for w in job.model.trained:
        names = {*w.value.type.names}
        if any(t <= names for t in tables) and any(why_not(updates[w.name], d) is None for d in names):
            found.add(w.name)
    return frozenset(found)
