"""An oracle of time: every device is played by itself, item by item, loops unrolled.

It shares no rule with `compiler.cost.time`: only sizes, dependencies, and what each kernel and message takes alone come
from there. What runs beside what, what waits, what is gathered ahead and what is hidden is written here once more. The
items that this makes, and the player of them, are in `items.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2, prod

from compiler.cost.kernels import work
from compiler.cost.price.pricer import Pricer
from compiler.cost.time.simulate import Simulation
from compiler.homes import Homes
from compiler.numbering import Ranks
from compiler.schedules import Turn, unroll
from tests.cost.time.items import Barrier, Item, Meet, Post, Step, Wait, Work, play

COMPUTE, COPY_IN = 0, 1
"""The stream of kernels, and that of copies into the device's memory."""


def every_rank(s: Simulation, pricer: Pricer, partition: Sequence[int], slow: Mapping[int, float]) -> tuple[int, ...]:
    """When each class of the partition ends, its first rank standing for it: `range(devices)` plays every device."""
    program, ranks = s.program, Ranks.of(s.program)
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
            moves = action.kind in ("P", "F", "B", "W")
            stage = program.homes.stage(group, action.kind.at(action.chunk)) if moves else 0
            device.action(part, stage, action.mb, program.homes, update, _hidden(pricer, ranks, parts))
            if update:
                device.items.append(Work("once per step", _ps(pricer.cal.fixed)))
        players.append(device.items)
    return play(players, pricer.streams + 1).ends


def _hidden(pricer: Pricer, ranks: Ranks, parts: Mapping[tuple[str, int], work.Part]) -> dict[str, int]:
    """By role, how much of the update's messages has run before it, or runs after it: shares of the last backward
    passes, and of the first forward passes."""
    found = {}
    for role, share, kinds in (("gradients", pricer.cal.hidden, "BW"), ("weights", pricer.cal.hidden_gather, "F")):
        total = 0
        for (kind, _), part in parts.items():
            if share and kind in kinds:
                device = _Device(pricer, ranks, 0, None, 1.0)
                device.action(part, 0, 0, None, False, {})
                alone: list[Item] = [i if isinstance(i, (Step, Barrier)) else Work("", 0) for i in device.items]
                total += play([alone], pricer.streams + 1).ends[0]
        found[role] = round(share * total)
    return found


def _is_ahead(node: work.WorkNode) -> bool:
    """Whether it gathers weights that nothing in its loop makes."""
    return isinstance(node.work, work.Collective) and node.work.role == "weights" and not (node.deps or node.carried)


