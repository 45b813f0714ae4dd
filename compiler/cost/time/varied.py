"""Steps with slow devices: the classes of each device group are played together, segment by segment.

When the classes of a group end a segment is linear over (max, +) in when they begin it: each ends at the maximum,
over the classes, of a beginning plus a constant, since all that happens inside are sums and maxima. The constants are
found by playing the segment once for each class that begins last. Then a step is one pass over the plan, as without
slow devices. Exact: `ranks.play_ranks`, which plays every device by itself, is what it is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.cost.kernels.program import Features
from compiler.cost.price.pricer import COMPUTE, Pricer, picoseconds
from compiler.cost.time import engine
from compiler.cost.time.order import Key, Plan
from compiler.cost.time.ranks import function_items
from compiler.cost.time.step import Segment
from compiler.cost.time.timeline import Event
from compiler.numbering import Ranks
from compiler.program import Program

Row = tuple[tuple[int, int], ...]
"""Pairs (class, picoseconds): something happens at the maximum of the class's beginning plus that."""


@dataclass(frozen=True, slots=True)
class Map:
    """Of a segment, per class of the group: when it ends, when each of its messages is ready, and how long it works."""

    ends: tuple[Row, ...]
    posts: tuple[tuple[Row, ...], ...]
    busy: tuple[int, ...]


@dataclass(slots=True)
class Varied:
    """Picoseconds, per colour. ends; busy: of its own kernels; inside: of activations and what they wait for in them;
    update: of the optimizer's; events, whose `cls` is the colour."""

    ends: list[int]
    busy: list[int]
    inside: list[int]
    update: list[int]
    events: list[Event]


