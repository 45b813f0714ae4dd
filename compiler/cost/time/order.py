"""All device groups' schedules as one list of segments, in an order in which each can be evaluated.

The order follows from the program alone, so it is found once; then a step of a job is one pass over the list, with
whatever durations.

When the classes of a group end a segment is linear over (max, +) in when they begin it: each ends at the maximum, over
the classes, of a beginning plus a constant, since all that happens inside are sums and maxima (`Row`). With one class
that is its duration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import NamedTuple

from compiler.cost.kernels.work import Meet, Part, Post
from compiler.cost.time.slow import Classes
from compiler.cost.time.tasks import Cut, cuts
from compiler.homes import Homes
from compiler.program import FunctionKey
from compiler.schedules import Action
from compiler.schedules.turns import Turns
from dsl.data import dataclass

Row = tuple[tuple[int, int], ...]
"""Pairs (class, picoseconds): something happens at the maximum of the class's beginning plus that."""


class Timing(NamedTuple):
    """Of a segment on the devices of a class: when it ends, when its messages are ready, and how long it works."""

    end: Row
    posts: tuple[Row, ...]
    busy: int


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


class Line(NamedTuple):
    """What all segments of a kind of a group have in common.

    at: number of the segment in its function; waits, posts: first numbers of their messages (that of the micro-batch is
    added), and routes; sources: the groups that the messages come from; met: the first group of the all-reduce that
    must be over before it starts, or -1.
    """

    group: int
    key: FunctionKey
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
    post: Post
    group: int
    to: int
    name: str


@dataclass(slots=True)
class Plan:
    """steps in order; meets: of each all-reduce between groups, in the order in which the first comes to them; classes:
    of devices, each a group as long as all of its devices are alike."""

    groups: int
    classes: int
    steps: list[PlanStep] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    meets: list[Meet] = field(default_factory=list)
    messages: int = 0

    def of_classes(self, classes: Classes) -> Plan:
        """The same for each class of devices by itself. A line, message or all-reduce is that of a class of its group
        (of messages the sender's, of all-reduces the first): its number ends with that class's place in the group."""
        width = max(map(len, classes.of))
        number = {c: i for i, c in enumerate(c for of in classes.of for c in of)}
        found = Plan(self.groups, len(number), routes=self.routes, messages=width * self.messages)
        found.lines = [line for line in self.lines for _ in range(width)]
        found.meets = [meet for meet in self.meets for _ in range(width)]
        for step in self.steps:
            g, line = step.cls, self.lines[step.line]
            mine = classes.of[g]
            sources = [classes.peers(g, source) for source in line.sources]
            met = classes.peers(g, line.met) if line.met >= 0 else ()
            meets = classes.peers(g, min(line.cut.meet.groups)) if line.cut.meet is not None else ()
            for c, colour in enumerate(mine):
                waits = tuple([m * width + of[c] for m, of in zip(step.waits, sources)])
                posts = tuple([(m * width + c, route) for m, route in step.posts])
                after = step.after * width + met[c] if step.after >= 0 else -1
                meet = step.meet * width + meets[c] if step.meet >= 0 else -1
                others, at = len(mine) - 1 - c, step.line * width + c
                found.steps.append(PlanStep(number[colour], at, waits, posts, after, meet, others, step.action))
        return found


@dataclass(slots=True)
class Result:
    """Picoseconds. ends: of the classes; starts, stops: of the steps; left, gone: when the messages begin and end, in
    the order of the steps; came, over: when the last one comes to each all-reduce between groups, and when it is over.
    """

    ends: list[int]
    starts: list[int]
    stops: list[int]
    left: list[int]
    gone: list[int]
    came: list[int]
    over: list[int]


