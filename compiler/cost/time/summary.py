"""From what was played to a `Timeline`: events, bubble, exposed communication, and what takes longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.cost.kernels.work import Loop, Meet, Part, Post, Product, Vector, Wait
from compiler.cost.price.pricer import COMPUTE, COPY, Pricer, picoseconds
from compiler.cost.time.order import Key, Result
from compiler.cost.time.spent import SLOWER, spent, sums, with_slow_peers
from compiler.cost.time.step import Segment
from compiler.cost.time.timeline import PICOSECONDS, Cost, Event, Events, Player, Spent, Timeline
from compiler.cost.time.varied import Varied

if TYPE_CHECKING:
    from compiler.cost.time.simulate import Simulation

BUBBLE = "device groups that wait for each other (the bubble of the pipeline)"
SLOW = "slow devices, and waits for them"
SHOWN = 12
"""Entries of the list of what takes longest."""


def summarise(
    simulation: Simulation,
    pricer: Pricer,
    costs: Sequence[Mapping[Key, list[Segment]]],
    result: Result,
    classes: tuple[Player, ...],
) -> Timeline:
    """All figures of a step in which devices of a group are alike."""
    features, program = simulation.features, simulation.program
    step = max(result.ends, default=0)
    slowest = result.ends.index(step) if result.ends else 0
    added = sums(simulation, pricer, costs, result)
    total = step * len(result.ends)
    top, kinds = _top(simulation, pricer, slowest)
    parts = spent(simulation, pricer, added, step)
    waiting = parts[slowest].bubble if parts else 0.0
    candidates = _candidates(simulation, pricer, slowest, kinds, parts[slowest]) if parts else {}
    exposed = max((s.exposed for s in added), key=lambda by_axes: sum(by_axes.values()), default={})
    update = max((sum(s.duration for s in found.get(("U", 0), ())) for found in costs), default=0)
    bubble = max(0.0, 1 - sum(s.work for s in added) / total) if total else 0.0
    meets = (simulation.plan.costs[cost] for cost, _ in simulation.plan.meets)
    streams = [pricer.meet_stream(costs[c][key][i].meet)[1] for c, key, i in meets]
    return Timeline(
        step / PICOSECONDS,
        Events(lambda: _events(simulation, streams, result, picoseconds(pricer.cal.fixed))),
        classes,
        tuple(s.compute / PICOSECONDS for s in added),
        bubble,
        {a: ps / PICOSECONDS for a, ps in exposed.items()},
        simulation.flops_model,
        features.flops,
        pricer.machine.peak(features.dtype),
        program.devices,
        features.samples,
        features.tokens,
        _traffic(parts),
        top,
        update / PICOSECONDS,
        bottleneck(step / PICOSECONDS, candidates, classes, slowest),
        candidates,
        waiting + pricer.cal.fixed + update / PICOSECONDS,
        parts,
        slowest,
    )


def _candidates(
    simulation: Simulation, pricer: Pricer, group: int, kinds: Mapping[str, float], part: Spent
) -> dict[str, float]:
    """What a step of a device of the group is spent on -> seconds. kinds: those of its kernels, from `_top`."""
    once = pricer.cal.fixed * simulation.counts[group].get(("U", 0), 0)
    found = {
        "products of matrices": kinds.get("product", 0.0),
        "element-wise work and reductions, bound by memory bandwidth": kinds.get("vector", 0.0),
        "the optimizer, bound by memory bandwidth": kinds.get("update", 0.0),
        "launches of kernels that are short": kinds.get("launch", 0.0),
        BUBBLE: part.bubble,
        "what a step costs once: data, logging, the optimizer's host work": once,
        "the host, which dispatches kernels more slowly than the device runs them": part.host - once,
    }
    return found | {SLOW if axes == SLOWER else unhidden(axes): s for axes, s in part.exposed.items()}


def unhidden(axes: str) -> str:
    """What a step is spent on, of messages over these axes."""
    return f"communication over {axes} that nothing hides"


def with_slow_devices(
    simulation: Simulation, pricer: Pricer, nominal: Timeline, played: Varied, classes: tuple[Player, ...]
) -> Timeline:
    """The step as its classes play it. Exposed communication and traffic stay those of devices that are alike."""
    step = max(played.ends, default=0)
    slowest = played.ends.index(step)
    group = classes[slowest].group
    alike = round(nominal.busy[group] * PICOSECONDS)
    top, kinds = _top(simulation, pricer, group, played.busy[slowest] / alike if alike else 1.0)
    seconds = step / PICOSECONDS
    inside = sum(c.count * ps for c, ps in zip(classes, played.inside))
    bubble = max(0.0, 1 - inside / (step * nominal.devices)) if step else 0.0
    parts = tuple(
        with_slow_peers(nominal.spent[c.group], busy / PICOSECONDS, inside / PICOSECONDS, seconds)
        for c, busy, inside in zip(classes, played.busy, played.inside, strict=True)
    )
    candidates = _candidates(simulation, pricer, group, kinds, parts[slowest])
    candidates[SLOW] = candidates.get(SLOW, 0.0) + (played.busy[slowest] - alike) / PICOSECONDS
    return replace(
        nominal,
        step_seconds=seconds,
        events=Events(lambda: played.events),
        classes=classes,
        busy=tuple(b / PICOSECONDS for b in played.busy),
        bubble=bubble,
        update_seconds=max(played.update, default=0) / PICOSECONDS,
        top=top,
        bottleneck=bottleneck(seconds, candidates, classes, slowest),
        candidates=candidates,
        spent=parts,
        slowest=slowest,
    )


def _events(simulation: Simulation, streams: Sequence[str], result: Result, fixed: int) -> list[Event]:
    """One event per activation, message, and all-reduce between groups. streams: of these; fixed: picoseconds."""
    of = simulation.plan
    events: list[Event] = []
    sent = iter(result.sent)
    for step, start, stop in zip(of.steps, result.starts, result.stops):
        g, action = step.group, step.action
        if step.after >= 0:
            came, over = result.came[step.after], result.over[step.after]
            if over > came:
                name = of.meets[step.after][1]
                events.append(Event(g, streams[step.after], name, "collective", came, over, action.mb, g))
        if stop > start:
            where = (action.mb, g, action.chunk, of.costs[step.cost][2])
            events.append(Event(g, "compute", str(action), action.kind, start, stop, *where, step.waits))
        for message, _ in step.posts:
            route, begin, end = next(sent)
            if end > begin:
                where = (action.mb, g, action.chunk, of.costs[step.cost][2])
                events.append(Event(g, "send", of.names[route], "send", begin, end, *where, (message,)))
    for g, (end, counts) in enumerate(zip(result.ends, simulation.counts)):
        if fixed * counts.get(("U", 0), 0):
            events.append(Event(g, "compute", "once per step", "host", end - fixed, end, 0, g))
    events.sort(key=lambda e: (e.cls, e.start_ps, e.end_ps))
    return events


def _traffic(parts: Sequence[Spent]) -> dict[str, float]:
    """Bytes by axes, of the device that sends most over them, as `run` counts them; most bytes first."""
    most: dict[str, float] = {}
    for link in (link for part in parts for link in part.links if link.bytes):
        most[link.axes] = max(most.get(link.axes, 0.0), link.bytes)
    return dict(sorted(most.items(), key=lambda x: -x[1]))


def _top(
    simulation: Simulation, pricer: Pricer, group: int, factor: float = 1.0
) -> tuple[tuple[Cost, ...], dict[str, float]]:
    """Of a device of the group in a step: what takes longest, where kernels take `factor` times as long; and seconds by
    kind of work, as if they did not."""
    found: dict[tuple[str, str], list[float]] = {}
    kinds: dict[str, float] = {}
    parts = simulation.features.parts[simulation.program_class[group]]

    def walk(part: Part, n: int, update: bool) -> None:
        for node in part.nodes:
            work = node.work
            if isinstance(work, Loop):
                walk(work.body, n * work.count, update)
                continue
            if isinstance(work, (Wait, Post, Meet)):
                continue
            priced = pricer.price(work, update)
            kind, taken = priced.kind, n * priced.ps / PICOSECONDS
            time = taken * (factor if priced.stream == COMPUTE else 1.0)
            if priced.stream == COMPUTE:
                launch = 0.0 if update else n * priced.launches * pricer.cal.launch
                kinds["launch"] = kinds.get("launch", 0.0) + launch
                kind, taken = "update" if update else kind, taken - launch
            kinds[kind] = kinds.get(kind, 0.0) + taken
            name = node.name if priced.stream in (COMPUTE, COPY) else f"{node.name} over {priced.axes}"
            flops = work.flops if isinstance(work, (Product, Vector)) else 0.0
            moved = work.bytes if isinstance(work, (Product, Vector)) else priced.sent
            entry = found.setdefault((name, priced.kind), [0.0, 0, 0.0, 0.0])
            for i, x in enumerate((time, n, n * flops, n * moved)):
                entry[i] += x

    for key, n in simulation.counts[group].items():
        if key in parts:
            walk(parts[key], n, key[0] == "U")
    longest = sorted(found.items(), key=lambda x: -x[1][0])[:SHOWN]
    top = tuple(Cost(name, kind, s, int(n), flops, moved) for (name, kind), (s, n, flops, moved) in longest)
    return top, kinds


def bottleneck(step: float, candidates: Mapping[str, float], classes: Sequence[Player], slowest: int) -> str:
    """The one thing that takes most of the step, said in a sentence. `candidates`: what -> seconds, of the class that
    ends last: its shares are not those of all devices."""
    what, seconds = max(candidates.items(), key=lambda x: x[1], default=("", 0.0))
    whose = f" of stage {classes[slowest].group}, which ends last" if len(classes) > 1 else ""
    return f"{what[0].upper()}{what[1:]}: {seconds / step:.0%} of the step{whose}." if what and step else ""
