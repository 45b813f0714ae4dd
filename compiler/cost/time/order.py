"""All device groups' schedules as one list of segments, in an order in which each can be evaluated.

The order follows from the program alone, so it is found once; then a step of a job is one pass over the list, with
whatever durations. That is a tenth of what `engine.play` takes, whose results it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from compiler.cost.kernels.work import Meet
from compiler.cost.time.step import Segment
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


class _Line(NamedTuple):
    """Of the segments of a kind: the cost; waits, posts: first numbers of their messages (that of the micro-batch is
    added), and routes; the all-reduce at its end."""

    cost: int
    waits: tuple[int, ...]
    posts: tuple[tuple[int, int], ...]
    meet: Meet | None


def plan(
    actions: Sequence[Sequence[Action]], classes: Sequence[int], shapes: Sequence[dict[Key, list[Segment]]], groups: int
) -> Plan:
    """`shapes[class][function]`: segments, of which only what they wait for and send counts. Raises ValueError if
    groups hang."""
    found = Plan()
    stride = 1 + max((a.mb for mine in actions for a in mine), default=0)  # a message: its lane and micro-batch
    lanes: dict[tuple[str, int, int], int] = {}
    costs: dict[tuple[int, Key, int], int] = {}
    meets: dict[tuple[str, int], int] = {}
    coming: list[int] = []

    def line(group: int, key: Key, index: int, shape: Segment) -> _Line:
        """What all segments of this kind of a group have in common."""
        cls, stage = classes[group], key[1] * groups + group
        cost = costs.setdefault((cls, key, index), len(costs))
        waits = tuple(stride * lanes.setdefault((w.name, stage + w.source, stage), len(lanes)) for w in shape.waits)
        posts = []
        for i, ready_post in enumerate(shape.posts):
            post = ready_post.post
            lane = lanes.setdefault((post.name, stage, stage + post.to), len(lanes))
            posts.append((stride * lane, len(found.routes)))
            found.routes.append((cost, i, group, stage))
            found.names.append(f"{post.name} to group {(stage + post.to) % groups}")
        return _Line(cost, waits, tuple(posts), shape.meet)

    lines: dict[tuple[int, Key], list[_Line]] = {}
    todo: list[list[tuple[Action, _Line]]] = []
    for group, mine in enumerate(actions):
        of = shapes[classes[group]]
        todo.append([])
        for action in mine:
            key = action[:2]
            if (group, key) not in lines:
                lines[group, key] = [line(group, key, i, s) for i, s in enumerate(of.get(key, ()))]
            todo[-1] += [(action, x) for x in lines[group, key]]
    done = bytearray(stride * len(lanes))  # messages that are posted
    at, after = [0] * groups, [-1] * groups
    waiting: dict[int, list[int]] = {}  # groups that stopped for a message, or (as -1 - meet) an all-reduce
    ready = list(range(groups))
    while ready:
        g = ready.pop()
        mine_, i, before = todo[g], at[g], after[g]
        while i < len(mine_):
            action, (cost, waits, posts_, joins) = mine_[i]
            mb = action.mb
            if before >= 0 and coming[before]:
                waiting.setdefault(-1 - before, []).append(g)
                break
            incoming = tuple([w + mb for w in waits])
            missing = next((w for w in incoming if not done[w]), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(g)
                break
            outgoing = tuple([(m + mb, route) for m, route in posts_])
            for message, _ in outgoing:
                done[message] = 1
                if message in waiting:
                    ready += waiting.pop(message)
            meet = -1
            if joins is not None:
                meet = meets.setdefault((joins.key, mb), len(meets))
                if meet == len(coming):
                    coming.append(len(joins.groups))
                    found.meets.append((cost, joins.key))
                coming[meet] -= 1
                if not coming[meet]:
                    ready += waiting.pop(-1 - meet, ())
            found.steps.append(Step(g, cost, incoming, outgoing, before, meet, action))
            before = meet
            i += 1
        at[g], after[g] = i, before
    if any(a < len(t) for a, t in zip(at, todo)):
        raise ValueError("device groups wait for what never comes")
    found.costs, found.messages = list(costs), len(done)
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