def plan(
    actions: Sequence[Sequence[Action]],
    classes: Sequence[int],
    parts: Sequence[Mapping[FunctionKey, Part]],
    homes: Homes,
) -> Plan:
    """`parts[class][function]`: work, of which only what it waits for and sends counts. Raises ValueError if groups
    hang."""
    groups = len(actions)
    found = Plan(groups, groups)
    stride = 1 + max((a.mb for mine in actions for a in mine), default=0)  # a message: its lane and micro-batch
    lanes: dict[tuple[str, int, int], int] = {}
    shapes: dict[tuple[int, FunctionKey], tuple[Cut, ...]] = {}
    meets: dict[tuple[str, int], int] = {}
    coming: list[int] = []

    def line(group: int, key: FunctionKey, index: int, cut: Cut, met: int) -> int:
        stage = homes.stage(group, key[1]) if cut.waits or cut.posts else group
        waits = tuple(stride * lanes.setdefault((w.name, stage + w.source, stage), len(lanes)) for w in cut.waits)
        posts = []
        for post, _ in cut.posts:
            lane = lanes.setdefault((post.name, stage, stage + post.to), len(lanes))
            posts.append((stride * lane, len(found.routes)))
            to = homes.group(stage + post.to)
            found.routes.append(Route(len(found.lines), post, group, to, f"{post.name} to group {to}"))
        sources = tuple(homes.group(stage + w.source) for w in cut.waits)
        found.lines.append(Line(group, key, index, cut, waits, sources, tuple(posts), met))
        return len(found.lines) - 1

    lines: dict[tuple[int, FunctionKey], list[int]] = {}
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
    turns: Turns[int, int] = Turns()  # groups wait for a message, or (as -1 - meet) for an all-reduce

    def run(g: int) -> Iterator[int]:
        before = -1
        for action, number in todo[g]:
            of, mb = found.lines[number], action.mb
            while before >= 0 and coming[before]:
                yield -1 - before
            incoming = tuple([w + mb for w in of.waits])
            for message in incoming:
                while not done[message]:
                    yield message
            outgoing = tuple([(m + mb, route) for m, route in of.posts])
            for message, _ in outgoing:
                done[message] = 1
                turns.arrived(message)
            meet, joins = -1, of.meet
            if joins is not None:
                meet = meets.setdefault((joins.key, mb), len(meets))
                if meet == len(coming):
                    coming.append(len(joins.groups))
                    found.meets.append(joins)
                coming[meet] -= 1
                if not coming[meet]:
                    turns.arrived(-1 - meet)
            found.steps.append(PlanStep(g, number, incoming, outgoing, before, meet, 0, action))
            before = meet

    if turns.play({g: run(g) for g in range(groups)}):
        raise ValueError("device groups wait for what never comes")
    found.messages = len(done)
    return found


def evaluate(
    found: Plan, timings: Sequence[Timing], posts: Sequence[int], meets: Sequence[int], blocking: bool
) -> Result:
    """One pass. timings: of lines; posts: of routes, how long each takes; meets: how long each all-reduce between
    groups takes; blocking: a device goes on when what it sends has gone."""
    now, link = [0] * found.classes, [0] * found.classes
    arrived = [0] * found.messages
    came = [0] * len(meets)
    starts: list[int] = []
    stops: list[int] = []
    left: list[int] = []
    gone: list[int] = []
    steps, first = found.steps, 0
    for at, (cls, line, waits, outgoing, after, meet, others, _) in enumerate(steps):
        start = now[cls] if after < 0 else came[after] + meets[after]
        for message in waits:
            if arrived[message] > start:
                start = arrived[message]
        starts.append(start)
        if others:
            continue
        for mine in range(first, at + 1):  # the classes of a group end together what they have begun
            if first < at:
                cls, line, _, outgoing, _, meet, _, _ = steps[mine]
            row, ready, _ = timings[line]
            end = 0
            for o, ps in row:
                then = starts[first + o] + ps
                if then > end:
                    end = then
            stops.append(end)
            for (message, route), row in zip(outgoing, ready) if outgoing else ():
                begin = link[cls]
                for o, ps in row:
                    then = starts[first + o] + ps
                    if then > begin:
                        begin = then
                left.append(begin)
                link[cls] = arrived[message] = begin = begin + posts[route]
                gone.append(begin)
                if blocking and begin > end:
                    end = begin
            if meet >= 0 and end > came[meet]:
                came[meet] = end
            now[cls] = end
        first = at + 1
    return Result(now, starts, stops, left, gone, came, [c + d for c, d in zip(came, meets)])
