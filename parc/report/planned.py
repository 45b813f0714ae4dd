"""`planned`: a plan as one page: time against memory of all that was priced, the best beside each other, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import parc
from dsl.data import dataclass
from dsl.diagnostics import plural
from parc.report.compared import ComparedStep, step_sections
from parc.report.document import document
from parc.report.html import esc, num, section, share, svg, table, tag, ticks
from parc.report.page import SCHEMA, step_data
from parc.report.pipeline import rows
from parc.units import amount, seconds

MOST_POINTS = 600
"""Of the picture, besides those of the front: the fastest of the others."""

BESIDE = 6
"""Plans in columns; what is best beyond that stands in the rows below."""

HEIGHT, TOP, BELOW = 320, 10, 36
"""Of the picture, in pixels: of the plane, and what is above and below it."""


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """A plan that fits. choices: name and what is chosen; text: its strategy; why: it is not the best, in a line."""

    seconds: float
    needed: int
    choices: tuple[tuple[str, str], ...]
    text: str
    why: str = ""
    days: float | None = None

    def differs(self, other: PlanPoint) -> str:
        """What it has that the other has not."""
        there = dict(other.choices)
        return ", ".join(f"{name} {of}" for name, of in self.choices if there.get(name) != of)


@dataclass(frozen=True, slots=True)
class PlanPage:
    """What a page is made of. points: all that fit, the best first; keep: so many are told in full; outcomes: what
    became of the candidates, in numbers; verdict: what is proved; facts: of the space; sides: whole steps, of some;
    cases: names and rows of all that were searched, where these are several; whole: what is proved of these."""

    title: str
    told: str
    points: Sequence[PlanPoint]
    keep: int
    capacity: float
    outcomes: Sequence[tuple[str, int]]
    verdict: str
    facts: Sequence[tuple[str, str]]
    strategy: str
    sides: Sequence[ComparedStep] = ()
    command: str = ""
    cases: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    whole: str = ""

    @property
    def best(self) -> Sequence[PlanPoint]:
        """Those that are listed."""
        return self.points[: self.keep]

    @property
    def front(self) -> list[PlanPoint]:
        """Those than which none is both as fast and as small: the fastest first."""
        found: list[PlanPoint] = []
        for point in sorted(self.points, key=lambda p: (p.seconds, p.needed)):
            if not found or point.needed < found[-1].needed:
                found.append(point)
        return found

    @property
    def listed(self) -> list[PlanPoint]:
        """The best, and those of the front that are none of them: in this order they are numbered, from 1 on."""
        return [*self.best, *(p for p in self.front if p not in self.best)]


def planned(of: PlanPage) -> str:
    """The page. The same argument gives the same bytes."""
    told, timelines = of.listed, [rows(s.estimate.timeline) for s in of.sides]
    body = [
        tag("header", tag("h1", esc(of.title)), tag("p", esc(of.told))),
        _headline(of),
        *_cases(of),
        _front(of, told),
        _beside(of, told),
        *([] if len(of.sides) < 2 else step_sections(of.sides, timelines)),
        _searched(of),
        _strategies(of, told),
    ]
    data = {
        "schema": SCHEMA,
        "parc": parc.__version__,
        "command": of.command,
        "best": [_json(p) for p in of.best],
        "front": [_json(p) for p in of.front],
        "outcomes": dict(of.outcomes),
        "sides": [
            {"name": s.name, **step_data(s.estimate, s.occupancy, r)} for s, r in zip(of.sides, timelines, strict=True)
        ],
    }
    return document(of.title, body, data)


def _json(point: PlanPoint) -> Mapping[str, Any]:
    return {
        "step_seconds": point.seconds,
        "needed_bytes": point.needed,
        "choices": dict(point.choices),
        "strategy": point.text,
    }


def _headline(of: PlanPage) -> str:
    best, total = of.points[0], sum(n for _, n in of.outcomes)
    cards = [
        ("step", seconds(best.seconds), "of the best"),
        ("device memory", amount(best.needed), f"of {amount(of.capacity)}"),
        *([("days", f"{best.days:,.1f}", "without failures")] if best.days is not None else []),
        ("strategies", f"{total:,}", "of the space"),
        ("fit", f"{len(of.points):,}", "of those that were priced"),
        ("front", f"{len(of.front):,}", "than which none is as fast and as small"),
    ]
    shown = [
        tag("div", tag("dt", esc(name)), tag("dd", tag("b", esc(value)), tag("span", esc(more))), class_="card")
        for name, value, more in cards
    ]
    parts = [tag("dl", *shown, class_="cards"), tag("p", tag("strong", esc(of.verdict)), class_="verdict")]
    return tag("section", *parts, id="headline")


def _cases(of: PlanPage) -> list[str]:
    """All cases beside each other."""
    if of.cases is None:
        return []
    head, lines = of.cases
    shown = [[esc(cell) for cell in line] for line in lines]
    return [section("cases", "Devices and numbers that were free", of.whole, table([esc(h) for h in head], shown))]


def _front(of: PlanPage, told: Sequence[PlanPoint]) -> str:
    """All that were priced and fit, by bytes and seconds; each of the front leads to its strategy."""
    front = of.front
    least, slowest = front[0].seconds, front[-1].seconds
    top = max(1.1 * slowest, 1.6 * least)
    others = [p for p in sorted(of.points, key=lambda p: p.seconds) if p not in front]
    near = [p for p in others if p.seconds <= top][:MOST_POINTS]
    most = max(p.needed for p in (*front, *near))
    room = of.capacity if of.capacity <= 3 * most else 0.0
    right = 1.06 * max(most, room)
    low = 0.0 if top > 3 * least else 2 * least - top if top < 1.5 * least else 0.6 * least

    def at(point: PlanPoint) -> tuple[str, str]:
        return share(point.needed / right), num(TOP + HEIGHT * (top - point.seconds) / (top - low))

    drawn = _axes(right, low, top)
    if room:
        x = share(room / right)
        drawn.append(f'<line class="capacity" x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + HEIGHT}"/>')
        drawn.append(f'<text class="capacity halo" x="{x}" dx="-6" y="{TOP + 12}" text-anchor="end">memory</text>')
    for point in near:
        x, y = at(point)
        tip = esc(_tip(point, of.points[0]))
        drawn.append(f'<circle class="plan" cx="{x}" cy="{y}" r="3.5" data-tip="{tip}"/>')
    for one, other in zip(front, front[1:]):  # as fast as the faster with its memory: steps
        (x1, y1), (x2, y2) = at(one), at(other)
        drawn.append(f'<line class="step" x1="{x1}" x2="{x1}" y1="{y1}" y2="{y2}"/>')
        drawn.append(f'<line class="step" x1="{x1}" x2="{x2}" y1="{y2}" y2="{y2}"/>')
    for point in front:
        x, y = at(point)
        number, tip = told.index(point) + 1, esc(_tip(point, of.points[0], whole=True))
        circle = f'<circle class="front" cx="{x}" cy="{y}" r="6" data-tip="{tip}"/>'
        label = f'<text class="halo" x="{x}" dx="9" y="{y}" dy="-6">{number}</text>'
        drawn.append(tag("a", circle, label, href=f"#plan-{number}", aria_label=_short(point)))
    far = len(others) - len(near)
    note = "Each point is a strategy that was priced exactly and fits. None is both as fast and as small as one with a "
    note += "number, which leads to its text below."
    note += f" {plural(far, 'slower one')} not drawn." if far else ""
    picture = svg(
        *drawn,
        label=f"time against memory of {len(front)} plans of the front",
        width="100%",
        height=TOP + HEIGHT + BELOW,
        class_="plot plans",
    )
    lines = [
        [
            tag("a", str(told.index(p) + 1), href=f"#plan-{told.index(p) + 1}"),
            esc(seconds(p.seconds)),
            esc(f"{p.seconds / least - 1:+.1%}") if p is not front[0] else "",
            esc(amount(p.needed)),
            tag("span", esc(p.differs(of.points[0]) or "the best")),
        ]
        for p in front
    ]
    head = ["", "step", "", "memory", "what differs from the best"]
    return section("front", "Time against memory", note, picture, table(head, lines, left=5))


def _axes(right: float, low: float, top: float) -> list[str]:
    """The grid, with bytes below and seconds beside it."""
    drawn = []
    for t in ticks(low, top, 6):
        y = TOP + HEIGHT * (top - t) / (top - low)
        drawn.append(f'<line class="grid" x1="0" x2="100%" y1="{num(y)}" y2="{num(y)}"/>')
        drawn.append(f'<text class="tick halo" x="0" dx="2" y="{num(y - 4)}">{esc(seconds(t))}</text>')
    size = 1.0
    while right / size >= 1024:
        size *= 1024
    for t in ticks(0, right / size, 8)[1:]:
        x = share(t * size / right)
        drawn.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + HEIGHT}"/>')
        y = TOP + HEIGHT + 16
        drawn.append(f'<text class="tick" x="{x}" y="{y}" text-anchor="middle">{esc(amount(t * size))}</text>')
    drawn.append(f'<line class="frame" x1="0" x2="100%" y1="{TOP + HEIGHT}" y2="{TOP + HEIGHT}"/>')
    return drawn


def _short(point: PlanPoint) -> str:
    return f"{seconds(point.seconds)}, {amount(point.needed)}"


def _tip(point: PlanPoint, best: PlanPoint, whole: bool = False) -> str:
    """What the pointer tells: figures, and the strategy or what differs."""
    return f"{_short(point)}\n{point.text if whole else point.differs(best) or 'the best'}"


def _beside(of: PlanPage, told: Sequence[PlanPoint]) -> str:
    """The best in columns: figures, what they share in a line, what differs marked; why each loses."""
    shown, first = of.best[:BESIDE], of.best[0]
    names = dict.fromkeys(name for p in shown for name, _ in p.choices)
    values = {name: [dict(p.choices).get(name, "–") for p in shown] for name in names}
    lines = [["step", *(esc(seconds(p.seconds)) for p in shown)], ["memory", *(esc(amount(p.needed)) for p in shown)]]
    if first.days is not None:
        lines.append(["days", *(f"{p.days or 0:,.1f}" for p in shown)])
    for name, of_each in values.items():
        if len(set(of_each)) > 1:
            cells = [tag("strong", esc(v)) if v != of_each[0] else esc(v) for v in of_each]
            lines.append([esc(name), *cells])
    if len(shown) > 1:
        lines.append(["why it loses", "the best", *(esc(p.why) for p in shown[1:])])
    head = ["", *(tag("a", str(i), href=f"#plan-{i}") for i in range(1, len(shown) + 1))]
    parts = [table(head, lines, left=1 + len(shown), class_="beside")]
    alike = [f"{name} {of_each[0]}" for name, of_each in values.items() if len(set(of_each)) == 1]
    if alike and len(shown) > 1:
        parts.append(tag("p", esc(f"All of them: {'; '.join(alike)}."), class_="note"))
    if more := of.best[BESIDE:]:
        numbers = [tag("a", str(told.index(p) + 1), href=f"#plan-{told.index(p) + 1}") for p in more]
        lines = [
            [number, esc(seconds(p.seconds)), esc(amount(p.needed)), esc(p.differs(first)), esc(p.why)]
            for number, p in zip(numbers, more, strict=True)
        ]
        parts.append(table(["", "step", "memory", "what differs", "why it loses"], lines, left=5))
    return section("best", "The best beside each other", "What is not as in the first is marked.", *parts)


def _searched(of: PlanPage) -> str:
    """What became of all candidates, as parts of the whole."""
    total = sum(n for _, n in of.outcomes) or 1
    lines = []
    for what, n in of.outcomes:
        bar = f'<rect class="product" x="0" y="2" width="{share(n / total)}" height="12"/>'
        lines.append([esc(what), svg(bar, label=f"{what}: {n:,}", width="100%", height=16), f"{n:,}"])
    facts = [[esc(name), esc(what)] for name, what in of.facts]
    return section(
        "searched",
        "What was searched",
        of.verdict,
        table(["", "", "strategies"], lines, class_="bars few"),
        table(["", ""], facts, left=2, class_="facts"),
    )


def _strategies(of: PlanPage, told: Sequence[PlanPoint]) -> str:
    """The texts: of the best as it stands in the file, of the others their statements."""
    parts = []
    for number, point in enumerate(told, 1):
        text = of.strategy if number == 1 else point.text
        name = "the best" if number == 1 else point.differs(told[0]) or point.why
        parts.append(
            tag(
                "div",
                tag("h3", esc(f"{number}: {_short(point)}: {name}")),
                tag("pre", tag("code", esc(text))),
                id=f"plan-{number}",
            )
        )
    if of.command:
        parts += [tag("h3", "Made by"), tag("pre", tag("code", esc(of.command)))]
    return section("strategies", "The strategies", "", *parts)


def chosen(points: Sequence[PlanPoint], front: Sequence[PlanPoint], most: int = 3) -> list[PlanPoint]:
    """Which steps are worth a look beside the best: along the front from the fastest to the smallest; where it has too
    few, the next best. The best is the first of them."""
    first = points[0]
    others = [p for p in front if p is not first]
    if len(others) >= most:
        places = [round(i * (len(others) - 1) / (most - 2)) for i in range(most - 1)] if most > 2 else [len(others) - 1]
        return [first, *(others[i] for i in dict.fromkeys(places))]
    found = [first, *others]
    last = inf
    for p in points[1:]:
        if len(found) >= most:
            break
        if p not in found and p.seconds != last:  # of those that take the very same one is enough
            found.append(p)
        last = p.seconds
    return found[:most]
