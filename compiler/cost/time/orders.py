"""What the schedules of programs before have shown: their loops, and the order in which all groups' segments come.

Both hang on the order of passes, on stages, chunks and micro-batches, and on what functions wait for and send; not on
how large that is, or how long it takes. So strategies that differ in other things share them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compiler.cost.kernels.work import Part
from compiler.cost.time.order import OrderPlanner, Plan
from compiler.homes import Homes
from compiler.memory.peak import Rounds
from compiler.program import FunctionKey, Program
from compiler.schedules import ActionLoop, Turn, loops
from dsl.data import dataclass

KEPT = 48
"""Schedules that are remembered, those that were asked for last."""

LARGEST = 200_000
"""Steps in the orders of all of them."""


@dataclass(frozen=True, eq=False)
class GroupRows:
    """Of a program's device groups: the loops of each; what these run; how often each function runs."""

    loops: tuple[tuple[ActionLoop, ...], ...]
    rounds: tuple[Rounds, ...]
    counts: tuple[dict[FunctionKey, int], ...]

    @staticmethod
    def of(program: Program) -> GroupRows:
        """Of its schedules."""
        classes = {g: c for c in program.classes for g in c.groups}
        found = tuple([loops(classes[g].schedule, g, Turn.of(program)) for g in range(program.groups)])
        rounds = tuple([tuple([(loop.keys, loop.count) for loop in row]) for row in found])
        return GroupRows(found, rounds, tuple([_counts(of) for of in rounds]))


def _counts(rounds: Rounds) -> dict[FunctionKey, int]:
    found: dict[FunctionKey, int] = {}
    for keys, count in rounds:
        for key in keys:
            found[key] = found.get(key, 0) + count
    return found


class _Known(NamedTuple):
    """The rows of a schedule, and the orders of its groups, by what segments wait for and send."""

    rows: GroupRows
    plans: dict[tuple[object, ...], Plan]


class KnownOrders:
    """Of programs that are priced one after the other."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], _Known] = {}
        self.of_rows: dict[int, _Known] = {}

    def rows(self, program: Program) -> GroupRows:
        """Those of a program."""
        key = (Turn.of(program), *[(c.groups, c.schedule) for c in program.classes])
        found = self.known.pop(key, None)
        if found is None:
            while len(self.known) >= KEPT or sum(map(_steps, self.known.values())) > LARGEST:
                gone = self.known.pop(next(iter(self.known)))
                del self.of_rows[id(gone.rows)]
            found = _Known(GroupRows.of(program), {})
            self.of_rows[id(found.rows)] = found
        self.known[key] = found
        return found.rows

    def plan(
        self,
        rows: GroupRows,
        classes: Sequence[int],
        parts: Sequence[Mapping[FunctionKey, Part]],
        homes: Homes,
    ) -> Plan:
        """As `order.plan`, of a program with these rows."""
        planner, known = OrderPlanner(rows.loops, classes, parts, homes), self.of_rows.get(id(rows))
        if known is None:
            return planner.played()
        shape = _shape(planner.found)
        if shape in known.plans:
            return _as_in(planner.found, known.plans[shape])
        found = known.plans[shape] = planner.played()
        return found


def _shape(begun: Plan) -> tuple[object, ...]:
    """All that the order hangs on besides the rows."""
    lines = [
        (n.group, n.key, n.at, n.waits, n.posts, n.meet and (n.meet.key, n.meet.groups), n.met) for n in begun.lines
    ]
    return (begun.lanes, *lines)


def _as_in(begun: Plan, other: Plan) -> Plan:
    """The plan, in the order of another of the same rows and shape."""
    begun.stretches, begun.window, begun.first = other.stretches, other.window, other.first
    for line in other.first:
        assert (meet := begun.lines[line].meet) is not None
        begun.meets.append(meet)
    return begun


def _steps(known: _Known) -> int:
    return sum(len(stretch.steps) for plan in known.plans.values() for stretch in plan.stretches)
