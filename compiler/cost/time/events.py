"""When what ran on each class of devices, from a pass over the plan."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.cost.price.kinds import Kind, Stream
from compiler.cost.price.pricer import Pricer
from compiler.cost.time.order import Plan, Result
from compiler.cost.time.slow import Classes
from compiler.cost.time.timeline import Event


def step_events(
    plan: Plan,
    pricer: Pricer,
    result: Result,
    names: Sequence[Sequence[int]],
    once: Sequence[int],
    classes: Classes | None = None,
) -> list[Event]:
    """One event per activation, message, and all-reduce between groups. names: per group, its classes; once: per group,
    picoseconds of what a step costs once; classes: if not all devices of a group are alike."""
    events: list[Event] = []
    sent = iter(result.sent)
    streams = [pricer.meet_stream(meet)[1] for meet in plan.meets]
    for step, starts, stops in zip(plan.steps, result.starts, result.stops):
        g, action, line = step.group, step.action, plan.lines[step.line]
        where = (action.mb, g, action.chunk, line.at)
        mine = names[g]
        if step.after >= 0:
            came, over = result.came[step.after], result.over[step.after]
            name, stream = plan.meets[step.after].key, streams[step.after]
            for cls, p in zip(mine, classes.peers(g, line.met) if classes else (0,)):
                events.append(Event(cls, stream, name, Kind.COLLECTIVE, came[p], over[p], action.mb, g))
        for cls, a, b in zip(mine, starts, stops):
            events.append(Event(cls, Stream.COMPUTE, str(action), action.kind, a, b, *where, step.waits))
        for message, _ in step.posts:
            route, begun, gone = next(sent)
            for cls, a, b in zip(mine, begun, gone):
                events.append(Event(cls, Stream.SEND, plan.routes[route].name, Kind.SEND, a, b, *where, (message,)))
    for g, mine in enumerate(names):
        for cls, end in zip(mine, result.ends[g]):
            events.append(Event(cls, Stream.COMPUTE, "once per step", Kind.HOST, end - once[g], end, 0, g))
    return sorted((e for e in events if e.end_ps > e.start_ps), key=lambda e: (e.cls, e.start_ps, e.end_ps))
