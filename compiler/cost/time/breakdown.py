"""Where a step goes, from what was played: per device group and axes, events, bubble, and what takes longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.cost.kernels.work import Meet, Part, Post, Product, Vector
from compiler.cost.price.kinds import HOSTS, SLOWER, STAGES, Kind, Over
from compiler.cost.price.pricer import COMM, COMPUTE, PICOSECONDS, Pricer, picoseconds
from compiler.cost.time.clock import Durations, Result
from compiler.cost.time.events import step_events
from compiler.cost.time.groups import Groups
from compiler.cost.time.inside import Inside
from compiler.cost.time.order import Plan
from compiler.cost.time.slow import Classes
from compiler.cost.time.step import Played
from compiler.cost.time.tasks import stretch, totals
from compiler.cost.time.timeline import Cost, Event, Events, Link, Player, Spent, Timeline
from compiler.program import FunctionKey, FunctionPhase
from dsl.data import dataclass

BUBBLE = "device groups that wait for each other (the bubble of the pipeline)"
SLOW = "slow devices, and waits for them"
UPDATE: FunctionKey = (FunctionPhase.UPDATE, 0)
SHOWN = 12
"""Entries of the list of what takes longest."""


class _Function:
    """What one run of a function takes: picoseconds of kernels by kind, and messages by axes."""

    def __init__(self, part: Part, pricer: Pricer, update: bool) -> None:
        self.lines = list(pricer.prices(part, update))
        works = [(node.work, n) for node, n in part.each()]
        self.posts = [(work, n) for work, n in works if isinstance(work, Post)]
        self.meets = [(work, n) for work, n in works if isinstance(work, Meet)]
        slower = stretch(totals(part, pricer, update), pricer)
        self.kernels: dict[str, int] = {Kind.PRODUCT: 0, Kind.VECTOR: 0}
        self.links: dict[Over, list[float]] = {}  # axes -> stream, calls, bytes, picoseconds
        for _, priced, n in self.lines:
            if priced.stream == COMPUTE:
                self.kernels[priced.kind] += n * (priced.ps if slower == 1.0 else round(priced.ps * slower))
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
    exposed: dict[Over, int]
    host: int
    meets: int

    @property
    def work(self) -> int:
        """All but the bubble."""
        return self.compute + self.host + sum(self.exposed.values())


@dataclass(slots=True)
class Varied:
    """Picoseconds, per class of devices. ends; busy: of its own kernels; inside: of activations and what they wait for
    in them; update: of the optimizer's; events, whose `cls` is the class."""

    ends: list[int]
    busy: list[int]
    inside: list[int]
    update: list[int]
    events: Sequence[Event]


# --- devices that are alike -------------------------------------------------------------------------------------------


def summarise(
    groups: Groups,
    pricer: Pricer,
    costs: Sequence[Mapping[FunctionKey, Sequence[Played]]],
    durations: Durations,
    result: Result,
    flops_model: float,
) -> Timeline:
    """All figures of a step in which devices of a group are alike. `costs`: per class of the program."""
    features, program = groups.features, groups.program
    ends = result.ends
    step = max(ends, default=0)
    slowest = ends.index(step) if ends else 0
    added = _sums(groups, pricer, costs, result)
    total = step * len(ends)
    functions = [
        {key: _Function(part, pricer, key[0] == FunctionPhase.UPDATE) for key, part in parts.items()}
        for parts in features.parts
    ]
    top, kinds = _top(groups, pricer, slowest, functions[groups.of_class[slowest]])
    parts = _spent(groups, pricer, functions, added, step)
    waiting = parts[slowest].bubble if parts else 0.0
    candidates = _candidates(groups, pricer, slowest, kinds, parts[slowest]) if parts else {}
    exposed = max((s.exposed for s in added), key=lambda by_axes: sum(by_axes.values()), default={})
    update = max((sum(s.duration for s in found.get(UPDATE, ())) for found in costs), default=0)
    once = [picoseconds(pricer.cal.fixed) * (UPDATE in n) for n in groups.counts]
    return Timeline(
        step_seconds=step / PICOSECONDS,
        events=Events(lambda: step_events(groups.plan, pricer, durations, range(groups.number), once)),
        classes=groups.players,
        busy=tuple(s.compute / PICOSECONDS for s in added),
        bubble=max(0.0, 1 - sum(s.work for s in added) / total) if total else 0.0,
        exposed_by_axis={a: ps / PICOSECONDS for a, ps in exposed.items()},
        flops_model=flops_model,
        flops_hardware=features.flops + (features.again if pricer.cal.reentrant > 0 else 0.0),
        peak_flops=pricer.machine.peak(features.dtype),
        devices=program.devices,
        samples=features.samples,
        tokens=features.tokens,
        traffic=_traffic(parts),
        top=top,
        update_seconds=update / PICOSECONDS,
        bottleneck=bottleneck(step / PICOSECONDS, candidates, groups.players, slowest),
        candidates=candidates,
        once_seconds=waiting + ((once[slowest] if once else 0) + update) / PICOSECONDS,
        spent=parts,
        slowest=slowest,
    )


