"""An oracle of time: every device is played by itself, item by item, loops unrolled.

It shares no rule with `compiler.cost.time`: only sizes, dependencies, and what each kernel and message takes alone come
from there. What runs beside what, what waits, what is gathered ahead and what is hidden is written here once more.

    Work     occupies the player
    Post     sends: occupies the player's link, which sends in order, and not the player unless it is `blocking`
    Wait     until a posted message has arrived
    Meet     until all `members` players have come, then `duration` longer
    Step     a piece on one of the player's streams, which are in order: it starts when its stream is free, what it
             needs (earlier items of the player) has ended, and all `members` that it is done with are ready as well;
             if `blocking`, stream 0 waits for it; it keeps streams of `also` busy for part of its time
    Barrier  until all streams of the player have ended

Times depend on the order within each player only (sums and maxima), so the order of playing does not matter.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.cost.kernels import work
from compiler.cost.price.pricer import Pricer
from compiler.cost.time.simulate import Simulation
from compiler.numbering import Ranks
from compiler.schedules import Turn, unroll

COMPUTE, COMM = 0, 2
"""The stream of kernels, and the first of those of messages."""


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    duration: int


@dataclass(frozen=True, slots=True)
class Post:
    """early: it was ready so long before its place in the order. deps: or, behind a barrier, when these items of the
    player had ended."""

    key: Hashable
    duration: int
    early: int = 0
    blocking: bool = False
    deps: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    key: Hashable


@dataclass(frozen=True, slots=True)
class Meet:
    key: Hashable
    members: int
    duration: int


@dataclass(frozen=True, slots=True)
class Step:
    stream: int
    duration: int
    deps: tuple[int, ...] = ()
    blocking: bool = False
    key: Hashable = None
    members: int = 1
    also: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Barrier:
    pass


Item = Work | Post | Wait | Meet | Step | Barrier


@dataclass(frozen=True, slots=True)
class Played:
    """Per player, in picoseconds: when it ended, and how much of that it worked."""

    ends: tuple[int, ...]
    busy: tuple[int, ...]

    @property
    def bubble(self) -> float:
        """Share of the players' time, up to the last end, in which they do not work."""
        total = max(self.ends, default=0) * len(self.ends)
        return 1 - sum(self.busy) / total if total else 0.0


class _State:
    """Of one player: time, when it was at the barrier before, its link, its streams, and when its items ended."""

    __slots__ = ("now", "began", "link", "busy", "at", "streams", "ends")

    def __init__(self, streams: int) -> None:
        self.now = self.began = self.link = self.busy = self.at = 0
        self.streams = [0] * streams
        self.ends: dict[int, int] = {}


def play(players: Sequence[Sequence[Item]], streams: int = 1) -> Played:
    """Run all to their ends. Raises ValueError where players wait for what never comes; keys are used once."""
    states = [_State(streams) for _ in players]
    arrived: dict[Hashable, int] = {}
    met: dict[Hashable, dict[int, int]] = {}
    # Who stopped for a key is called again when it is there, so that nobody is asked in vain.
    sleepers: dict[Hashable, list[int]] = {}
    ready = list(range(len(players)))
    while ready:
        p = ready.pop()
        state, items = states[p], players[p]
        while state.at < len(items):
            item, now = items[state.at], state.now
            start = now
            if isinstance(item, Work):
                end = now + item.duration
                state.now = end
                state.busy += item.duration
            elif isinstance(item, Post):
                made = now - item.early
                if item.deps is not None:
                    made = max([state.began, *(state.ends[d] for d in item.deps)])
                start = max(state.link, made)
                state.link = end = start + item.duration
                arrived[item.key] = end
                if item.blocking:
                    state.now = max(now, end)
                ready += sleepers.pop(item.key, ())
            elif isinstance(item, Wait):
                if item.key not in arrived:
                    sleepers.setdefault(item.key, []).append(p)
                    break
                state.now = end = max(now, arrived[item.key])
            elif isinstance(item, Meet):
                came = met.setdefault(item.key, {})
                came.setdefault(p, now)
                if len(came) < item.members:
                    sleepers.setdefault(item.key, []).append(p)
                    break
                start = max(came.values())
                state.now = end = start + item.duration
                ready += sleepers.pop(item.key, ())
            elif isinstance(item, Step):
                used = [state.streams[s] for s, _ in item.also]
                start = max([now, state.streams[item.stream], *used, *(state.ends[d] for d in item.deps)])
                if item.blocking:
                    start = max(start, state.streams[0])
                if item.members > 1:
                    came = met.setdefault(item.key, {})
                    came.setdefault(p, start)
                    if len(came) < item.members:
                        sleepers.setdefault(item.key, []).append(p)
                        break
                    start = max(came.values())
                    ready += sleepers.pop(item.key, ())
                end = start + item.duration
                state.streams[item.stream] = end
                for s, share in item.also:
                    state.streams[s] = start + share
                if item.blocking:
                    state.streams[0] = end
                state.ends[state.at] = end
                state.busy += item.duration if item.stream == 0 else 0
            else:
                state.began = now
                state.now = end = max([now, *state.streams])
            state.at += 1
    if any(s.at < len(items) for s, items in zip(states, players, strict=True)):
        raise ValueError("players wait for what never comes")
    return Played(tuple(s.now for s in states), tuple(s.busy for s in states))