class Classes:
    """The classes of each device group, in the order of their first ranks: `colours[group]`, `first[colour]`."""

    def __init__(self, ranks: Ranks, groups: int, partition: Sequence[int]) -> None:
        self.ranks, self.partition = ranks, partition
        self.first: dict[int, int] = {}
        self.colours: list[list[int]] = [[] for _ in range(groups)]
        for rank, colour in enumerate(partition):
            if colour not in self.first:
                self.first[colour] = rank
                self.colours[ranks.group(rank)].append(colour)
        self.place = {c: i for found in self.colours for i, c in enumerate(found)}

    def peers(self, group: int, other: int) -> list[int]:
        """Per class of a group, the class of another (as an index) that has its coordinates."""
        return [self.place[self.partition[self.ranks.peer(self.first[c], other)]] for c in self.colours[group]]

    def along(self, group: int, axes: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Per class of a group, the classes that a collective over these axes brings together."""
        found = []
        for c in self.colours[group]:
            members = {self.place[self.partition[r]] for r in self.ranks.along(self.first[c], axes)}
            found.append(tuple(sorted(members)))
        return tuple(found)


def play_varied(
    plan: Plan,
    costs: Sequence[Mapping[Key, list[Segment]]],
    maps: Maps,
    posts: Sequence[int],
    meets: Sequence[int],
) -> Varied:
    """A step. `posts`, `meets`: picoseconds of the plan's routes and all-reduces between groups."""
    classes, pricer, groups = maps.classes, maps.pricer, maps.program.groups
    now = [[0] * len(found) for found in classes.colours]
    link = [[0] * len(found) for found in classes.colours]
    arrived: dict[int, list[int]] = {}
    came: list[dict[int, int]] = [{} for _ in meets]
    peers: dict[tuple[int, int], list[int]] = {}
    count = len(classes.first)
    done = Varied([0] * count, [0] * count, [0] * count, [0] * count, [])
    blocking = pricer.cal.blocking_sends > 0

    def peer(group: int, other: int) -> list[int]:
        key = (group, other)
        if key not in peers:
            peers[key] = classes.peers(group, other)
        return peers[key]

    for step in plan.steps:
        g, action, mine = step.group, step.action, classes.colours[step.group]
        c, key, index = plan.costs[step.cost]
        segment, of = costs[c][key][index], maps.of(g, key, index)
        stage = action.chunk * groups + g
        begin = now[g]
        if step.after >= 0:
            meet = costs[c][key][index - 1].meet
            assert meet is not None
            level = pricer.meet_stream(meet)[1]
            came_at = [came[step.after][p] for p in peer(g, min(meet.groups))]
            over = [t + meets[step.after] for t in came_at]
            name = plan.meets[step.after][1]
            for i, colour in enumerate(mine):
                done.inside[colour] += over[i] - begin[i]
                if meets[step.after]:
                    event = Event(colour, level, name, "collective", came_at[i], over[i], action.mb, g)
                    done.events.append(event)
            begin = over
        for message, wait in zip(step.waits, segment.waits):
            source = peer(g, (stage + wait.source) % groups)
            begin = [max(t, arrived[message][p]) for t, p in zip(begin, source)]
        end = [max([begin[o] + ps for o, ps in row]) for row in of.ends]
        where = (action.mb, g, action.chunk, index)
        for i, colour in enumerate(mine):
            done.busy[colour] += of.busy[i]
            done.inside[colour] += end[i] - begin[i]
            if key[0] == "U":
                done.update[colour] += end[i] - begin[i]
            if end[i] > begin[i]:
                event = Event(colour, "compute", str(action), action.kind, begin[i], end[i], *where, step.waits)
                done.events.append(event)
        stop = end
        for (message, route), rows in zip(step.posts, of.posts):
            ready = [max([begin[o] + ps for o, ps in row]) for row in rows]
            left = [max(t, free) for t, free in zip(ready, link[g])]
            link[g] = arrived[message] = [t + posts[route] for t in left]
            for colour, a, b in zip(mine, left, link[g]):
                if b > a:
                    done.events.append(Event(colour, "send", plan.names[route], "send", a, b, *where, (message,)))
            if blocking:
                stop = [max(a, b) for a, b in zip(stop, link[g])]
        if step.meet >= 0:
            first = min(segment.meet.groups)  # type: ignore[union-attr]
            for p, t in zip(peer(g, first), stop):
                came[step.meet][p] = max(came[step.meet].get(p, 0), t)
        now[g] = stop
    fixed = picoseconds(pricer.cal.fixed)
    for g, mine in enumerate(classes.colours):
        steps = fixed if ("U", 0) in maps.features.parts[maps.program_class[g]] else 0
        for i, colour in enumerate(mine):
            done.ends[colour] = last = now[g][i] + steps
            if steps:
                done.events.append(Event(colour, "compute", "once per step", "host", now[g][i], last, 0, g))
            done.inside[colour] += steps
    done.events.sort(key=lambda e: (e.cls, e.start_ps, e.end_ps))
    return done


class Maps:
    """The maps of all segments; groups that are alike share them."""

    def __init__(
        self,
        program: Program,
        features: Features,
        pricer: Pricer,
        program_class: Sequence[int],
        classes: Classes,
        slow: Mapping[int, float],
        relief: Sequence[int],
    ) -> None:
        self.program, self.features, self.pricer = program, features, pricer
        self.program_class, self.classes, self.relief = program_class, classes, relief
        self.factors = [tuple(slow.get(classes.first[c], 1.0) for c in found) for found in classes.colours]
        self.known: dict[object, list[Map]] = {}
        self.mine: dict[tuple[int, Key], list[Map]] = {}

    def of(self, group: int, key: Key, index: int) -> Map:
        found = self.mine.get((group, key))
        if found is None:
            found = self.mine[group, key] = self._function(group, key)
        return found[index]

    def _function(self, group: int, key: Key) -> list[Map]:
        part = self.features.parts[self.program_class[group]][key]
        update = key[0] == "U"
        relief = self.relief[group] if update else 0
        items = function_items(self.program, self.pricer, part, key[1] * self.program.groups + group, update, relief)
        axes = sorted({i.key for i in items if isinstance(i, engine.Step) and i.key})  # type: ignore[type-var]
        together = {a: self.classes.along(group, a) for a in axes}  # type: ignore[arg-type]
        alike = (self.program_class[group], key, relief, self.factors[group], tuple(together.items()))
        if alike not in self.known:
            pieces = _pieces(items)
            self.known[alike] = [_map(steps, posts, self.factors[group], together) for steps, posts in pieces]
        return self.known[alike]


def _pieces(items: Sequence[engine.Item]) -> list[tuple[list[engine.Step], list[tuple[int, ...]]]]:
    """Per segment its steps, whose `deps` count within it, and of each of its messages what it waits for."""
    found: list[tuple[list[engine.Step], list[tuple[int, ...]]]] = []
    base = {}  # index of an item -> index within its segment
    steps: list[engine.Step] = []
    for at, item in enumerate(items):
        if isinstance(item, engine.Step):
            base[at] = len(steps)
            steps.append(replace(item, deps=tuple(base[d] for d in item.deps)))
        elif isinstance(item, engine.Barrier):
            found.append((steps, []))
            steps = []
        elif isinstance(item, engine.Post):
            found[-1][1].append(tuple(base[d] for d in item.deps or ()))
    return found


def _map(
    steps: Sequence[engine.Step],
    posts: Sequence[tuple[int, ...]],
    factors: Sequence[float],
    together: Mapping[object, tuple[tuple[int, ...], ...]],
) -> Map:
    """Plays the steps of all classes side by side, once for each class: it begins so late that all wait that ever do.

    factors: per class, how slow; together: per axes and class, the classes that meet.
    """
    n = len(factors)
    durations = [
        [round(s.duration * f) if s.stream == COMPUTE else s.duration for s in steps] if f != 1.0 else None
        for f in factors
    ]
    plain = [s.duration for s in steps]
    own = [d or plain for d in durations]
    late = 1 + sum(map(max, zip(*own)))
    ends: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    ready: list[list[list[tuple[int, int]]]] = [[[] for _ in posts] for _ in range(n)]
    streams = 1 + max((x for s in steps for x in (s.stream, *(i for i, _ in s.also))), default=0)
    for origin in range(n):
        begin = [late if c == origin else 0 for c in range(n)]
        free = [[b] * streams for b in begin]
        done: list[list[int]] = [[] for _ in range(n)]
        for at, step in enumerate(steps):
            starts = []
            for c in range(n):
                start, mine = free[c][step.stream], done[c]
                for s, _ in step.also:
                    start = max(start, free[c][s])
                for d in step.deps:
                    if mine[d] > start:
                        start = mine[d]
                if step.blocking and free[c][0] > start:
                    start = free[c][0]
                starts.append(start)
            if step.key is not None and n > 1:
                starts = [max([starts[m] for m in members]) for members in together[step.key]]
            for c in range(n):
                end = starts[c] + own[c][at]
                free[c][step.stream] = end
                for s, share in step.also:
                    free[c][s] = starts[c] + share
                if step.blocking:
                    free[c][0] = end
                done[c].append(end)
        for c in range(n):
            if (end := max(free[c])) >= late:
                ends[c].append((origin, end - late))
            for i, deps in enumerate(posts):
                if (end := max([begin[c], *(done[c][d] for d in deps)])) >= late:
                    ready[c][i].append((origin, end - late))
    busy = tuple(sum(d for d, s in zip(own[c], steps) if s.stream == COMPUTE) for c in range(n))
    rows = tuple(tuple(tuple(ready[c][i]) for c in range(n)) for i in range(len(posts)))
    return Map(tuple(map(tuple, ends)), rows, busy)
