"""Plays devices piece by piece, loops unrolled: each device, or one for each class of those that behave alike.

Slower than `simulate`'s way (functions played once) and without its assumption that all devices of a group are
alike: so it is what plays slow devices, and what the other is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from compiler.cost.kernels.program import Features
from compiler.cost.kernels.work import Collective, Loop, Meet, Node, Part, Post, Wait
from compiler.cost.price.pricer import COMPUTE, Pricer, picoseconds
from compiler.cost.time import engine
from compiler.cost.time.step import is_prefetch, stretch, totals
from compiler.numbering import Ranks
from compiler.program import Program
from compiler.schedules import unroll


@dataclass(slots=True)
class _Emitter:
    """The items of a device, or class of devices. Without colours: of any, and keys of collectives are their axes."""

    pricer: Pricer
    ranks: Ranks
    rank: int
    colours: Sequence[int] | None
    slow: float
    items: list[engine.Item]
    update: bool = False
    stretch: float = 1.0
    launches: float = 0.0
    relief: int = 0
    known: dict[tuple[str, ...], frozenset[int]] = field(default_factory=dict)

    @property
    def host(self) -> int:
        """The stream of the host, behind the device's own."""
        return self.pricer.streams

    def colour(self, rank: int) -> int:
        """The class of a device."""
        return self.colours[rank] if self.colours is not None else 0

    def alike(self, axes: tuple[str, ...]) -> frozenset[int]:
        """The classes that a collective brings together."""
        if axes not in self.known:
            self.known[axes] = frozenset(self.colour(r) for r in self.ranks.along(self.rank, axes))
        return self.known[axes]

    def node(self, node: Node, deps: tuple[int, ...]) -> int:
        """Emit a kernel, message or copy; the index of its item."""
        priced = self.pricer.price(node.work, self.update)
        ps = priced.ps
        key: object = None
        members = 1
        if priced.stream == COMPUTE:
            ps = round(round(ps * self.stretch) * self.slow)
        elif isinstance(node.work, Collective):
            if self.relief and node.work.role == "gradients":
                less = min(self.relief, ps)
                self.relief, ps = self.relief - less, ps - less
            key = node.work.axes
            if self.colours is not None:
                alike = self.alike(node.work.axes)
                members = len(alike)
                key = (self.ranks.group(self.rank), node.work.axes, alike, len(self.items))
        self.launches += priced.launches
        also = tuple((s, min(share, ps)) for s, share in priced.also)
        self.items.append(engine.Step(priced.stream, ps, deps, priced.blocking, key, members, also))
        return len(self.items) - 1

    def loop(self, loop: Loop, outer: tuple[int, ...]) -> list[int]:
        """Emit all iterations; the items whose ends are the loop's end."""
        before: list[list[int]] = []
        began: list[int] = []  # what starts the iteration before: the last kernel of the one before that
        last: list[int] = []
        for _ in range(loop.count):
            kernels = list(last)
            ends: list[list[int]] = []
            for node in loop.body.nodes:
                deps = set(outer)
                deps.update(began if is_prefetch(node) else ())
                deps.update(x for d in node.deps for x in ends[d])
                deps.update(x for c in node.carried for x in (before[c] if before else ()))
                if isinstance(node.work, Loop):
                    ends.append(self.loop(node.work, tuple(sorted(deps))))
                    kernels = ends[-1]
                else:
                    at = self.node(node, tuple(sorted(deps)))
                    ends.append([at])
                    item = self.items[at]
                    assert isinstance(item, engine.Step)
                    if item.stream == COMPUTE or item.blocking:
                        kernels = [at]
            before, began, last = ends, last, kernels
        return sorted({x for found in before for x in found} | set(outer))

    def close(self) -> None:
        """The host's dispatch, and the end of all streams."""
        host = picoseconds(self.launches * self.pricer.cal.host)
        self.launches = 0.0
        self.items += [engine.Step(self.host, host), engine.Barrier()]

    def function(self, part: Part, stage: int, micro: int, stages: int, groups: int, relief: int) -> None:
        """Emit one action."""
        own = stage % groups
        self.relief = relief
        self.stretch = stretch(totals(part, self.pricer, self.update), self.pricer)
        ends: list[list[int]] = []
        posts: list[tuple[Post, tuple[int, ...]]] = []
        dirty = False

        def close() -> None:
            nonlocal dirty
            self.close()
            for post, deps in posts:
                to = stage + post.to
                duration = self.pricer.post(post.bytes, own, to % groups)
                key = (post.name, stage, to, micro, self.colour(self.rank))
                self.items.append(engine.Post(key, duration, 0, self.pricer.cal.blocking_sends > 0, deps))
            posts.clear()
            ends[:] = [[] for _ in ends]
            dirty = False

        for node in part.nodes:
            deps = tuple(sorted({x for d in node.deps for x in ends[d]}))
            work = node.work
            if isinstance(work, Wait):
                if dirty:
                    close()
                source = stage + work.source
                peer = self.colour(self.ranks.peer(self.rank, source % groups))
                self.items.append(engine.Wait((work.name, source, stage, micro, peer)))
                ends.append([])
            elif isinstance(work, Post):
                posts.append((work, deps))
                ends.append(list(deps))
            elif isinstance(work, Meet):
                close()
                alike = frozenset(self.colour(self.ranks.peer(self.rank, g)) for g in work.groups)
                self.items.append(engine.Meet((work.key, micro, alike), len(alike), self.pricer.meet(work)))
                ends.append([])
            elif isinstance(work, Loop):
                dirty = True
                ends.append(self.loop(work, deps))
            else:
                dirty = True
                ends.append([self.node(node, deps)])
        close()


def function_items(
    program: Program, pricer: Pricer, part: Part, stage: int, update: bool, relief: int
) -> list[engine.Item]:
    """The items of an action of a virtual stage, on devices that are not slow; keys of collectives are their axes."""
    ranks = Ranks.of(program)
    emitter = _Emitter(pricer, ranks, ranks.base(stage % program.groups), None, 1.0, [], update)
    emitter.function(part, stage, 0, program.stages, program.groups, relief)
    return emitter.items


def play_ranks(
    program: Program,
    features: Features,
    pricer: Pricer,
    colours: Sequence[int],
    slow: dict[int, float],
    relief: Sequence[int],
) -> engine.Played:
    """One player per colour (its first rank stands for it), in the order of the colours.

    `relief`: per device group, picoseconds of its reductions of gradients that are hidden.
    """
    groups = program.groups
    chunks = max(1, program.stages // groups)
    ranks = Ranks.of(program)
    where = {g: i for i, c in enumerate(program.classes) for g in c.groups}
    players: list[list[engine.Item]] = []
    first: dict[int, int] = {}
    for rank, colour in enumerate(colours):
        first.setdefault(colour, rank)
    for colour in range(len(first)):
        rank = first[colour]
        group = ranks.group(rank)
        emitter = _Emitter(pricer, ranks, rank, colours, slow.get(rank, 1.0), [])
        parts = features.parts[where[group]]
        for action in unroll(program.classes[where[group]].schedule, group, groups, chunks):
            part = parts.get((action.kind, action.chunk))
            if part is None:
                continue
            emitter.update = action.kind == "U"
            stage = action.chunk * groups + group
            emitter.function(part, stage, action.mb, program.stages, groups, relief[group] if emitter.update else 0)
            if emitter.update:
                emitter.items.append(engine.Work("fixed", picoseconds(pricer.cal.fixed)))
        players.append(emitter.items)
    return engine.play(players, None, pricer.streams + 1)
