"""Communication: what goes over which axes and levels, what of it is exposed, and who sends to whom."""

from __future__ import annotations

from compiler.cost.price.kinds import STAGES
from compiler.cost.time.timeline import Spent, Timeline
from parc.report.html import esc, legend, num, section, share, svg, table, tag
from parc.report.spent import all_axes, axis_class, axis_name
from parc.report.trace import each
from parc.units import amount, percent, seconds

CELL = 16


def waiting(timeline: Timeline) -> int:
    """The class whose exposed communication `Timeline.exposed_by_axis` tells: the first of those that wait longest."""
    return max(range(len(timeline.spent)), key=lambda c: sum(timeline.spent[c].exposed.values()))


def communication(timeline: Timeline) -> str:
    """The section of the page; nothing if nothing is sent."""
    if not any(s.links for s in timeline.spent):
        return ""
    worst = waiting(timeline)
    spent = timeline.spent[worst]
    whose = each(timeline.classes[worst])
    if len(timeline.classes) > 1:
        whose += f" (stage {timeline.classes[worst].group}, which waits longest)"
    note = f"Of {whose}, in a step. Exposed is what computation waits for; the rest runs beside it."
    if any(link.axes == STAGES for link in spent.links):
        note += " What waits for the messages of other stages is the bubble."
    parts = [_table(timeline, spent)]
    if any(s.sends for s in timeline.spent):
        parts += [tag("h3", "Messages from stage to stage"), _matrix(timeline)]
    return section("communication", "Communication", note, *parts)


def _table(timeline: Timeline, spent: Spent) -> str:
    axes = all_axes(timeline)
    links = sorted(spent.links, key=lambda x: (-x.seconds, x.axes))
    longest = max((x.seconds for x in links), default=0.0) or 1.0
    rows = []
    kinds = {}
    for x in links:
        kind = axis_class(x.axes, axes)
        if x.exposed:
            kinds[kind] = f"exposed over {axis_name(x.axes, axes)}"
        bar = f'<rect class="{kind}" x="0" y="1" width="{share(x.exposed / longest)}" height="14"/>'
        hidden = (
            f'<rect class="hidden" x="{share(x.exposed / longest)}" y="1" width="{share(x.hidden / longest)}" '
            f'height="14"/>'
        )
        label = f"{x.axes}: {seconds(x.exposed)} exposed, {seconds(x.hidden)} hidden"
        of = percent(x.exposed / timeline.step_seconds)
        rows.append(
            [
                esc(x.axes),
                esc(x.level),
                svg(bar, hidden, label=label, width="100%", height=16),
                f"{x.calls:,}",
                esc(amount(x.bytes)),
                esc(seconds(x.seconds)),
                esc(seconds(x.exposed)),
                esc(seconds(x.hidden)),
                of,
            ]
        )
    head = ["over", "level", "", "calls", "sent", "time", "exposed", "hidden", "of the step"]
    keys = [(k, kinds[k]) for k in sorted(kinds)] + [("hidden", "hidden")]
    return legend(keys) + table(head, rows, left=2, class_="bars")


def _matrix(timeline: Timeline) -> str:
    """Rows send, columns receive. (All devices of a stage send as much.)"""
    of = {p.group: s for p, s in zip(timeline.classes, timeline.spent, strict=True)}
    count = len(of)
    most = max(n for s in timeline.spent for n in s.sends.values()) or 1.0
    margin = 34
    size = margin + count * CELL
    cells = []
    for source, spent in sorted(of.items()):
        y = margin + source * CELL
        for to, n in sorted(spent.sends.items()):
            tip = esc(f"stage {source} to stage {to}: {amount(n)} per device and step")
            cells.append(
                f'<rect x="{margin + to * CELL}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" '
                f'fill-opacity="{num(0.2 + 0.8 * n / most)}" data-tip="{tip}"/>'
            )
    every = max(1, count // 16)
    names = []
    for i in range(0, count, every):
        middle = margin + i * CELL + CELL // 2
        names.append(f'<text class="tick" x="{margin - 5}" y="{middle + 4}" text-anchor="end">{i}</text>')
        if count <= 10 or i // every % 2 == 0:  # numbers of two digits run into each other
            names.append(f'<text class="tick" x="{middle}" y="{margin - 6}" text-anchor="middle">{i}</text>')
    names.append(f'<text class="tick" x="{margin - 5}" y="12" text-anchor="end">from</text>')
    names.append(f'<text class="tick" x="{margin}" y="12">to stage</text>')
    frame = f'<rect class="frame" x="{margin}" y="{margin}" width="{count * CELL}" height="{count * CELL}"/>'
    label = f"Bytes that each of {count} stages sends to each other, at most {amount(most)}"
    inside = frame, tag("g", *cells, class_="sent"), *names
    scale = tag("p", esc(f"per device and step, at most {amount(most)}"), class_="scale")
    return tag("div", svg(*inside, label=label, width=max(size + 4, 100), height=size + 4), scale, class_="wide")
