"""Rules of a strategy that change nothing are errors: they say what their author believes.

A tactic may hold rules that do not apply to a model: of those of one kind that an application of it brings, some must.
"""

from __future__ import annotations

from collections.abc import Iterable

from compiler.strategy import LayoutRule, OffloadRule, RecomputeRule, ReduceRule, RunRule, ShardRule, SplitRule
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics, Note
from dsl.source import NOWHERE

Rule = SplitRule | ShardRule | ReduceRule | LayoutRule | RecomputeRule | OffloadRule | RunRule


@dataclass(frozen=True, slots=True)
class Idle:
    """Why a rule changes nothing. `said`: it would, had not other rules said all of it before."""

    message: str
    help: str
    notes: tuple[Note, ...] = ()
    said: bool = False


def report_idle(rows: Iterable[tuple[Rule, object, Idle | None]], diagnostics: Diagnostics) -> None:
    """Rows of a rule, its kind, and why it is idle, if it is. One that the strategy itself states must not be.

    A rule that stands nowhere was read from the text of a stage: it was looked at where it was written, which is known
    there alone (which tactic brought it).
    """
    rows = list(rows)
    useful = {(r.by, kind) for r, kind, idle in rows if idle is None or idle.said}
    somewhere = {(r.span, kind) for r, kind, idle in rows if idle is None}  # of a loop that is cut, in some pieces
    for r, kind, idle in rows:
        if (
            idle is None
            or r.span == NOWHERE
            or (r.span, kind) in somewhere
            or (r.by is not None and (r.by, kind) in useful)
        ):
            continue
        notes = [("by this rule of the tactic", r.span)] if r.by not in (None, r.span) else []
        diagnostics.error("E0542", idle.message, r.by or r.span, notes=[*notes, *idle.notes], help=idle.help)
