"""What the devices of each group spend a step on, and what each axis of communication takes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compiler.cost.kernels.work import Loop, Meet, Part, Post, Wait
from compiler.cost.price.pricer import COMM, COMPUTE, Pricer, picoseconds
from compiler.cost.time.order import Key, Result
from compiler.cost.time.step import Segment, stretch, totals
from compiler.cost.time.timeline import PICOSECONDS, Link, Spent

if TYPE_CHECKING:
    from compiler.cost.time.simulate import Simulation

STAGES = "stages"
"""What stands for the axes of what device groups send each other."""

SLOWER = "slower devices"
"""What stands for the axes where peers are late: more than the messages themselves take."""


class _Function:
    """What one run of a function takes, loops multiplied out: picoseconds of kernels by kind, and messages by axes."""

    def __init__(self, part: Part, pricer: Pricer, update: bool) -> None:
        self.pricer, self.update = pricer, update
        self.stretch = stretch(totals(part, pricer, update), pricer)
        self.kernels = {"product": 0, "vector": 0}
        self.links: dict[str, list[float]] = {}  # axes -> stream, calls, bytes, picoseconds
        self.posts: list[tuple[Post, int]] = []
        self.meets: list[tuple[Meet, int]] = []
        self.walk(part, 1)

    def walk(self, part: Part, n: int) -> None:
        for node in part.nodes:
            work = node.work
            if isinstance(work, Loop):
                self.walk(work.body, n * work.count)
            elif isinstance(work, Post):
                self.posts.append((work, n))
            elif isinstance(work, Meet):
                self.meets.append((work, n))
            elif not isinstance(work, Wait):
                priced = self.pricer.price(work, self.update)
                if priced.stream == COMPUTE:
                    ps = priced.ps if self.stretch == 1.0 else round(priced.ps * self.stretch)
                    self.kernels[priced.kind] += n * ps
                else:
                    found = self.links.setdefault(priced.axes, [priced.stream, 0, 0.0, 0])
                    for i, x in enumerate((n, n * priced.sent, n * priced.ps), 1):
                        found[i] += x


@dataclass(frozen=True, slots=True)
class Sums:
    """Picoseconds of the devices of a group in a step. compute: of kernels, launches included; exposed: waits for
    messages by axes, the longest first, none of zero; host: waits for the host, between kernels and once per step;
    meets: of `exposed`, all-reduces between groups."""

    compute: int
    exposed: dict[str, int]
    host: int
    meets: int

    @property
    def work(self) -> int:
        """All but the bubble."""
        return self.compute + self.host + sum(self.exposed.values())


def sums(
    simulation: Simulation, pricer: Pricer, costs: Sequence[Mapping[Key, list[Segment]]], result: Result
) -> tuple[Sums, ...]:
    """Per device group, over all segments of its actions."""
    meets = [0] * simulation.program.groups
    for played in simulation.plan.steps:
        if played.after >= 0:
            meets[played.group] += result.over[played.after] - result.came[played.after]
    found = []
    for group, counts in enumerate(simulation.counts):
        compute, host = 0, picoseconds(pricer.cal.fixed) * counts.get(("U", 0), 0)
        exposed = {STAGES: meets[group]}
        for key, n in counts.items():
            for segment in costs[simulation.program_class[group]].get(key, ()):
                compute += n * segment.compute
                host += n * (segment.duration - segment.compute - sum(segment.exposed.values()))
                for axes, ps in segment.exposed.items():
                    exposed[axes] = exposed.get(axes, 0) + n * ps
        longest = {a: ps for a, ps in sorted(exposed.items(), key=lambda x: -x[1]) if ps}
        found.append(Sums(compute, longest, host, meets[group]))
    return tuple(found)


def spent(simulation: Simulation, pricer: Pricer, added: Sequence[Sums], step: int) -> tuple[Spent, ...]:
    """Per device group, to the picosecond. `added`: its `sums`; step: picoseconds."""
    functions = [
        {key: _Function(part, pricer, key[0] == "U") for key, part in parts.items()}
        for parts in simulation.features.parts
    ]
    names = [level.name for level in pricer.machine.levels]
    found = []
    for group, counts in enumerate(simulation.counts):
        c = simulation.program_class[group]
        kernels = {"product": 0, "vector": 0, "update": 0}
        total = added[group]
        links: dict[str, list[float]] = {}
        sends: dict[int, float] = {}
        for key, n in counts.items():
            if key not in functions[c]:
                continue
            function = functions[c][key]
            for kind, ps in function.kernels.items():
                kernels["update" if key[0] == "U" else kind] += n * ps
            for axes, (stream, *rest) in function.links.items():
                _add(links, axes, stream, *(n * x for x in rest))
            for post, times in function.posts:
                to = (key[1] * simulation.program.groups + group + post.to) % simulation.program.groups
                if to != group:
                    ps, level = pricer.post(post.bytes, group, to), pricer.machine.between(group, to)
                    sends[to] = sends.get(to, 0.0) + n * times * post.bytes
                    _add(links, STAGES, COMM + level, n * times, n * times * post.bytes, n * times * ps)
            for meet, times in function.meets:
                to, sent = meet.next(group), n * times * meet.sent
                sends[to] = sends.get(to, 0.0) + sent
                _add(links, STAGES, pricer.meet_stream(meet)[0], n * times, sent, 0)
        if total.meets:
            links[STAGES][3] += total.meets
        found.append(
            Spent(
                kernels["product"] / PICOSECONDS,
                kernels["vector"] / PICOSECONDS,
                kernels["update"] / PICOSECONDS,
                {a: ps / PICOSECONDS for a, ps in total.exposed.items()},
                total.host / PICOSECONDS,
                (step - total.work) / PICOSECONDS,
                tuple(_link(axes, entry, total.exposed.get(axes, 0), names) for axes, entry in links.items()),
                sends,
            )
        )
    return tuple(found)


def with_slow_peers(alike: Spent, busy: float, inside: float, step: float) -> Spent:
    """What it is for a device that is slow or has slow peers; `alike`: if none were. busy: seconds of its own kernels;
    inside: of activations, with all waits in them. Kernels keep their proportions; what is waited for longer than by
    devices that are alike is `SLOWER`, and who comes late himself waits less."""
    kernels = alike.products + alike.vectors + alike.update
    factor = busy / kernels if kernels else 1.0
    host = min(alike.host, max(0.0, inside - busy))
    waits = max(0.0, inside - busy - host)
    before = sum(alike.exposed.values())
    share = min(1.0, waits / before) if before else 0.0
    exposed = {axes: s * share for axes, s in alike.exposed.items() if s * share > 0}
    if waits - before > 1 / PICOSECONDS:  # less is rounding
        exposed[SLOWER] = waits - before
    return replace(
        alike,
        products=alike.products * factor,
        vectors=alike.vectors * factor,
        update=alike.update * factor,
        exposed=exposed,
        links=tuple(replace(link, exposed=exposed.get(link.axes, 0.0)) for link in alike.links),
        host=host,
        bubble=max(0.0, step - busy - host - waits),
    )


def _add(links: dict[str, list[float]], axes: str, stream: float, calls: float, sent: float, ps: float) -> None:
    """Adds up by axes; the outermost level counts."""
    entry = links.setdefault(axes, [stream, 0, 0.0, 0])
    entry[0] = max(entry[0], stream)
    for i, x in enumerate((calls, sent, ps), 1):
        entry[i] += x


def _link(axes: str, entry: Sequence[float], exposed: int, names: Sequence[str]) -> Link:
    stream, calls, sent, ps = entry
    level = names[int(stream) - COMM] if COMM <= stream < COMM + len(names) else ""
    return Link(axes, level, int(calls), sent, ps / PICOSECONDS, exposed / PICOSECONDS)
