"""How many actions are gone through one by one: beyond these a schedule is refused at once (E0931).

An action is a pass of a stage on a micro-batch. What can be told without that (memory, prices) has no such limit.
"""

from __future__ import annotations

from dsl.data import dataclass
from dsl.diagnostics import Diagnostic
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """most: actions; what: is done with them."""

    most: int
    what: str

    def exceeded(self, groups: int, microbatches: int, actions: int, span: Span | None = None) -> Diagnostic | None:
        """The refusal of a schedule, if it is too long. groups: of devices."""
        if actions <= self.most:
            return None
        stages = f"{groups:,} stages and " if groups > 1 else ""
        message = (
            f"the schedule of {stages}{microbatches:,} micro-batches has {actions:,} actions to be {self.what}, "
            f"the most is {self.most:,}"
        )
        help = "fewer micro-batches" + (", or a shorter axis of stages" if groups > 1 else "")
        return Diagnostic("E0931", message, span, help=help)


CHECKED = LengthLimit(4_000_000, "checked")
"""Where order is seen in simulation only. Long schedules are played with fewer micro-batches then, but with more than
there are stages."""

WRITTEN = LengthLimit(1_000_000, "gone through one by one")
"""Of an order by hand of which no rhythm is seen."""

BEGUN = LengthLimit(1_000_000, "priced")
"""Of the part before a rhythm can have begun, which is known beforehand."""

HELPED = 400_000
"""Segments that a price goes through (`Plan.played`) beyond which nobody asks what would help; each answer is one."""

PRICED = LengthLimit(8_000_000, "priced")
"""Of the part that does not repeat itself."""

DRAWN = LengthLimit(500_000, "drawn")
"""In a trace, or on a page."""

RUN = LengthLimit(20_000_000, "run in a step")

INSTRUCTIONS = 10**9
"""Of a step that is run, all iterations of loops counted: each takes microseconds, so that it would not end (E0931)."""

TURNS = 500_000
"""Of a loop that comes into no rhythm (its messages fall ever further behind) what is played, task by task (E0931)."""

TOLD_APART = 2_000_000
"""Devices of which some may be slow: who has slow peers is found device by device (E0933)."""

WRITERS = 100_000
"""Devices that write parts of a checkpoint, each of which has files of its own (E0933)."""
