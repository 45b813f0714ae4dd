"""All device groups' schedules as one list of segments, in an order in which each can be evaluated.

The order follows from the program alone, so it is found once; then a step of a job is one pass over the list
(`clock`), with whatever durations.

It does not grow with the micro-batches. Groups take turns, an action at a time; as soon as all of them are again where
they were in their loops, with the same number of micro-batches done since, what they did since is repeated as often as
all loops have room for it (`Stretch`). That is an order, too: an action waits for what others have done for the same
micro-batch, and all numbers of micro-batches grow by the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import NamedTuple

from compiler.cost.kernels.work import Meet, Part, Post
from compiler.cost.time.length import microbatches, require_short
from compiler.cost.time.slow import Classes
from compiler.cost.time.stretch import PlanStep, Stretch
from compiler.cost.time.tasks import Cut, cuts
from compiler.homes import Homes
from compiler.limits import PRICED
from compiler.program import FunctionKey
from compiler.schedules import Action, ActionLoop
from dsl.data import dataclass
from dsl.diagnostics import ParcError

LEAST = 4
"""Repetitions that are worth a `Stretch` of their own."""


class Line(NamedTuple):
    """What all segments of a kind of a group have in common.

    at: number of the segment in its function; waits, posts: lanes of their messages, and routes; sources: the groups
    that the messages come from; met: the first group of the all-reduce that must be over before it starts, or -1.
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
    """stretches in order; meets: of each all-reduce between groups, in the order in which the first comes to them;
    classes: of devices, each a group as long as all of its devices are alike.

    lanes: of messages, each from a segment to another; the number of a message is `lanes` times its micro-batch and its
    lane. window: how many micro-batches of a lane are ever on their way at once. played: segments that the last pass
    went through before they repeated themselves.
    """

    groups: int
    classes: int
    stretches: list[Stretch] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    meets: list[Meet] = field(default_factory=list)
    lanes: int = 0
    window: int = 1
    played: int = 0
    first: list[int] = field(default_factory=list)  # per all-reduce, the line that comes to it first

    @property
    def length(self) -> int:
        """Of all segments of a step, those of repetitions too."""
        return sum(len(s.steps) * s.times for s in self.stretches)

    def of_classes(self, classes: Classes) -> Plan:
        """The same for each class of devices by itself. A line, message or all-reduce is that of a class of its group
        (of messages the sender's, of all-reduces the first): its number ends with that class's place in the group."""
        width = max(map(len, classes.of))
        number = {c: i for i, c in enumerate(c for of in classes.of for c in of)}
        found = Plan(self.groups, len(number), routes=self.routes, lanes=width * self.lanes, window=self.window)
        found.lines = [line for line in self.lines for _ in range(width)]
        found.meets = [meet for meet in self.meets for _ in range(width)]
        for stretch in self.stretches:
            steps = [made for step in stretch.steps for made in self._split(step, classes, width, number)]
            found.stretches.append(Stretch(steps, stretch.times, stretch.by))
        return found

    def _split(self, step: PlanStep, classes: Classes, width: int, number: Mapping[int, int]) -> Iterator[PlanStep]:
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
            yield PlanStep(number[colour], at, waits, posts, after, meet, others, step.action)


def plan(
    rows: Sequence[Sequence[ActionLoop]],
    classes: Sequence[int],
    parts: Sequence[Mapping[FunctionKey, Part]],
    homes: Homes,
    least: int = LEAST,
) -> Plan:
    """rows: the loops of each group; `parts[class][function]`: work, of which only what it waits for and sends counts;
    least: repetitions that are worth it. Raises ValueError if groups hang, ParcError (E0931) for what is too long."""
    return OrderPlanner(rows, classes, parts, homes, least).played()