def _sums(
    groups: Groups, pricer: Pricer, costs: Sequence[Mapping[FunctionKey, Sequence[Played]]], result: Result
) -> tuple[Sums, ...]:
    """Per device group, over all segments of its actions."""
    meets = [0] * groups.number
    for of in groups.plan.stretches:
        for step in of.steps:
            if step.after >= 0:
                meets[step.cls] += of.times * (result.over[step.after] - result.came[step.after])
    found = []
    for group, counts in enumerate(groups.counts):
        compute, host = 0, picoseconds(pricer.cal.fixed) * counts.get(UPDATE, 0)
        exposed = {STAGES: meets[group]}
        for key, n in counts.items():
            for segment in costs[groups.of_class[group]].get(key, ()):
                compute += n * segment.compute
                host += n * (segment.duration - segment.compute - sum(segment.exposed.values()))
                for axes, ps in segment.exposed.items():
                    exposed[axes] = exposed.get(axes, 0) + n * ps
        longest = {a: ps for a, ps in sorted(exposed.items(), key=lambda x: -x[1]) if ps}
        found.append(Sums(compute, longest, host, meets[group]))
    return tuple(found)


def _spent(
    groups: Groups,
    pricer: Pricer,
    functions: Sequence[Mapping[FunctionKey, _Function]],
    added: Sequence[Sums],
    step: int,
) -> tuple[Spent, ...]:
    """Per device group, to the picosecond. `added`: its `Sums`; step: picoseconds."""
    names = [level.name for level in pricer.machine.levels]
    found = []
    homes = groups.program.homes
    for group, counts in enumerate(groups.counts):
        kernels = {Kind.PRODUCT: 0, Kind.VECTOR: 0, "update": 0}
        total = added[group]
        links: dict[Over, list[float]] = {}
        sends: dict[int, float] = {}
        for key, n in counts.items():
            function = functions[groups.of_class[group]].get(key)
            if function is None:
                continue
            for kind, ps in function.kernels.items():
                kernels["update" if key[0] == FunctionPhase.UPDATE else kind] += n * ps
            for axes, (stream, *rest) in function.links.items():
                _add(links, axes, stream, *(n * x for x in rest))
            for post, times in function.posts:
                to = homes.group(homes.stage(group, key[0].at(key[1])) + post.to)
                if to != group:
                    sent, runs = pricer.part(post), n * times
                    ps, level = pricer.post(sent, group, to), pricer.machine.between(group, to)
                    sends[to] = sends.get(to, 0.0) + runs * sent
                    _add(links, STAGES, COMM + level, runs, runs * sent, runs * ps)
            for meet, times in function.meets:
                to, sent = meet.next(group), n * times * meet.sent
                sends[to] = sends.get(to, 0.0) + sent
                _add(links, STAGES, pricer.meet_stream(meet)[0], n * times, sent, 0)
        if total.meets:
            links[STAGES][3] += total.meets
        found.append(
            Spent(
                kernels[Kind.PRODUCT] / PICOSECONDS,
                kernels[Kind.VECTOR] / PICOSECONDS,
                kernels["update"] / PICOSECONDS,
                {a: ps / PICOSECONDS for a, ps in total.exposed.items()},
                total.host / PICOSECONDS,
                (step - total.work) / PICOSECONDS,
                tuple(_link(axes, entry, total.exposed.get(axes, 0), names) for axes, entry in links.items()),
                sends,
            )
        )
    return tuple(found)


