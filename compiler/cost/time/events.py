"""When what ran on each class of devices, from a pass over the plan."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.cost.price.kinds import Kind, Stream
from compiler.cost.price.pricer import Pricer
from compiler.cost.time.order import Plan, Result
from compiler.cost.time.timeline import Event


def step_events(plan: Plan, pricer: Pricer, result: Result, names: Sequence[int], once: Sequence[int]) -> list[Event]:
    """One event per activation, message, and all-reduce between groups. names: of the plan's classes; once: per class,
    picoseconds of what a step costs once."""
    events: list[Event] = []
    streams = [pricer.meet_stream(meet)[1] for meet in plan.meets]
    sent = zip(result.left, result.gone)
    for step, start, stop in zip(plan.steps, result.starts, result.stops):
        action, line, cls = step.action, plan.lines[step.line], names[step.cls]
        place = (action.mb, line.group, action.chunk, line.at)
        if step.after >= 0:
            came, over = result.came[step.after], result.over[step.after]
            name, stream = plan.meets[step.after].key, streams[step.after]
            events.append(Event(cls, stream, name, Kind.COLLECTIVE, came, over, action.mb, line.group))
        events.append(Event(cls, Stream.COMPUTE, str(action), action.kind, start, stop, *place, step.waits))
        for (message, route), (begin, gone) in zip(step.posts, sent):
            events.append(Event(cls, Stream.SEND, plan.routes[route].name, Kind.SEND, begin, gone, *place, (message,)))
    groups = {step.cls: plan.lines[step.line].group for step in plan.steps}
    for i, (cls, end, fixed) in enumerate(zip(names, result.ends, once)):
        events.append(Event(cls, Stream.COMPUTE, "once per step", Kind.HOST, end - fixed, end, 0, groups.get(i, 0)))
    return sorted((e for e in events if e.end_ps > e.start_ps), key=lambda e: (e.cls, e.start_ps, e.end_ps))
