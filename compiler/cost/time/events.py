"""When what ran on each class of devices, from a pass over the plan."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.cost.price.kinds import Kind, Stream
from compiler.cost.price.pricer import Pricer
from compiler.cost.time.clock import Durations, Moments, evaluate
from compiler.cost.time.order import Plan
from compiler.cost.time.stretch import PlanStep
from compiler.cost.time.timeline import Event


def step_events(
    plan: Plan, pricer: Pricer, durations: Durations, names: Sequence[int], once: Sequence[int]
) -> list[Event]:
    """One event per activation, message, and all-reduce between groups. names: of the plan's classes; once: per class,
    picoseconds of what a step costs once."""
    found = _Recorder(plan, pricer, durations, names)
    ends = evaluate(plan, durations, found, whole=True).ends
    for i, (cls, end, fixed) in enumerate(zip(names, ends, once)):
        group = found.groups.get(i, 0)
        found.events.append(Event(cls, Stream.COMPUTE, "once per step", Kind.HOST, end, end + fixed, 0, group))
    return sorted((e for e in found.events if e.end_ps > e.start_ps), key=lambda e: (e.cls, e.start_ps, e.end_ps))


class _Recorder:
    """Makes events of all that is played."""

    def __init__(self, plan: Plan, pricer: Pricer, durations: Durations, names: Sequence[int]) -> None:
        self.plan, self.durations, self.names = plan, durations, names
        self.streams = [pricer.meet_stream(meet)[1] for meet in plan.meets]
        self.events: list[Event] = []
        self.groups: dict[int, int] = {}  # of the classes

    def round(self, steps: Sequence[PlanStep], by: int, played: Moments, came: Sequence[int]) -> None:
        """All activations and messages of it."""
        plan, durations, add, later = self.plan, self.durations, self.events.append, by * self.plan.lanes
        sent = iter(played.gone)
        for step, start, stop in zip(steps, played.starts, played.stops):
            action, line, cls = step.action, plan.lines[step.line], self.names[step.cls]
            if by:
                action = action._replace(mb=action.mb + by)
            self.groups[step.cls] = line.group
            place = (action.mb, line.group, action.chunk, line.at)
            if step.after >= 0:
                begun, name = came[step.after], plan.meets[step.after].key
                over, stream = begun + durations.meets[step.after], self.streams[step.after]
                add(Event(cls, stream, name, Kind.COLLECTIVE, begun, over, action.mb, line.group))
            waits = tuple([m + later for m in step.waits])
            add(Event(cls, Stream.COMPUTE, str(action), action.kind, start, stop, *place, waits))
            for message, route in step.posts:
                gone, name = next(sent), plan.routes[route].name
                begin = gone - durations.posts[route]
                add(Event(cls, Stream.SEND, name, Kind.SEND, begin, gone, *place, (message + later,)))

    def mark(self) -> Sequence[int]:
        """Nothing is added up."""
        return ()

    def repeat(self, mark: Sequence[int], times: int) -> None:
        """Nothing is left out."""
