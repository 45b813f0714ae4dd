"""How far the step is that this process runs: numbers that whoever shows a bar reads meanwhile, in another thread.

A step of millions of passes takes minutes, and is told of as a whole only when it has ended.
"""

from __future__ import annotations

from dsl.data import dataclass


@dataclass(slots=True)
class Going:
    """Passes that have been begun in this step, and all there are: those of all groups of devices together, rank by
    rank those of each device."""

    begun: int = 0
    all: int = 0

    def start(self, passes: int) -> None:
        """A step of so many passes begins."""
        self.begun, self.all = 0, passes


NOW = Going()
"""The step that is run now, or was last. Nothing is computed from it."""
