"""All device groups' schedules as one list of segments, in an order in which each can be evaluated.

The order follows from the program alone, so it is found once; then a step of a job is one pass over the list, with
whatever durations. That is a tenth of what `engine.play` takes, whose results it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from compiler.cost.segments import Segment
from compiler.schedules import Action

Key = tuple[str, int]
"""(function, chunk)."""


class Step(NamedTuple):
    """A segment of an action of a device group.

    cost: index among the plan's `costs`; waits: messages; posts: (message, index among the plan's `routes`); after,
    meet: the all-reduce between groups that must be over before it starts, and that it comes to at its end, or -1.
    """

    group: int
    cost: int
    waits: tuple[int, ...]
    posts: tuple[tuple[int, int], ...]
    after: int
    meet: int
    action: Action


@dataclass(slots=True)
class Plan:
    """steps in order. costs: (program class, function, segment); routes: (cost, post, group, its virtual stage);
    names: of the routes; meets: (cost, name)."""

    steps: list[Step] = field(default_factory=list)
    costs: list[tuple[int, Key, int]] = field(default_factory=list)
    routes: list[tuple[int, int, int, int]] = field(default_factory=list)
    meets: list[tuple[int, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    messages: int = 0


@dataclass(slots=True)
class Result:
    """Picoseconds. ends: of the groups; starts, stops: of the steps; sent: (route, start, end) of the messages in the
    order of the steps; came, over: when the last one comes to each all-reduce between groups, and when it is over."""

    ends: list[int]
    starts: list[int]
    stops: list[int]
    sent: list[tuple[int, int, int]]
    came: list[int]
    over: list[int]


def plan(
    actions: Sequence[Sequence[Action]], classes: Sequence[int], shapes: Sequence[dict[Key, list[Segment]]], groups: int
) -> Plan:
    """`shapes[class][function]`: segments, of which only what they wait for and send counts. Raises ValueError if
    groups hang."""
    found = Plan()
    costs: dict[tuple[int, Key, int], int] = {}
    routes: dict[tuple[int, int, int, int], int] = {}
    messages: dict[tuple[str, int, int, int], int] = {}
    meets: dict[tuple[str, int], int] = {}
    coming: list[int] = []
    done: set[int] = set()  # messages that are posted
    todo: list[list[tuple[Action, int, Segment]]] = []
    for group, mine in enumerate(actions):
        of = shapes[classes[group]]
        todo.append([(a, i, s) for a in mine for i, s in enumerate(of.get(a[:2], ()))])
    at, after = [0] * groups, [-1] * groups
    sleepers: dict[tuple[str, int], list[int]] = {}
    ready = list(range(groups))
    while ready:
        g = ready.pop()
        while at[g] < len(todo[g]):
            action, index, shape = todo[g][at[g]]
            if after[g] >= 0 and coming[after[g]]:
                sleepers.setdefault(("meet", after[g]), []).append(g)
                break
            stage = action.chunk * groups + g
            waits = tuple(
                messages.setdefault((w.name, stage + w.source, stage, action.mb), len(messages)) for w in shape.waits
            )
            missing = next((w for w in waits if w not in done), None)
            if missing is not None:
                sleepers.setdefault(("message", missing), []).append(g)
                break
            cost_key = (classes[g], action[:2], index)
            cost = costs.setdefault(cost_key, len(costs))
            posts = []
            for i, ready_post in enumerate(shape.posts):
                post = ready_post.post
                message = messages.setdefault((post.name, stage, stage + post.to, action.mb), len(messages))
                route = routes.setdefault((cost, i, g, stage), len(routes))
                if route == len(found.names):
                    found.names.append(f"{post.name} to group {(stage + post.to) % groups}")
                posts.append((message, route))
                done.add(message)
                ready += sleepers.pop(("message", message), ())
            meet = -1
            if shape.meet is not None:
                meet = meets.setdefault((shape.meet.key, action.mb), len(meets))
                if meet == len(coming):
                    coming.append(len(shape.meet.groups))
                    found.meets.append((cost, shape.meet.key))
                coming[meet] -= 1
                if not coming[meet]:
                    ready += sleepers.pop(("meet", meet), ())
            found.steps.append(Step(g, cost, waits, tuple(posts), after[g], meet, action))
            after[g] = meet
            at[g] += 1
    if any(a < len(t) for a, t in zip(at, todo)):
        raise ValueError("device groups wait for what never comes")
    found.costs, found.routes, found.messages = list(costs), list(routes), len(messages)
    return found


def evaluate(
    found: Plan,
    groups: int,
    durations: Sequence[int],
    early: Sequence[int],
    posts: Sequence[int],
    meets: Sequence[int],
    blocking: bool,
) -> Result:
    """One pass. durations: of costs; early: of routes, how long before its segment's end a message is ready; posts:
    of routes, how long it takes; meets: how long each all-reduce between groups takes."""
    now, link = [0] * groups, [0] * groups
    arrived = [0] * found.messages
    came = [0] * len(meets)
    starts: list[int] = []
    stops: list[int] = []
    sent: list[tuple[int, int, int]] = []
    for group, cost, waits, outgoing, after, meet, _ in found.steps:
        start = now[group] if after < 0 else came[after] + meets[after]
        for message in waits:
            if arrived[message] > start:
                start = arrived[message]
        end = start + durations[cost]
        starts.append(start)
        stops.append(end)
        made = end
        for message, route in outgoing:
            begin = made - early[route]
            if link[group] > begin:
                begin = link[group]
            link[group] = arrived[message] = gone = begin + posts[route]
            sent.append((route, begin, gone))
            if blocking and gone > end:
                end = gone
        if meet >= 0 and end > came[meet]:
            came[meet] = end
        now[group] = end
    return Result(now, starts, stops, sent, came, [c + d for c, d in zip(came, meets)])