def _add(links: dict[Over, list[float]], axes: Over, stream: float, calls: float, sent: float, ps: float) -> None:
    """Adds up by axes; the outermost level counts."""
    entry = links.setdefault(axes, [stream, 0, 0.0, 0])
    entry[0] = max(entry[0], stream)
    for i, x in enumerate((calls, sent, ps), 1):
        entry[i] += x


def _link(axes: Over, entry: Sequence[float], exposed: int, names: Sequence[str]) -> Link:
    stream, calls, sent, ps = entry
    level = names[int(stream) - COMM] if COMM <= stream < COMM + len(names) else ""
    return Link(axes, level, int(calls), sent, ps / PICOSECONDS, exposed / PICOSECONDS)


def _traffic(parts: Sequence[Spent]) -> dict[Over, float]:
    """Bytes by axes, of the device that sends most over them, as `run` counts them; most bytes first."""
    most: dict[Over, float] = {}
    for link in (link for part in parts for link in part.links if link.bytes):
        most[link.axes] = max(most.get(link.axes, 0.0), link.bytes)
    return dict(sorted(most.items(), key=lambda x: -x[1]))


# --- devices of which some are slow -----------------------------------------------------------------------------------


def varied(
    groups: Groups,
    pricer: Pricer,
    plan: Plan,
    durations: Durations,
    result: Result,
    inside: Inside,
    classes: Classes,
) -> Varied:
    """What a step is for each class of devices. plan: of the classes; inside: what was added up as it was played."""
    names = [colour for of in classes.of for colour in of]
    busy = [0] * plan.classes
    for of in plan.stretches:
        for step in of.steps:
            busy[step.cls] += of.times * durations.timings[step.line].busy
    fixed = picoseconds(pricer.cal.fixed)
    once = [fixed if UPDATE in groups.parts(g) else 0 for g, of in enumerate(classes.of) for _ in of]
    events = Events(lambda: step_events(plan, pricer, durations, names, once))
    at_colour = sorted(range(plan.classes), key=lambda i: names[i])
    spent = [t + more for t, more in zip(inside.spent, once)]
    ends, busy, spent, update = ([of[i] for i in at_colour] for of in (result.ends, busy, spent, inside.update))
    return Varied(ends, busy, spent, update, events)


def with_slow_devices(
    groups: Groups, pricer: Pricer, nominal: Timeline, played: Varied, classes: tuple[Player, ...]
) -> Timeline:
    """The step as its classes play it. Exposed communication and traffic stay those of devices that are alike."""
    step = max(played.ends, default=0)
    slowest = played.ends.index(step)
    group = classes[slowest].group
    alike = round(nominal.busy[group] * PICOSECONDS)
    functions = {
        key: _Function(part, pricer, key[0] == FunctionPhase.UPDATE) for key, part in groups.parts(group).items()
    }
    top, kinds = _top(groups, pricer, group, functions, played.busy[slowest] / alike if alike else 1.0)
    seconds = step / PICOSECONDS
    inside = sum(c.count * ps for c, ps in zip(classes, played.inside))
    parts = tuple(
        with_slow_peers(nominal.spent[c.group], busy / PICOSECONDS, inside / PICOSECONDS, seconds)
        for c, busy, inside in zip(classes, played.busy, played.inside, strict=True)
    )
    candidates = _candidates(groups, pricer, group, kinds, parts[slowest])
    candidates[SLOW] = candidates.get(SLOW, 0.0) + (played.busy[slowest] - alike) / PICOSECONDS
    return replace(
        nominal,
        step_seconds=seconds,
        events=played.events,
        classes=classes,
        busy=tuple(b / PICOSECONDS for b in played.busy),
        bubble=max(0.0, 1 - inside / (step * nominal.devices)) if step else 0.0,
        update_seconds=max(played.update, default=0) / PICOSECONDS,
        top=top,
        bottleneck=bottleneck(seconds, candidates, classes, slowest),
        candidates=candidates,
        spent=parts,
        slowest=slowest,
    )