# --- a step of a program ----------------------------------------------------------------------------------------------


def every_rank(s: Simulation, pricer: Pricer, partition: Sequence[int], slow: Mapping[int, float]) -> tuple[int, ...]:
    """When each class of the partition ends, its first rank standing for it: `range(devices)` plays every device."""
    program, ranks = s.program, Ranks.of(s.program)
    groups = program.groups
    where = {g: i for i, c in enumerate(program.classes) for g in c.groups}
    first: dict[int, int] = {}
    for rank, colour in enumerate(partition):
        first.setdefault(colour, rank)
    players: list[list[Item]] = []
    for colour in range(len(first)):
        rank = first[colour]
        group = ranks.group(rank)
        parts = s.features.parts[where[group]]
        device = _Device(pricer, ranks, rank, partition, slow.get(rank, 1.0))
        for action in unroll(program.classes[where[group]].schedule, group, Turn.of(program)):
            part = parts.get((action.kind, action.chunk))
            if part is None:
                continue
            update = action.kind == "U"
            device.action(part, action.chunk * groups + group, action.mb, groups, update, _hidden(pricer, ranks, parts))
            if update:
                device.items.append(Work("once per step", _ps(pricer.cal.fixed)))
        players.append(device.items)
    return play(players, pricer.streams + 1).ends


def _hidden(pricer: Pricer, ranks: Ranks, parts: Mapping[tuple[str, int], work.Part]) -> int:
    """How much of the reductions of gradients has run before the update: a share of the last backward passes."""
    if not pricer.cal.hidden:
        return 0
    total = 0
    for (kind, _), part in parts.items():
        if kind in ("B", "W"):
            device = _Device(pricer, ranks, 0, None, 1.0)
            device.action(part, 0, 0, 1, False, 0)
            alone: list[Item] = [i if isinstance(i, (Step, Barrier)) else Work("", 0) for i in device.items]
            total += play([alone], pricer.streams + 1).ends[0]
    return round(pricer.cal.hidden * total)


def _ps(seconds: float) -> int:
    return round(seconds * 10**12)


