"""Where the step's time goes: for the class that ends last as a waterfall, for all classes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.cost.price.kinds import SLOWER, Over
from compiler.cost.time.timeline import Player, Spent, Timeline
from compiler.program import FunctionPhase
from parc.report.html import esc, legend, section, share, svg, table, tag
from parc.report.trace import devices, each
from parc.units import percent, seconds

NAMES = {
    "product": "products of matrices",
    "vector": "element-wise work and reductions",
    FunctionPhase.UPDATE: "update of the weights",
    "host": "host, and once per step",
    "idle": "bubble: waits for other stages",
}

OWN = 4
"""So many axes have a colour of their own."""


def axis_class(axes: Over, all_axes: Sequence[Over]) -> str:
    """The colour of what goes over these axes. all_axes: those that something waits for, the longest first."""
    return f"x{all_axes.index(axes)}" if axes in all_axes[:OWN] else f"x{OWN}"


def axis_name(axes: Over, all_axes: Sequence[Over]) -> str:
    """What a legend calls that colour."""
    return axes if axes in all_axes[:OWN] else "other axes"


def all_axes(timeline: Timeline) -> list[Over]:
    """Of all classes, those that wait longest first."""
    longest: dict[Over, float] = {}
    for spent in timeline.spent:
        for axes, s in spent.exposed.items():
            longest[axes] = max(longest.get(axes, 0.0), s)
    return sorted(longest, key=lambda a: -longest[a])


def parts(
    spent: Spent, axes: Sequence[Over], called: Mapping[Over, Over] | None = None
) -> list[tuple[str, str, float]]:
    """(class of the colour, name, seconds): all that a step consists of; what takes no time is left out.

    called: what axes are called in `axes`, where that is another name.
    """
    exposed = {(called or {}).get(a, a): s for a, s in spent.exposed.items()}
    found = [("product", NAMES["product"], spent.products), ("vector", NAMES["vector"], spent.vectors)]
    found += [(axis_class(a, axes), _waits(a), exposed.get(a, 0.0)) for a in axes]
    found += [
        ("idle", NAMES["idle"], spent.bubble),
        (FunctionPhase.UPDATE, NAMES[FunctionPhase.UPDATE], spent.update),
        ("host", NAMES["host"], spent.host),
    ]
    return [p for p in found if p[2] > 0]


def _waits(axes: Over) -> str:
    return f"waits for {SLOWER}" if axes == SLOWER else f"exposed communication over {axes}"


def waterfall(timeline: Timeline) -> str:
    """The section of the page."""
    if not timeline.spent or not timeline.step_seconds:
        return ""
    axes = all_axes(timeline)
    step, slowest = timeline.step_seconds, timeline.slowest
    rows, at = [], 0.0
    for kind, name, s in parts(timeline.spent[slowest], axes):
        bar = f'<rect class="{kind}" x="{share(at / step)}" y="2" width="{share(s / step)}" height="14"/>'
        lead = f'<line class="grid" x1="{share(at / step)}" x2="{share(at / step)}" y1="0" y2="18"/>'
        picture = svg(lead, bar, label=f"{name}: {seconds(s)}", width="100%", height=18)
        rows.append([esc(name), picture, esc(seconds(s)), percent(s / step)])
        at += s
    rows.append([tag("strong", "step"), "", tag("strong", esc(seconds(step))), percent(1.0)])
    whose = each(timeline.classes[slowest])
    if len(timeline.classes) > 1:
        whose += f" (stage {timeline.classes[slowest].group}, which ends last)"
    note = f"Of {whose}. The parts follow each other in the picture, not in time; they add up to the step."
    found = [table(["part", "", "time", "of the step"], rows, class_="bars few")]
    if len(timeline.classes) > 1:
        several = len(timeline.classes) > 1 + timeline.classes[-1].group
        found += [tag("h3", "All devices" if several else "All stages"), _stages(timeline, axes)]
    return section("time", "Where the time goes", note, *found)


def _stages(timeline: Timeline, axes: Sequence[Over]) -> str:
    """A bar for each class; classes in a row that spend the same share one."""
    step = timeline.step_seconds
    rows: list[list[str]] = []
    seen: list[tuple[int, int, list[tuple[str, str, float]]]] = []
    for c, spent in enumerate(timeline.spent):
        mine = parts(spent, axes)
        if seen and seen[-1][2] == mine and not timeline.classes[c].runs:
            seen[-1] = (seen[-1][0], c, mine)
        else:
            seen.append((c, c, mine))
    kinds: dict[str, str] = {}
    for first, last, mine in seen:
        at, boxes = 0.0, []
        for kind, name, s in mine:
            kinds[kind] = name if kind != f"x{OWN}" else "exposed communication over other axes"
            told = esc(f"{name}: {seconds(s)}, {percent(s / step)}")
            boxes.append(
                f'<rect class="{kind}" x="{share(at / step)}" y="1" width="{share(s / step)}" height="14" '
                f'data-tip="{told}"/>'
            )
            at += s
        name = _name(timeline.classes[first], timeline.classes[last])
        busy = sum(timeline.busy[first : last + 1]) / (last - first + 1)
        picture = svg(*boxes, label=f"Shares of the step of {name}", width="100%", height=16)
        rows.append([esc(name), picture, percent(busy / step)])
    order = ["product", "vector", *(f"x{i}" for i in range(OWN + 1)), "idle", FunctionPhase.UPDATE, "host"]
    keys = [(k, kinds[k]) for k in order if k in kinds]
    return legend(keys) + table(["devices", "", "computes"], rows, class_="bars few")


def _name(first: Player, last: Player) -> str:
    """Of classes in a row: their stages; where the devices of a stage differ, which they are."""
    if first.runs:
        return f"stage {first.group}: {devices(first)}" + (f" to {devices(last)}" if last is not first else "")
    return f"stage {first.group}" if first is last else f"stages {first.group} to {last.group}"