def with_slow_peers(alike: Spent, busy: float, inside: float, step: float) -> Spent:
    """What it is for a device that is slow or has slow peers; `alike`: if none were. busy: seconds of its own kernels;
    inside: of activations, with all waits in them. Kernels keep their proportions; what is waited for longer than by
    devices that are alike is `SLOWER`, and a device that comes late itself waits less."""
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


# --- of both ----------------------------------------------------------------------------------------------------------


def _top(
    groups: Groups, pricer: Pricer, group: int, functions: Mapping[FunctionKey, _Function], factor: float = 1.0
) -> tuple[tuple[Cost, ...], dict[str, float]]:
    """Of a device of the group in a step: what takes longest, where kernels take `factor` times as long; and seconds by
    kind of work, as if they did not."""
    found: dict[tuple[str, str], list[float]] = {}
    kinds: dict[str, float] = {}
    for key, runs in groups.counts[group].items():
        for node, priced, times in functions[key].lines if key in functions else ():
            work, update, n = node.work, key[0] == FunctionPhase.UPDATE, runs * times
            kind, taken = priced.kind, n * priced.ps / PICOSECONDS
            time = taken * (factor if priced.stream == COMPUTE else 1.0)
            if priced.stream == COMPUTE:
                launch = 0.0 if update else n * priced.launches * pricer.cal.launch
                kinds["launch"] = kinds.get("launch", 0.0) + launch
                kind, taken = "update" if update else kind, taken - launch
            kinds[kind] = kinds.get(kind, 0.0) + taken
            name = node.name if priced.stream < COMM else f"{node.name} over {priced.axes}"
            flops = work.flops if isinstance(work, (Product, Vector)) else 0.0
            moved = work.bytes if isinstance(work, (Product, Vector)) else priced.sent
            entry = found.setdefault((name, priced.kind), [0.0, 0, 0.0, 0.0])
            for i, x in enumerate((time, n, n * flops, n * moved)):
                entry[i] += x
    longest = sorted(found.items(), key=lambda x: -x[1][0])[:SHOWN]
    top = tuple(Cost(name, kind, s, int(n), flops, moved) for (name, kind), (s, n, flops, moved) in longest)
    return top, kinds


def _candidates(
    groups: Groups, pricer: Pricer, group: int, kinds: Mapping[str, float], part: Spent
) -> dict[str, float]:
    """What a step of a device of the group is spent on -> seconds. kinds: those of its kernels, from `_top`."""
    once = pricer.cal.fixed * groups.counts[group].get(UPDATE, 0)
    found = {
        "products of matrices": kinds.get(Kind.PRODUCT, 0.0),
        "element-wise work and reductions, bound by memory bandwidth": kinds.get(Kind.VECTOR, 0.0),
        "the optimizer, bound by memory bandwidth": kinds.get("update", 0.0),
        "launches of kernels that are short": kinds.get("launch", 0.0),
        BUBBLE: part.bubble,
        "what a step costs once: data, logging, the optimizer's host work": once,
        "the host, which dispatches kernels more slowly than the device runs them": part.host - once,
    }
    return found | {SLOW if axes == SLOWER else unhidden(axes): s for axes, s in part.exposed.items()}


def unhidden(axes: Over) -> str:
    """What a step is spent on, of messages over these axes."""
    if axes == HOSTS:
        return "what the hosts compute, beside which nothing runs"
    return f"communication over {axes} that nothing hides"


def bottleneck(step: float, candidates: Mapping[str, float], classes: Sequence[Player], slowest: int) -> str:
    """The one thing that takes most of the step, said in a sentence. `candidates`: what -> seconds, of the class that
    ends last: its shares are not those of all devices."""
    what, seconds = max(candidates.items(), key=lambda x: x[1], default=("", 0.0))
    whose = f" of stage {classes[slowest].group}, which ends last" if len(classes) > 1 else ""
    return f"{what[0].upper()}{what[1:]}: {seconds / step:.0%} of the step{whose}." if what and step else ""