@dataclass(slots=True)
class _Device:
    """Makes the items of a device. partition: the classes of all ranks; None: it is alone."""

    pricer: Pricer
    ranks: Ranks
    rank: int
    partition: Sequence[int] | None
    slow: float
    items: list[Item] = field(default_factory=list)
    update: bool = False
    longer: float = 1.0
    launches: float = 0.0
    relief: int = 0
    kernel: int | None = None  # the last item that computation did, or waited for

    def action(self, part: work.Part, stage: int, micro: int, groups: int, update: bool, hidden: int) -> None:
        """An action of a virtual stage."""
        self.update, self.relief = update, hidden if update else 0
        compute, beside = self.sums(part)
        self.longer = 1 + self.pricer.cal.slowdown * min(1.0, beside / compute) if compute else 1.0
        ends: list[set[int]] = []  # per node, items
        posts: list[tuple[work.Post, set[int]]] = []
        idle = True
        for node in part.nodes:
            needs = {item for d in node.deps for item in ends[d]}
            of, mine = node.work, set[int]()
            if isinstance(of, work.Wait):
                if not idle:
                    self.end(posts, ends, stage, micro, groups)
                    idle = True
                source = stage + of.source
                self.items.append(Wait((of.name, source, stage, micro, self.peer(source % groups))))
            elif isinstance(of, work.Post):
                posts.append((of, needs))
                mine = needs
            elif isinstance(of, work.Meet):
                self.end(posts, ends, stage, micro, groups)
                idle = True
                alike = frozenset(self.peer(g) for g in of.groups)
                self.items.append(Meet((of.key, micro, alike), len(alike), self.pricer.meet(of)))
            else:
                idle = False
                mine = self.loop(of, needs) if isinstance(of, work.WorkLoop) else {self.item(node, needs)}
            ends.append(mine)
        self.end(posts, ends, stage, micro, groups)

    def end(
        self, posts: list[tuple[work.Post, set[int]]], ends: list[set[int]], stage: int, micro: int, groups: int
    ) -> None:
        """The host has dispatched all kernels, and all streams end; messages leave as soon as they were ready."""
        self.items += [Step(self.pricer.streams, _ps(self.launches * self.pricer.cal.host)), Barrier()]
        for post, needs in posts:
            to = stage + post.to
            takes = self.pricer.post(post.bytes, stage % groups, to % groups)
            key = (post.name, stage, to, micro, self.colour(self.rank))
            self.items.append(Post(key, takes, 0, self.pricer.cal.blocking_sends > 0, tuple(needs)))
        posts.clear()
        ends[:] = [set() for _ in ends]
        self.launches, self.kernel = 0.0, None

    def loop(self, loop: work.WorkLoop, outer: set[int]) -> set[int]:
        """All iterations, one after the other. What gathers a layer's weights goes when the layer before begins: when
        computation has done all that comes before that layer."""
        before: list[set[int]] = []
        begins: list[int | None] = []
        made = set(outer)
        for i in range(loop.count):
            begins.append(self.kernel)
            ends: list[set[int]] = []
            for node in loop.body.nodes:
                needs = outer | {x for d in node.deps for x in ends[d]}
                needs |= {x for c in node.carried if before for x in before[c]}
                of = node.work
                ahead = isinstance(of, work.Collective) and of.role == "weights" and not (node.deps or node.carried)
                if ahead and i and begins[i - 1] is not None:
                    needs.add(begins[i - 1])  # type: ignore[arg-type]
                ends.append(self.loop(of, needs) if isinstance(of, work.WorkLoop) else {self.item(node, needs)})
            before = ends
            made |= {x for of_node in ends for x in of_node}
        return made

    def item(self, node: work.WorkNode, needs: set[int]) -> int:
        """A kernel, message or copy; the index of its item."""
        of = node.work
        priced = self.pricer.price(of, self.update)
        takes, waited, key, members = priced.ps, False, None, 1
        self.launches += priced.launches
        if isinstance(of, (work.Product, work.Vector)):
            takes = round(round(takes * self.longer) * self.slow)
        elif isinstance(of, work.Collective):
            waited = self.waits_for(of)
            if of.role == "gradients":
                less = min(self.relief, takes)
                takes, self.relief = takes - less, self.relief - less
            if self.partition is not None:
                alike = frozenset(map(self.colour, self.ranks.along(self.rank, of.axes)))
                key, members = (self.ranks.group(self.rank), of.axes, alike, len(self.items)), len(alike)
        also = tuple((s, min(share, takes)) for s, share in priced.also)
        self.items.append(Step(priced.stream, takes, tuple(needs), waited, key, members, also))
        if waited or priced.stream == COMPUTE:
            self.kernel = len(self.items) - 1
        return len(self.items) - 1

    def waits_for(self, of: work.Collective) -> bool:
        """Whether computation waits for a message: for all in the update, and of activations, and where systems run
        none beside it."""
        return self.update or of.role == "activations" or not self.pricer.cal.prefetch

    def sums(self, part: work.Part, times: int = 1) -> tuple[int, int]:
        """Picoseconds of kernels, and of messages that run beside them."""
        compute = beside = 0
        for node in part.nodes:
            of = node.work
            if isinstance(of, work.WorkLoop):
                inner = self.sums(of.body, times * of.count)
                compute, beside = compute + inner[0], beside + inner[1]
            elif isinstance(of, (work.Product, work.Vector)):
                compute += times * self.pricer.price(of, self.update).ps
            elif isinstance(of, work.Collective) and not self.waits_for(of):
                beside += times * self.pricer.price(of, self.update).ps
        return compute, beside

    def colour(self, rank: int) -> int:
        """The class of a rank."""
        return self.partition[rank] if self.partition is not None else 0

    def peer(self, group: int) -> int:
        """The class of the device of another group that has the same coordinates."""
        return self.colour(self.ranks.peer(self.rank, group)) if self.partition is not None else 0