class OrderPlanner:
    """Plays all groups, an action of each at a time.

    loop, iteration, step, cut: where each group is: of its row, of the loop, of the iteration, of the action. posted:
    of each lane the micro-batch whose turn it is to be sent; `early`: those that came before their turn.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[ActionLoop]],
        classes: Sequence[int],
        parts: Sequence[Mapping[FunctionKey, Part]],
        homes: Homes,
        least: int = LEAST,
    ) -> None:
        n = len(rows)
        self.rows, self.least = rows, least
        self.found = Plan(n, n)
        self.lines: list[dict[FunctionKey, list[int]]] = []
        self.posted: list[int] = []
        self._lines(classes, parts, homes)
        self.loop, self.iteration, self.step, self.cut = [0] * n, [0] * n, [0] * n, [0] * n
        self.sent = [0] * self.found.lanes  # the last, and one
        self.early: set[int] = set()
        self.steps: list[PlanStep] = []
        self.waiting: dict[int, list[int]] = {}  # for a message, or (as -1 - meet) for an all-reduce
        self.released: list[int] = []
        self.meets: dict[tuple[str, int], int] = {}
        self.coming: list[int] = []
        self.seen: dict[tuple[tuple[int, int, int], ...], tuple[list[int], int, frozenset[int]]] = {}
        self.entered = True  # whether a group has come into another loop
        self.rolls = False  # whether a loop is long enough

    def _lines(self, classes: Sequence[int], parts: Sequence[Mapping[FunctionKey, Part]], homes: Homes) -> None:
        lanes: dict[tuple[str, int, int], int] = {}
        first: dict[int, int] = {}  # of lanes: not all micro-batches go through all stages
        shapes: dict[tuple[int, FunctionKey], tuple[Cut, ...]] = {}
        for group, (cls, row) in enumerate(zip(classes, self.rows)):
            mine: dict[FunctionKey, list[int]] = {}
            begin: dict[FunctionKey, int] = {}
            for kind, chunk, mb in (action for loop in row for action in loop.steps):
                begin[kind, chunk] = min(mb, begin.get((kind, chunk), mb))
            for key in begin:
                if (cls, key) not in shapes:
                    shapes[cls, key] = cuts(parts[cls][key]) if key in parts[cls] else ()
                mine[key], met = [], -1
                for i, cut in enumerate(shapes[cls, key]):
                    mine[key].append(self._line(group, key, i, cut, met, homes, lanes))
                    first.update((lane, begin[key]) for lane, _ in self.found.lines[-1].posts)
                    met = min(cut.meet.groups) if cut.meet is not None else -1
            self.lines.append(mine)
        self.found.lanes = max(1, len(lanes))
        self.posted = [first.get(lane, 0) for lane in range(self.found.lanes)]

    def _line(
        self,
        group: int,
        key: FunctionKey,
        index: int,
        cut: Cut,
        met: int,
        homes: Homes,
        lanes: dict[tuple[str, int, int], int],
    ) -> int:
        found = self.found
        stage = homes.stage(group, key[0].at(key[1])) if cut.waits or cut.posts else group
        waits = tuple(lanes.setdefault((w.name, stage + w.source, stage), len(lanes)) for w in cut.waits)
        posts = []
        for post, _ in cut.posts:
            lane = lanes.setdefault((post.name, stage, stage + post.to), len(lanes))
            posts.append((lane, len(found.routes)))
            to = homes.group(stage + post.to)
            found.routes.append(Route(len(found.lines), post, group, to, f"{post.name} to group {to}"))
        sources = tuple(homes.group(stage + w.source) for w in cut.waits)
        found.lines.append(Line(group, key, index, cut, waits, sources, tuple(posts), met))
        return len(found.lines) - 1

    def played(self) -> Plan:
        """The plan. Raises as `plan`."""
        require_short(self.rows)
        self.play()
        return self.found

    def play(self) -> None:
        """Until all have come to their ends."""
        runs = [self._run(g) for g in range(len(self.rows))]
        ready = list(range(len(runs)))
        unfinished = len(runs)
        repeats = any(loop.count > self.least for row in self.rows for loop in row)
        while ready:
            more = []
            for g in ready:
                try:
                    key = next(runs[g])
                except StopIteration:
                    unfinished -= 1
                    continue
                if key is None:
                    more.append(g)
                else:
                    self.waiting.setdefault(key, []).append(g)
            ready = sorted(more + self.released)
            self.released = []
            if repeats:
                self._roll()
            if len(self.steps) > PRICED.most:
                self._refuse()
        self._close()
        if unfinished:
            raise ValueError("device groups wait for what never comes")

    def _refuse(self) -> None:
        found = PRICED.exceeded(len(self.rows), microbatches(self.rows), len(self.steps))
        assert found is not None
        raise ParcError(found)

    def _run(self, g: int) -> Iterator[int | None]:
        """Goes on until it has done an action (and yields None), or waits (and yields for what)."""
        found, lanes, before = self.found, self.found.lanes, -1
        while self.loop[g] < len(self.rows[g]):
            action = self._action(g)
            for cut, number in enumerate(self.lines[g][action[:2]]):
                self.cut[g], line = cut, found.lines[number]
                while before >= 0 and self.coming[before]:
                    yield -1 - before
                for lane in line.waits:
                    while action.mb >= self.posted[lane] and action.mb * lanes + lane not in self.early:
                        yield action.mb * lanes + lane
                        action = self._action(g)  # a later one, if all have gone on meanwhile
                mb = action.mb
                incoming = tuple([mb * lanes + lane for lane in line.waits])
                outgoing = tuple([(mb * lanes + lane, route) for lane, route in line.posts])
                for lane in line.waits:
                    found.window = max(found.window, self.sent[lane] - mb)
                for lane, _ in line.posts:
                    self._post(lane, mb)
                meet = self._join(line.meet, mb, number) if line.meet is not None else -1
                self.steps.append(PlanStep(g, number, incoming, outgoing, before, meet, 0, action))
                before = meet
            self.cut[g] = 0
            self.step[g] += 1
            self._go_on(g)
            yield None

    def _action(self, g: int) -> Action:
        loop = self.rows[g][self.loop[g]]
        kind, chunk, mb = loop.steps[self.step[g]]
        return Action(kind, chunk, mb + self.iteration[g] * loop.by)

    def _go_on(self, g: int) -> None:
        """To the next iteration, and the next loop, where one has ended."""
        loop = self.rows[g][self.loop[g]]
        if self.step[g] == len(loop.steps):
            self.step[g] = 0
            self.iteration[g] += 1
        if self.iteration[g] == loop.count:
            self.iteration[g], self.entered = 0, True
            self.loop[g] += 1

    def _post(self, lane: int, mb: int) -> None:
        message, lanes = mb * self.found.lanes + lane, self.found.lanes
        self.sent[lane] = max(self.sent[lane], mb + 1)
        if mb != self.posted[lane]:
            self.early.add(message)
        else:
            self.posted[lane] += 1
            while self.early and self.posted[lane] * lanes + lane in self.early:
                self.early.remove(self.posted[lane] * lanes + lane)
                self.posted[lane] += 1
        if message in self.waiting:
            self.released += self.waiting.pop(message)

    def _join(self, joins: Meet, mb: int, line: int) -> int:
        meet = self.meets.setdefault((joins.key, mb), len(self.meets))
        if meet == len(self.coming):
            self.coming.append(len(joins.groups))
            self.found.meets.append(joins)
            self.found.first.append(line)
        self.coming[meet] -= 1
        if not self.coming[meet]:
            self.released += self.waiting.pop(-1 - meet, ())
        return meet

    # --- what repeats -------------------------------------------------------------------------------------------------

    def _roll(self) -> None:
        """Looks whether all groups are where they were before; if so, goes on as far as they repeat what they did."""
        if self.entered:
            self.entered, self.seen = False, {}
            now = [(row[at], i) for row, at, i in zip(self.rows, self.loop, self.iteration) if at < len(row)]
            self.rolls = any(loop.count - i > self.least for loop, i in now)
        if not self.rolls:
            return
        where = tuple(zip(self.loop, self.step, self.cut))
        known = self.seen.get(where)
        self.seen[where] = self.iteration[:], len(self.steps), frozenset(self.early)
        if known is None:
            return
        before, first, early = known
        moved = {g: n for g, (now, then) in enumerate(zip(self.iteration, before)) if (n := now - then)}
        shifts = {n * self.rows[g][self.loop[g]].by for g, n in moved.items()}
        waits = {g for groups in self.waiting.values() for g in groups}
        times = min((self._room(g, n, g in waits) for g, n in moved.items()), default=0)
        by = max(shifts, default=0)
        alike = len(shifts) == 1 and self.early == {m + by * self.found.lanes for m in early}
        if alike and times >= self.least and self._regular(first, by):
            self._repeat(first, times, by, moved)

    def _room(self, g: int, iterations: int, waits: bool) -> int:
        """How often a group can go on by so many iterations within its loop; waits: it is about to begin an action."""
        begun = waits or self.step[g] > 0
        return (self.rows[g][self.loop[g]].count - begun - self.iteration[g]) // iterations

    def _regular(self, first: int, by: int) -> bool:
        """Whether the steps from there on send `by` messages of a lane, and await as many, in whatever order."""
        lanes = self.found.lanes
        posts: dict[int, list[int]] = {}
        waits: dict[int, list[int]] = {}
        for step in self.steps[first:]:
            for message in step.waits:
                waits.setdefault(message % lanes, []).append(message // lanes)
            for message, _ in step.posts:
                posts.setdefault(message % lanes, []).append(message // lanes)
            if step.meet >= 0 or step.after >= 0:
                return False
        whole = all(len(mbs) == by == len({mb % by for mb in mbs}) for mbs in (*posts.values(), *waits.values()))
        return whole and posts.keys() == waits.keys()

    def _repeat(self, first: int, times: int, by: int, moved: Mapping[int, int]) -> None:
        """What was done since then comes `times` more."""
        lanes, done = self.found.lanes, self.steps[first:]
        del self.steps[first:]
        self._close()
        later = by * lanes
        self.found.stretches.append(Stretch(done, 1 + times, by))
        for lane in {m % lanes for step in done for m, _ in step.posts}:
            self.posted[lane] += times * by
            self.sent[lane] += times * by
        self.early = {m + times * later for m in self.early}
        for key, groups in list(self.waiting.items()):
            if groups[0] in moved and key >= 0:
                self.waiting[key + times * later] = self.waiting.pop(key)
        self.seen = {}
        for g, n in moved.items():
            self.iteration[g] += times * n
            self._go_on(g)

    def _close(self) -> None:
        """What was not repeated is a stretch that comes once."""
        if self.steps:
            self.found.stretches.append(Stretch(self.steps))
            self.steps = []
