"""Two jobs' costs beside each other: by how much they differ, and what makes the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.cost.price.kinds import Over
from compiler.cost.time.breakdown import unhidden
from dsl.data import dataclass
from parc.estimate import Estimate
from parc.units import amount, seconds

EQUAL = 0.005
"""Relative difference below which two figures are called the same."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`after` against `before`.

    step, memory: relative differences of the step's time and of what the fullest device needs (0.4: 40% more).
    causes: what a step of the slowest devices is spent on -> seconds more (or less) of it; most of all comes first.
    """

    before: Estimate
    after: Estimate
    step: float
    memory: float
    causes: dict[str, float]

    @property
    def equal(self) -> bool:
        """Whether the steps take the same time."""
        return abs(self.step) < EQUAL

    @property
    def equal_memory(self) -> bool:
        """Whether the fullest devices need as much."""
        return abs(self.memory) < EQUAL

    @property
    def cause(self) -> tuple[str, float] | None:
        """What changes most in the direction in which the step does; None where the steps take the same time."""
        if self.equal:
            return None
        along = [(what, s) for what, s in self.causes.items() if (s > 0) == (self.step > 0) and s]
        return along[0] if along else None

    def as_json(self) -> dict[str, Any]:
        """Plain values: relative differences, seconds."""
        return {"step": self.step, "memory": self.memory, "causes": self.causes}


def compare(before: Estimate, after: Estimate) -> Comparison:
    """Of two estimates."""
    a = before.timeline.candidates
    called = {unhidden(x): unhidden(name) for x, name in called_alike(before, after).items()}
    b = {called.get(what, what): s for what, s in after.timeline.candidates.items()}
    found = {what: b.get(what, 0.0) - a.get(what, 0.0) for what in {**a, **b}}
    causes = dict(sorted(found.items(), key=lambda item: -abs(item[1])))
    step = relative(before.timeline.step_seconds, after.timeline.step_seconds)
    return Comparison(before, after, step, relative(before.needed, after.needed), causes)


def called_alike(before: Estimate, after: Estimate) -> dict[Over, Over]:
    """Axes of `after` -> as `before` calls them: in another mesh `dp+tp` may be `tp+dp`."""
    a, b = before.timeline, after.timeline
    known = {(x.way, frozenset(x.axes)): x for x in (*a.exposed_by_axis, *a.traffic)}
    return {x: known.get((x.way, frozenset(x.axes)), x) for x in (*b.exposed_by_axis, *b.traffic)}


def change(before: float, after: float) -> str:
    """`+12.0%`; nothing where there is nothing to compare with."""
    return f"{after / before - 1:+.1%}" if before and abs(after / before - 1) < 100 else ""


def relative(before: float, after: float) -> float:
    """By how much of `before` it changes; 0 where that is nothing."""
    return after / before - 1 if before else 0.0


def verdict(names: Sequence[str], compared: Comparison) -> str:
    """Which takes longer, why, and who needs more memory: one sentence."""
    a, b = names
    if compared.equal:
        says = f"{b} takes as long as {a}"
    elif compared.step > 0:
        says = f"{b} takes {compared.step:.0%} longer than {a}"
    else:
        says = f"{b} takes {-compared.step:.0%} less time than {a}"
    if compared.cause is not None:
        what, change = compared.cause
        says += f", most of all for {what} ({'+' if change > 0 else '-'}{seconds(abs(change))})"
    more = compared.after.needed - compared.before.needed
    if not compared.equal_memory:
        says += f"; it needs {amount(abs(more))} of device memory {'more' if more > 0 else 'less'}"
    after = compared.after
    if after.needed > after.capacity:
        says += ", which there is not" if more > 0 and not compared.equal_memory else "; it does not fit"
    return f"{says}."
