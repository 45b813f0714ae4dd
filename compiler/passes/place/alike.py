"""Whether another strategy is placed the very same."""

from __future__ import annotations

from dataclasses import field

from compiler.passes.place.before import ChosenBefore
from compiler.passes.place.questions import Questions
from compiler.passes.place.rules import Rules
from compiler.strategy import SplitRule
from dsl.data import dataclass


@dataclass(slots=True)
class SizesAsked:
    """What placing went by: axes and what they split, and what it asked of their sizes; None if of something else,
    too. before: what was chosen in placings before; this one adds to it."""

    before: ChosenBefore = field(default_factory=ChosenBefore)
    axes: tuple[str, ...] = ()
    splits: dict[str, tuple[SplitRule, ...]] | None = None
    questions: Questions | None = None

    def sizes(self, other: Rules) -> dict[str, int] | None:
        """Of the axes of a strategy that differs in sizes alone, by its rules, if what it trains is placed the very
        same; None if not."""
        if self.questions is None:
            return None
        if other.axes != self.axes or other.splits != self.splits:
            return None
        alike = all([other.answer(question) == known for question, known in self.questions.items()])
        return other.sizes if alike else None
