"""Whether another strategy is placed the very same."""

from __future__ import annotations

from compiler.model import Job
from compiler.passes.place.questions import Questions, answered_alike
from compiler.passes.place.rules import Rules
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics


@dataclass(slots=True)
class SizesAsked:
    """What placing went by: the rules, and what it asked of the sizes of their axes; None if of something else, too."""

    rules: Rules | None = None
    questions: Questions | None = None

    def sizes(self, job: Job) -> dict[str, int] | None:
        """Of the axes of a job whose strategy differs in sizes alone, if what it trains is placed the very same; None
        if not."""
        if self.rules is None or self.questions is None:
            return None
        other = Rules(job, Diagnostics())
        alike = other.axes == self.rules.axes and other.splits == self.rules.splits
        return other.sizes if alike and answered_alike(self.questions, other.sizes) else None
