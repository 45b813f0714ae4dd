"""All device groups' schedules as one list of segments, in an order in which each can be evaluated.

The order follows from the program alone, so it is found once; then a step of a job is one pass over the list, with
whatever durations.

When the classes of a group end a segment is linear over (max, +) in when they begin it: each ends at the maximum, over
the classes, of a beginning plus a constant, since all that happens inside are sums and maxima (`Row`). With one class
that is its duration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from compiler.cost.kernels.work import Meet, Part
from compiler.cost.time.tasks import Cut, cuts
from compiler.schedules import Action

Key = tuple[str, int]
"""(function, chunk)."""

Row = tuple[tuple[int, int], ...]
"""Pairs (class, picoseconds): something happens at the maximum of the class's beginning plus that."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Of a segment, per class of the group: when it ends, when each of its messages is ready, and how long it works."""

    ends: tuple[Row, ...]
    posts: tuple[tuple[Row, ...], ...]
    busy: tuple[int, ...]


class Step(NamedTuple):
    """A segment of an action of a device group.

    line: index among the plan's; waits: messages; posts: (message, index among the plan's `routes`); after, meet: the
    all-reduce between groups that must be over before it starts, and that it comes to at its end, or -1.
    """

    group: int
    line: int
    waits: tuple[int, ...]
    posts: tuple[tuple[int, int], ...]
    after: int
    meet: int
    action: Action


class Line(NamedTuple):
    """What all segments of a kind of a group have in common.

    at: number of the segment in its function; waits, posts: first numbers of their messages (that of the micro-batch is
    added), and routes; sources: the groups that the messages come from; met: the first group of the all-reduce that
    must be over before it starts, or -1.
    """

    group: int
    key: Key
    at: int
    cut: Cut
    waits: tuple[int, ...]
    sources: tuple[int, ...]
    posts: tuple[tuple[int, int], ...]
    met: int

    @property
    def meet(self) -> Meet | None:
        """The all-reduce at its end."""
        return self.cut.meet


class Route(NamedTuple):
    """A message that a line's segments send to a group; name: for people."""

    line: int
    bytes: int
    group: int
    to: int
    name: str


@dataclass(slots=True)
class Plan:
    """steps in order; meets: of each all-reduce between groups, in the order in which the first comes to them."""

    groups: int
    steps: list[Step] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    meets: list[Meet] = field(default_factory=list)
    messages: int = 0


@dataclass(slots=True)
class Result:
    """Picoseconds. ends: of the classes of each group; starts, stops: of the steps, by class; sent: (route, starts,
    ends) of the messages in the order of the steps; came, over: when the last one comes to each all-reduce between
    groups, and when it is over, by class of its first group."""

    ends: list[list[int]]
    starts: list[list[int]]
    stops: list[list[int]]
    sent: list[tuple[int, list[int], list[int]]]
    came: list[list[int]]
    over: list[list[int]]


