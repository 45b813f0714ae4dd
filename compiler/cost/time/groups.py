"""The device groups of a program, and what each runs in a step: all that holds whatever it costs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from compiler.cost.kernels.program import Features, features
from compiler.cost.kernels.work import Collective, Meet, Part, Post, Wait
from compiler.cost.time.order import Plan, plan
from compiler.cost.time.orders import GroupRows
from compiler.cost.time.timeline import Player
from compiler.numbering import Ranks
from compiler.program import FunctionKey, Program
from compiler.schedules import ActionLoop
from dsl.data import dataclass

if TYPE_CHECKING:
    from compiler.cost.time.before import PricedBefore


@dataclass(eq=False)
class Groups:
    """Of one program. before: what is known of programs before it."""

    program: Program
    before: PricedBefore | None = None

    @cached_property
    def features(self) -> Features:
        """What its functions ask of a machine."""
        return features(self.program, self.before.work if self.before is not None else None)

    @cached_property
    def ranks(self) -> Ranks:
        """Which devices they are."""
        return Ranks.of(self.program)

    @property
    def number(self) -> int:
        """How many there are."""
        return self.program.groups

    @cached_property
    def of_groups(self) -> GroupRows:
        """What each of them runs."""
        return GroupRows.of(self.program) if self.before is None else self.before.orders.rows(self.program)

    @property
    def rows(self) -> tuple[tuple[ActionLoop, ...], ...]:
        """Per device group, the loops of its schedule."""
        return self.of_groups.loops

    @cached_property
    def of_class(self) -> tuple[int, ...]:
        """Per device group, the index of its class in the program."""
        where = {g: i for i, c in enumerate(self.program.classes) for g in c.groups}
        return tuple(where[g] for g in range(self.program.groups))

    def parts(self, group: int) -> dict[FunctionKey, Part]:
        """The work of a group's functions."""
        return self.features.parts[self.of_class[group]]

    @property
    def counts(self) -> tuple[dict[FunctionKey, int], ...]:
        """Per device group, how often each function runs in a step."""
        return self.of_groups.counts

    @cached_property
    def plan(self) -> Plan:
        """The order in which their segments can be evaluated. Raises ValueError if they hang."""
        of = self.of_class, self.features.parts, self.program.homes
        return plan(self.rows, *of) if self.before is None else self.before.orders.plan(self.of_groups, *of)

    @cached_property
    def players(self) -> tuple[Player, ...]:
        """A class of devices per group."""
        found = []
        for g, c in enumerate(self.of_class):
            runs = self.ranks.members([g])
            found.append(Player(c, g, runs[0][0], self.ranks.size, runs if len(runs) > 1 else ()))
        return tuple(found)

    @cached_property
    def axes(self) -> tuple[tuple[str, ...], ...]:
        """What the groups' collectives go over, of all of them."""
        works = (node.work for parts in self.features.parts for part in parts.values() for node, _ in part.each())
        return tuple(sorted({work.axes for work in works if isinstance(work, Collective)}))

    @cached_property
    def talks(self) -> tuple[tuple[int, ...], ...]:
        """Per device group, those that it sends to, hears of, or meets."""
        return tuple(tuple(sorted(self._talks(g))) for g in range(self.number))

    def _talks(self, group: int) -> set[int]:
        found: set[int] = set()
        homes = self.program.homes
        for (phase, chunk), part in self.parts(group).items():
            for node, _ in part.each():
                work = node.work
                if isinstance(work, (Wait, Post)):
                    other = work.source if isinstance(work, Wait) else work.to
                    found.add(homes.group(homes.stage(group, phase.at(chunk)) + other))
                elif isinstance(work, Meet):
                    found.update(work.groups)
        return found
