"""Whether another strategy is placed the very same."""

from __future__ import annotations

from compiler.passes.place.questions import Questions, answered_alike
from compiler.passes.place.rules import Rules
from compiler.strategy import SplitRule
from dsl.data import dataclass


@dataclass(slots=True)
class SizesAsked:
    """What placing went by: axes and what they split, and what it asked of their sizes; None if of something else,
    too."""

    axes: tuple[str, ...] = ()
    splits: dict[str, tuple[SplitRule, ...]] | None = None
    questions: Questions | None = None

    def sizes(self, other: Rules) -> dict[str, int] | None:
        """Of the axes of a strategy that differs in sizes alone, by its rules, if what it trains is placed the very
        same; None if not."""
        if self.questions is None:
            return None
        alike = other.axes == self.axes and other.splits == self.splits
        return other.sizes if alike and answered_alike(self.questions, other.sizes) else None
