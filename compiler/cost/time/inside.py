"""How long classes of devices are inside of activations in a step, added up while it is played."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.cost.time.clock import Durations, Moments
from compiler.cost.time.order import Plan
from compiler.cost.time.stretch import PlanStep
from compiler.program import FunctionPhase


class Inside:
    """Picoseconds per class of the plan. spent: in activations and all-reduces between groups, with what is waited for
    in them; update: in the optimizer's."""

    def __init__(self, plan: Plan, durations: Durations) -> None:
        self.lines, self.durations = plan.lines, durations
        self.spent, self.update = [0] * plan.classes, [0] * plan.classes
        self.left = [0] * plan.classes  # when each went on from what it did before

    def round(self, steps: Sequence[PlanStep], by: int, played: Moments, came: Sequence[int]) -> None:
        """Steps were played."""
        spent, left, sent = self.spent, self.left, iter(played.gone)
        for step, start, stop in zip(steps, played.starts, played.stops):
            cls = step.cls
            spent[cls] += stop - start
            if step.after >= 0:
                spent[cls] += came[step.after] + self.durations.meets[step.after] - left[cls]
            if self.lines[step.line].key[0] == FunctionPhase.UPDATE:
                self.update[cls] += stop - start
            gone = [next(sent) for _ in step.posts]
            left[cls] = max([stop, *gone]) if self.durations.blocking else stop

    def mark(self) -> Sequence[int]:
        """What is spent so far."""
        return self.spent[:]

    def repeat(self, mark: Sequence[int], times: int) -> None:
        """What was spent since then is spent so many times more: in loops, and the update is in none."""
        self.spent = [now + times * (now - then) for now, then in zip(self.spent, mark)]
