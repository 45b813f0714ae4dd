"""What layers take of a device: a data type of its own, for bounds ask for it and searches find it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsl.data import dataclass

SCALED = ("forward", "backward", "rest", "tail", "saved")
"""What fewer rows take less of."""


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Of a micro-batch, on one of the devices that share a layer. rows: of the batch, that it has.

    forward, backward: seconds of the loops at the top, all iterations; rest: of what else both passes do, but for what
    adds gradients up; tail: of that, what comes behind a single loop, and back to it; saved: bytes that the loops keep
    from one to the other. replicas: of the strategy that was lowered. exact: it holds for these very rows alone, for
    messages go beside products that take longer with fewer.
    added: seconds in which a micro-batch's gradients are added to those of the loops, whatever the rows; of a candidate
    (`bounds`), not of what was lowered.
    """

    rows: int
    replicas: int
    forward: float
    backward: float
    rest: float
    tail: float
    saved: float
    exact: bool = False
    added: float = 0.0

    @property
    def both(self) -> float:
        """Seconds of the loops in both passes, and of what they add to gradients."""
        return self.forward + self.backward + self.added

    def covers(self, rows: int) -> bool:
        """Whether it is a bound for so many rows."""
        return self.rows == rows or (not self.exact and self.rows % rows == 0)

    def of(self, rows: int) -> LayerWork:
        """In proportion."""
        scaled: dict[str, Any] = {name: getattr(self, name) * rows / self.rows for name in SCALED}
        return replace(self, rows=rows, **scaled)

    @property
    def any(self) -> LayerWork:
        """What holds whatever is computed again: which of the passes has the work, and what is kept, is not known."""
        return replace(self, forward=0.0, backward=self.forward + self.backward, saved=0.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of an iteration at least: forward, backward, and of both passes together."""

    forward: float = 0.0
    backward: float = 0.0
    both: float = 0.0

    def max(self, forward: float, backward: float, each: bool) -> Pace:
        """With more that is known: of each pass, or of both alone, where which of them has the work is not known."""
        both = max(self.both, forward + backward)
        return (
            Pace(max(self.forward, forward), max(self.backward, backward), both) if each else replace(self, both=both)
        )
