"""Segments of all device groups, once or again and again: what a plan consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compiler.schedules import Action
from dsl.data import dataclass


class PlanStep(NamedTuple):
    """A segment of an action on the devices of a class: a whole group's (`Plan.of_classes` splits them).

    line: index among the plan's; waits: messages; posts: (message, index among the plan's `routes`); after, meet: the
    all-reduce between groups that must be over before it starts, and that it comes to at its end, or -1; others: how
    many classes of the group begin it after this one.
    """

    cls: int
    line: int
    waits: tuple[int, ...]
    posts: tuple[tuple[int, int], ...]
    after: int
    meet: int
    others: int
    action: Action


class StretchMessages(NamedTuple):
    """Of steps that repeat themselves. sender: of each lane, the class; flying: what is on its way after the first
    time, as (message, class that waits); edges: (class, message, class)."""

    sender: dict[int, int]
    flying: list[tuple[int, int]]
    edges: list[tuple[int, int, int]]


@dataclass(eq=False)
class Stretch:
    """`times` times the same steps, each time on micro-batches that come `by` later; `steps`: those of the first."""

    steps: Sequence[PlanStep]
    times: int = 1
    by: int = 0
    _messages: StretchMessages | None = None

    def messages(self, lanes: int) -> StretchMessages:
        """Who sends what to whom; the same in all passes. lanes: of the plan."""
        if self._messages is None:
            self._messages = _messages(self.steps, lanes, self.by * lanes)
        return self._messages


def _messages(steps: Sequence[PlanStep], lanes: int, later: int) -> StretchMessages:
    """later: by how much the numbers of messages are higher the next time."""
    sender: dict[int, int] = {}
    sent: dict[int, int] = {}  # of those that come in the place of each other, the last
    for step in steps:
        for message, _ in step.posts:
            sender[message % lanes] = step.cls
            sent[message % later] = message
    edges, flying = [], []
    for step in steps:
        for message in step.waits:
            edges.append((sender[message % lanes], message, step.cls))
            on_its_way = range(message + later, sent[message % later] + 1, later)
            flying += [(each, step.cls) for each in on_its_way]
    return StretchMessages(sender, flying, edges)