def _between(part: tuple[float, float], whole: int) -> int:
    return round(part[1] * whole) - round(part[0] * whole)


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
    relief: dict[str, int] = field(default_factory=dict)
    kernel: int | None = None  # the last item that computation did, or waited for

    def action(
        self, part: work.Part, stage: int, micro: int, homes: Homes | None, update: bool, hidden: Mapping[str, int]
    ) -> None:
        """An action of a virtual stage. homes: where all are; None: nothing is sent."""
        self.update, self.relief = update, dict(hidden) if update else {}
        compute, beside = self.sums(part)
        self.longer = 1 + self.pricer.cal.slowdown * min(1.0, beside / compute) if compute else 1.0
        servers = -(-self.ranks.devices // self.pricer.machine.domains[0])
        self.longer *= 1 + self.pricer.cal.jitter * log2(servers)
        ends: list[set[int]] = []  # per node, items
        until: list[float] = []  # per node, kernels that the host has dispatched by then
        posts: list[tuple[work.Post, set[int], float]] = []
        idle = True
        for node in part.nodes:
            needs = {item for d in node.deps for item in ends[d]}
            of, mine, launched = node.work, set[int](), 0.0
            if isinstance(of, work.Wait):
                if not idle:
                    self.end(posts, ends, stage, micro, homes)
                    until, idle = [0.0] * len(until), True
                source = stage + of.source
                come = Wait((of.name, source, stage, micro, self.peer(homes.group(source) if homes else 0)))
                gathers = set().union(*ends) if idle else set()  # of what came with it: all of it comes before them
                self.items.insert(len(self.items) - len(gathers), come)
                ends = [{item + 1 for item in of_node} if idle else of_node for of_node in ends]
            elif isinstance(of, work.Post):
                launched = max((until[d] for d in node.deps), default=0.0)
                posts.append((of, needs, launched))
                mine = needs
            elif isinstance(of, work.Meet):
                self.end(posts, ends, stage, micro, homes)
                until, idle = [0.0] * len(until), True
                alike = frozenset(self.peer(g) for g in of.groups)
                self.items.append(Meet((of.key, micro, alike), len(alike), self.pricer.meet(of)))
            else:
                idle = idle and isinstance(of, work.Collective) and of.role == "stages"
                mine = self.loop(of, needs) if isinstance(of, work.WorkLoop) else {self.item(node, needs)}
                launched = self.launches
            ends.append(mine)
            until.append(launched)
        self.end(posts, ends, stage, micro, homes)

    def end(
        self,
        posts: list[tuple[work.Post, set[int], float]],
        ends: list[set[int]],
        stage: int,
        micro: int,
        homes: Homes | None,
    ) -> None:
        """The host has dispatched all kernels, and all streams end; messages leave as soon as they were ready, and the
        host had dispatched all that makes them."""
        done, dispatched = 0, dict[float, int]()
        for launched in sorted({*[at for _, _, at in posts], self.launches}):
            dispatched[launched] = len(self.items)
            now = _ps(launched * self.pricer.cal.host)
            self.items.append(Step(self.pricer.streams, now - done))
            done = now
        self.items.append(Barrier())
        for post, needs, launched in posts:
            to = stage + post.to
            parts = prod(self.pricer.machine.sizes[a] for a in self.inside(post.alike))
            source, target = (homes.group(stage), homes.group(to)) if homes else (0, 0)
            takes = self.pricer.post(post.bytes / parts, source, target)
            key = (post.name, stage, to, micro, self.colour(self.rank))
            self.items.append(Post(key, takes, 0, self.pricer.cal.blocking_sends > 0, (*needs, dispatched[launched])))
        posts.clear()
        ends[:] = [set() for _ in ends]
        self.launches, self.kernel = 0.0, None

    def loop(self, loop: work.WorkLoop, outer: set[int]) -> set[int]:
        """All iterations, one after the other. What gathers a layer's weights goes when the layer before begins: when
        computation has done all that comes before that layer; what fetches them from elsewhere, so many layers early as
        the strategy says."""
        before: list[set[int]] = []
        begins: list[int | None] = []
        made = set(outer)
        pairs = self.pairs(loop)
        early: dict[int, set[int]] = {}  # of this iteration's weights what the iteration before has gathered
        for i in range(loop.count):
            begins.append(self.kernel)
            ends: list[set[int]] = []
            now: dict[int, set[int]] = {}
            for at, node in enumerate(loop.body.nodes):
                needs = outer | {x for d in node.deps for x in ends[d]}
                needs |= {x for c in node.carried if before for x in before[c]}
                of = node.work
                if i and at in early:
                    ends.append(early[at])
                    continue
                ahead = self.ahead(node)
                begun = begins[i - ahead] if ahead is not None and i >= ahead else None
                if begun is not None:
                    needs.add(begun)
                if isinstance(of, work.WorkLoop):
                    ends.append(self.loop(of, needs))
                    continue
                first, last = pairs.get(at, ((), ()))
                share = self.pricer.cal.ahead
                since = outer | ({begins[i]} if begins[i] is not None else set())
                for g in first if i < loop.count - 1 else ():
                    now[g] = {self.item(loop.body.nodes[g], since, (0.0, share))}
                if not last or share == 1:
                    ends.append({self.item(node, needs)})
                    continue
                self.item(node, needs, (0.0, 1 - share))
                for g in last if i < loop.count - 1 else ():
                    now[g].add(self.item(loop.body.nodes[g], since, (share, 1.0)))
                ends.append({self.item(node, needs, (1 - share, 1.0))})
            before, early = ends, now
            made |= {x for of_node in ends for x in of_node}
        return made

    def pairs(self, loop: work.WorkLoop) -> dict[int, tuple[list[int], list[int]]]:
        """Reductions of a layer's gradients, with the gathers of the next layer's weights that change places with them:
        those that find in it the first reduction on a link that they need, and those that find the last."""
        found: dict[int, tuple[list[int], list[int]]] = {}
        if self.update or not self.pricer.cal.ahead or not self.pricer.cal.prefetch or loop.count < 2:
            return found
        nodes = loop.body.nodes
        for g in (g for g, node in enumerate(nodes) if _is_ahead(node)):
            mine = [
                r
                for r, node in enumerate(nodes)
                if isinstance(node.work, work.Collective)
                and node.work.role == "gradients"
                and self.links(node.work) & self.links(nodes[g].work)
            ]
            if mine:
                found.setdefault(mine[0], ([], []))[0].append(g)
                found.setdefault(mine[-1], ([], []))[1].append(g)
        return found

    def ahead(self, node: work.WorkNode) -> int | None:
        """How many iterations before its own have to begin first; None: it goes as soon as it can."""
        if isinstance(node.work, work.Copy) and self.pricer.price(node.work).stream == COPY_IN:
            return node.work.ahead
        return 1 if _is_ahead(node) else None

    def links(self, of: work.Work) -> set[int]:
        """Streams that a message needs."""
        priced = self.pricer.price(of)
        return {priced.stream, *(s for s, _ in priced.also)}

    def item(self, node: work.WorkNode, needs: set[int], part: tuple[float, float] = (0.0, 1.0)) -> int:
        """A kernel, message or copy, or of a message what lies between two shares of it; the index of its item."""
        of = node.work
        if node.again and not self.pricer.cal.reentrant:  # nothing, in its place
            self.items.append(Step(COMPUTE, 0, tuple(needs)))
            self.kernel = len(self.items) - 1
            return self.kernel
        priced = self.pricer.price(of, self.update)
        takes, waited, key, members = _between(part, priced.ps), False, None, 1
        self.launches += priced.launches * (part[1] == 1)
        if isinstance(of, (work.Product, work.Vector)):
            takes = round(round(takes * self.longer) * self.slow)
        elif isinstance(of, work.Collective) and (of.role != "stages" or self.inside(of.axes)):
            waited = self.waits_for(of)
            less = min(self.relief.get(of.role, 0), takes)
            takes -= less
            self.relief[of.role] = self.relief.get(of.role, 0) - less
            if self.partition is not None:
                axes = self.inside(of.axes) if of.role == "stages" else of.axes
                alike = frozenset(map(self.colour, self.ranks.along(self.rank, axes)))
                key, members = (self.ranks.group(self.rank), of.axes, alike, len(self.items)), len(alike)
        also = tuple((s, min(_between(part, share), takes)) for s, share in priced.also)
        self.items.append(Step(priced.stream, takes, tuple(needs), waited, key, members, also))
        if waited or priced.stream == COMPUTE:
            self.kernel = len(self.items) - 1
        return len(self.items) - 1

    def waits_for(self, of: work.Collective) -> bool:
        """Whether computation waits for a message: for all in the update, and of activations, and where systems run
        none beside it; but for what goes to neighbours aside, which only its readers wait for."""
        return self.update or (of.role in ("activations", "stages") or not self.pricer.cal.prefetch) and not of.aside

    def inside(self, axes: Sequence[str]) -> list[str]:
        """Of these axes those whose devices share a server, and what comes from another stage."""
        server = self.pricer.machine.domains[0]
        near = [a for a in axes if self.ranks.strides[a] * self.ranks.sizes[a] <= server]
        return near if self.pricer.cal.scattered else []

    def sums(self, part: work.Part, times: int = 1) -> tuple[int, int]:
        """Picoseconds of kernels, and of messages that run beside them."""
        compute = beside = 0
        for node in part.nodes:
            of = node.work
            if node.again and not self.pricer.cal.reentrant:
                continue
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