def plan(
    actions: Sequence[Sequence[Action]], classes: Sequence[int], parts: Sequence[Mapping[Key, Part]], groups: int
) -> Plan:
    """`parts[class][function]`: work, of which only what it waits for and sends counts. Raises ValueError if groups
    hang."""
    found = Plan(groups)
    stride = 1 + max((a.mb for mine in actions for a in mine), default=0)  # a message: its lane and micro-batch
    lanes: dict[tuple[str, int, int], int] = {}
    shapes: dict[tuple[int, Key], tuple[Cut, ...]] = {}
    meets: dict[tuple[str, int], int] = {}
    coming: list[int] = []

    def line(group: int, key: Key, index: int, cut: Cut, met: int) -> int:
        stage = key[1] * groups + group
        waits = tuple(stride * lanes.setdefault((w.name, stage + w.source, stage), len(lanes)) for w in cut.waits)
        posts = []
        for post, _ in cut.posts:
            lane = lanes.setdefault((post.name, stage, stage + post.to), len(lanes))
            posts.append((stride * lane, len(found.routes)))
            to = (stage + post.to) % groups
            found.routes.append(Route(len(found.lines), post.bytes, group, to, f"{post.name} to group {to}"))
        sources = tuple((stage + w.source) % groups for w in cut.waits)
        found.lines.append(Line(group, key, index, cut, waits, sources, tuple(posts), met))
        return len(found.lines) - 1

    lines: dict[tuple[int, Key], list[int]] = {}
    todo: list[list[tuple[Action, int]]] = []
    for group, mine in enumerate(actions):
        cls = classes[group]
        todo.append([])
        for action in mine:
            key = action[:2]
            if (group, key) not in lines:
                if (cls, key) not in shapes:
                    shapes[cls, key] = cuts(parts[cls][key]) if key in parts[cls] else ()
                lines[group, key], met = [], -1
                for i, cut in enumerate(shapes[cls, key]):
                    lines[group, key].append(line(group, key, i, cut, met))
                    met = min(cut.meet.groups) if cut.meet is not None else -1
            todo[-1] += [(action, x) for x in lines[group, key]]
    done = bytearray(stride * len(lanes))  # messages that are posted
    at, after = [0] * groups, [-1] * groups
    waiting: dict[int, list[int]] = {}  # groups that stopped for a message, or (as -1 - meet) an all-reduce
    ready = list(range(groups))
    while ready:
        g = ready.pop()
        mine_, i, before = todo[g], at[g], after[g]
        while i < len(mine_):
            action, number = mine_[i]
            of, mb = found.lines[number], action.mb
            if before >= 0 and coming[before]:
                waiting.setdefault(-1 - before, []).append(g)
                break
            incoming = tuple([w + mb for w in of.waits])
            missing = next((w for w in incoming if not done[w]), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(g)
                break
            outgoing = tuple([(m + mb, route) for m, route in of.posts])
            for message, _ in outgoing:
                done[message] = 1
                if message in waiting:
                    ready += waiting.pop(message)
            meet, joins = -1, of.meet
            if joins is not None:
                meet = meets.setdefault((joins.key, mb), len(meets))
                if meet == len(coming):
                    coming.append(len(joins.groups))
                    found.meets.append(joins)
                coming[meet] -= 1
                if not coming[meet]:
                    ready += waiting.pop(-1 - meet, ())
            found.steps.append(Step(g, number, incoming, outgoing, before, meet, action))
            before = meet
            i += 1
        at[g], after[g] = i, before
    if any(a < len(t) for a, t in zip(at, todo)):
        raise ValueError("device groups wait for what never comes")
    found.messages = len(done)
    return found


@dataclass(frozen=True, slots=True)
class Peers:
    """Per class of a line's group, the indices of the classes with its coordinates: among those that each of its
    messages comes from, of the first group of the all-reduce before it, and of that at its end."""

    sources: tuple[tuple[int, ...], ...]
    met: tuple[int, ...]
    meets: tuple[int, ...]


ALONE = (0,)


def evaluate(
    found: Plan,
    timings: Sequence[Timing],
    posts: Sequence[int],
    meets: Sequence[int],
    blocking: bool,
    peers: Sequence[Peers] | None = None,
    counts: Sequence[int] | None = None,
) -> Result:
    """One pass. timings: of lines; posts: of routes, how long each takes; meets: how long each all-reduce between
    groups takes; peers: of lines, and counts: classes of each group, if not all devices of a group are alike."""
    sizes = counts or [1] * found.groups
    now, link = [[0] * n for n in sizes], [[0] * n for n in sizes]
    nothing: list[int] = []
    arrived = [nothing] * found.messages
    came = [[0] * sizes[min(meet.groups)] for meet in found.meets]
    starts: list[list[int]] = []
    stops: list[list[int]] = []
    sent: list[tuple[int, list[int], list[int]]] = []
    for group, line, waits, outgoing, after, meet, _ in found.steps:
        timing, with_ = timings[line], peers[line] if peers is not None else None
        begin = now[group]
        if after >= 0:
            lasts, times = meets[after], came[after]
            begin = [times[p] + lasts for p in (with_.met if with_ else ALONE)]
        for at, message in enumerate(waits):
            times = arrived[message]
            of = with_.sources[at] if with_ else ALONE
            begin = [t if t > times[p] else times[p] for t, p in zip(begin, of)]
        stop = [max([begin[o] + ps for o, ps in row]) for row in timing.ends]
        starts.append(begin)
        stops.append(stop)
        for (message, route), rows in zip(outgoing, timing.posts):
            ready = [max([begin[o] + ps for o, ps in row]) for row in rows]
            left = [t if t > free else free for t, free in zip(ready, link[group])]
            takes = posts[route]
            link[group] = arrived[message] = gone = [t + takes for t in left]
            sent.append((route, left, gone))
            if blocking:
                stop = [a if a > b else b for a, b in zip(stop, gone)]
        if meet >= 0:
            times = came[meet]
            for p, t in zip(with_.meets if with_ else ALONE, stop):
                if t > times[p]:
                    times[p] = t
        now[group] = stop
    over = [[t + lasts for t in times] for times, lasts in zip(came, meets)]
    return Result(now, starts, stops, sent, came, over)
