"""How long a schedule is for whoever plays it: refused at once where too much comes before any rhythm."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.limits import BEGUN
from compiler.schedules import ActionLoop
from dsl.diagnostics import ParcError

RHYTHM = 3
"""Times as many micro-batches as there are groups: what a rhythm takes to begin."""


def require_short(rows: Sequence[Sequence[ActionLoop]]) -> None:
    """Raises ParcError (E0931) where more has to be played one by one than is worth it. rows: loops of each group."""
    mbs, few = microbatches(rows), RHYTHM * (len(rows) + 4)
    lengths = [sum(loop.count * len(loop.steps) for loop in row) for row in rows]
    found = BEGUN.exceeded(len(rows), mbs, sum(n * min(mbs, few) // mbs for n in lengths))
    if found is not None:
        raise ParcError(found)


def microbatches(rows: Sequence[Sequence[ActionLoop]]) -> int:
    """How many a step has."""
    return 1 + max((a.mb + (loop.count - 1) * loop.by for row in rows for loop in row for a in loop.steps), default=0)
