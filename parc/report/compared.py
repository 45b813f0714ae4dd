"""`compared`: the steps of several jobs on one page, each on the scale of all: why one takes less than another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import unified_diff

import parc
from compiler.cost.price.kinds import Over
from compiler.cost.price.pricer import PICOSECONDS
from compiler.memory.occupancy import Occupancy
from compiler.memory.tiers import FIRST
from dsl.data import dataclass
from parc.comparison import called_alike, change, compare, verdict
from parc.estimate import Estimate
from parc.report.document import document
from parc.report.html import esc, legend, section, share, svg, table, tag
from parc.report.memory import FAR, CurveScale, curve, fullest, levels
from parc.report.page import SCHEMA, step_data, strategy_facts
from parc.report.pipeline import BOXES, Rows, keys_of, names_of, rows, whole
from parc.report.spent import all_axes, parts
from parc.report.trace import each
from parc.setup import setup
from parc.units import amount, percent, seconds

LEAST = 0.002
"""Of the longest step: causes below are not listed."""


@dataclass(frozen=True, slots=True)
class ComparedStep:
    """One of what is compared: its name, its price, what its memories hold, and the source text of its strategy."""

    name: str
    estimate: Estimate
    occupancy: Mapping[int, Occupancy]
    strategy: str = ""


def compared(sides: Sequence[ComparedStep], command: str = "") -> str:
    """The page: figures, why they differ, waterfalls, timelines, memory and traffic side by side, the strategies.

    sides: two at least; the others are held against the first. The same arguments give the same bytes.
    """
    found = [rows(s.estimate.timeline) for s in sides]
    title = " | ".join(s.name for s in sides)
    body = [
        tag("header", tag("h1", esc(title)), tag("p", esc(_told(sides)))),
        _headline(sides),
        *step_sections(sides, found),
        _strategies(sides, command),
    ]
    data = [{"name": s.name, **step_data(s.estimate, s.occupancy, r)} for s, r in zip(sides, found, strict=True)]
    return document(title, body, {"schema": SCHEMA, "parc": parc.__version__, "command": command, "sides": data})


def step_sections(sides: Sequence[ComparedStep], found: Sequence[Rows]) -> list[str]:
    """What steps spend their time on, when, what they hold and what they send, beside each other. found: of each its
    timeline."""
    return [_causes(sides), _waterfalls(sides), _timelines(sides, found), _memory(sides), _traffic(sides)]


def _told(sides: Sequence[ComparedStep]) -> str:
    told = []
    for s in sides:
        job = s.estimate.compiled.job
        assert job.cluster is not None
        devices = f"{s.estimate.timeline.devices:,} {job.cluster.device.name}"
        told.append(f"{job.name}: {job.model.name} with {job.strategy.name} on {devices}")
    return told[0] if len(set(told)) == 1 else "; ".join(told)


_FIGURES: tuple[tuple[str, Callable[[Estimate], float], Callable[[float], str], int], ...] = (
    ("step", lambda e: e.timeline.step_seconds, seconds, -1),
    ("tokens/s", lambda e: e.timeline.tokens_per_second, lambda n: f"{n:,.0f}", 1),
    ("tokens/s per device", lambda e: e.timeline.tokens_per_second / e.timeline.devices, lambda n: f"{n:,.1f}", 1),
    ("MFU", lambda e: e.timeline.mfu, percent, 1),
    ("HFU", lambda e: e.timeline.hfu, percent, 1),
    ("bubble", lambda e: e.timeline.bubble, percent, -1),
    ("exposed communication", lambda e: e.timeline.exposed, seconds, -1),
    ("device memory", lambda e: float(e.needed), amount, -1),
    ("… of what there is", lambda e: e.needed / e.capacity if e.capacity else 0.0, percent, -1),
)
"""What is told of each side, how, and which way is better."""


def _headline(sides: Sequence[ComparedStep]) -> str:
    """Figures side by side, the best of each line marked; and which is fastest of those that fit."""
    lines = []
    for name, figure, shown, better in _FIGURES:
        values = [figure(s.estimate) for s in sides]
        best = max(values) if better > 0 else min(values)
        alike = max(values) - min(values) <= 1e-9 * abs(max(values))
        cells = []
        for i, value in enumerate(values):
            text = esc(shown(value))
            cells.append(tag("strong", text) if value == best and not alike else text)
            if i:
                cells.append(esc(change(values[0], value)))
        lines.append([esc(name), *cells])
    found = [table(["of a step", *_columns(sides)], lines)]
    fitting = [s for s in sides if s.estimate.fits]
    for s in sides:
        if s not in fitting:
            told = f"{s.name} does not fit: {amount(s.estimate.needed)} of {amount(s.estimate.capacity)}."
            found.append(tag("p", esc(told), class_="verdict bad"))
    if fitting:
        fastest = min(fitting, key=lambda s: s.estimate.timeline.step_seconds)
        of = " of those that fit" if len(fitting) < len(sides) else ""
        found.append(tag("p", tag("strong", esc(f"Fastest{of}: {fastest.name}.")), class_="verdict"))
    return tag("section", *found, id="headline")


def _columns(sides: Sequence[ComparedStep]) -> list[str]:
    """Heads of figures: of the first alone, of the others with how they change."""
    return [esc(sides[0].name), *(x for s in sides[1:] for x in (esc(s.name), ""))]


def _causes(sides: Sequence[ComparedStep]) -> str:
    """What a step of each spends more, or less, time on than one of the first: bars to the right and to the left."""
    found = []
    longest = max(s.estimate.timeline.step_seconds for s in sides) or 1.0
    comparisons = [compare(sides[0].estimate, s.estimate) for s in sides[1:]]
    widest = max((abs(s) for c in comparisons for s in c.causes.values()), default=0.0) or 1.0
    for side, c in zip(sides[1:], comparisons, strict=True):
        found.append(tag("p", esc(verdict((sides[0].name, side.name), c)), class_="verdict"))
        lines = []
        for what, s in c.causes.items():
            if abs(s) < LEAST * longest:
                continue
            width = abs(s) / widest / 2
            bar = f'<rect class="{"x0" if s > 0 else "B"}" x="{share(0.5 if s > 0 else 0.5 - width)}" y="2" '
            bar += f'width="{share(width)}" height="12"/><line class="grid" x1="50%" x2="50%" y1="0" y2="16"/>'
            label = f"{what}: {'+' if s > 0 else '-'}{seconds(abs(s))}"
            change = f"{'+' if s > 0 else '−'}{seconds(abs(s))}"
            lines.append([esc(what), svg(bar, label=label, width="100%", height=16), esc(change)])
        if lines:
            found.append(table([f"{esc(side.name)} spends", "less | more", "time"], lines, class_="bars few"))
    note = "Of the slowest devices of each: their own work, what they wait for of communication, and of other stages."
    return section("why", f"Against {sides[0].name}", note, *found)


def _alike(sides: Sequence[ComparedStep]) -> list[dict[Over, Over]]:
    """Of each side: its axes -> as the first calls them."""
    return [called_alike(sides[0].estimate, s.estimate) for s in sides]


def _waterfalls(sides: Sequence[ComparedStep]) -> str:
    """The step of the slowest devices of each, in parts, on one scale; and the parts as numbers."""
    longest = max(s.estimate.timeline.step_seconds for s in sides)
    if not longest:
        return ""
    called = _alike(sides)
    axes: list[Over] = []
    for s, names in zip(sides, called, strict=True):
        axes += [a for x in all_axes(s.estimate.timeline) if (a := names.get(x, x)) not in axes]
    amounts: dict[str, tuple[str, list[float]]] = {}
    bars, whose = [], []
    for i, (s, names) in enumerate(zip(sides, called, strict=True)):
        t = s.estimate.timeline
        whose.append(f"{s.name}: {each(t.classes[t.slowest])}")
        at, boxes = 0.0, []
        for kind, name, part in parts(t.spent[t.slowest], axes, names):
            amounts.setdefault(name, (kind, [0.0] * len(sides)))[1][i] += part
            told = esc(f"{name}: {seconds(part)}, {percent(part / t.step_seconds)}")
            x, width = share(at / longest), share(part / longest)
            boxes.append(f'<rect class="{kind}" x="{x}" y="1" width="{width}" height="20" data-tip="{told}"/>')
            at += part
        label = f"{s.name}: {seconds(t.step_seconds)}"
        bars.append([esc(s.name), svg(*boxes, label=label, width="100%", height=22), esc(seconds(t.step_seconds))])
    lines = []
    for name, (kind, values) in amounts.items():
        cells = [esc(seconds(values[0]))]
        for v in values[1:]:
            cells += [esc(seconds(v)), esc(change(values[0], v))]
        lines.append([tag("span", tag("i", class_=f"key {kind}"), f" {esc(name)}", class_="role"), *cells])
    note = (
        f"Of the devices that end last ({'; '.join(whose)}). The parts add up to the step; all bars are on one scale."
    )
    return section(
        "time",
        "Where the time goes",
        note,
        table(["", "", "step"], bars, class_="bars few"),
        table(["part", *_columns(sides)], lines),
    )


def _timelines(sides: Sequence[ComparedStep], found: Sequence[Rows]) -> str:
    """Every class of devices of every side, on one axis of time."""
    length = max(r.length for r in found)
    kinds: dict[str, str] = {}
    for s, r in zip(sides, found, strict=True):
        kinds |= dict(keys_of(s.estimate.timeline, r))
    pictures = []
    for i, (s, r) in enumerate(zip(sides, found, strict=True)):
        title = tag("h3", esc(f"{s.name}: {seconds(r.length / PICOSECONDS)}"))
        picture = whole(names_of(s.estimate.timeline), r.longer(length), "all" if r.count <= BOXES else "shares")
        pictures.append(tag("div", title, picture, data_side=i))
    note = f"All on one axis of {seconds(length / PICOSECONDS)}. A row is a class of devices, a box a pass of a "
    note += "micro-batch; where there are too many to be told apart, how each part of the step is shared."
    return section("pipeline", "Timelines", note, legend(kinds.items()), *pictures)


def _memory(sides: Sequence[ComparedStep]) -> str:
    """The fullest device of each over time, one memory after the other, on one scale of bytes and of time."""
    kinds = dict.fromkeys(k for s in sides for o in s.occupancy.values() for k in o)
    found = []
    for kind in kinds:
        drawn = []
        for i, s in enumerate(sides):
            e = s.estimate
            if any(f.moment.memory == kind for f in e.fullest):
                group = fullest(e, kind)
                series = s.occupancy[group][kind]
                if series.peak:
                    (full,) = (f for f in e.fullest if f.moment.memory == kind)
                    capacity = e.capacity if kind == FIRST else 0.0
                    drawn.append((i, s, full, series, levels(e.timeline, group, series), capacity))
        if not drawn:
            continue
        most = max(full.needed for _, _, full, *_ in drawn)
        room = max(capacity for *_, capacity in drawn)
        far = room > FAR * most
        length = max(of[-1].end for *_, of, _ in drawn)
        scale = CurveScale(length, 1.08 * max(most, 0.0 if far else room), far)
        for i, s, full, series, of, capacity in drawn:
            title = tag("h3", esc(s.name))
            picture = curve(s.estimate.timeline, full, series, of, capacity, scale)
            found.append(tag("div", title, *picture, data_side=i))
    note = "Bytes on one of the fullest devices, with its software; all pictures have the same scales."
    return section("memory", "Memory", note, *found)


def _traffic(sides: Sequence[ComparedStep]) -> str:
    """What a device sends over which axes, and how much of the time is exposed."""
    called = _alike(sides)
    sent: list[dict[Over, float]] = []
    exposed: list[dict[Over, float]] = []
    for s, names in zip(sides, called, strict=True):
        t = s.estimate.timeline
        sent.append({names.get(a, a): n for a, n in t.traffic.items()})
        exposed.append({names.get(a, a): n for a, n in t.exposed_by_axis.items()})
    over = dict.fromkeys(a for of in (*sent, *exposed) for a in of)
    if not over:
        return ""
    lines = []
    for a in over:
        cells = []
        for bytes_, waits in zip(sent, exposed, strict=True):
            cells += [esc(amount(bytes_[a])) if a in bytes_ else "–", esc(seconds(waits.get(a, 0.0)))]
        lines.append([esc(a), *cells])
    head = ["over", *(x for s in sides for x in (f"{esc(s.name)} sends", "exposed"))]
    return section("communication", "Communication", "Of a device, in a step.", table(head, lines))


def _strategies(sides: Sequence[ComparedStep], command: str) -> str:
    """What differs in what is run, and in the texts of the strategies."""
    facts = [dict([*setup(s.estimate), *strategy_facts(s.estimate)]) for s in sides]
    names = dict.fromkeys(n for f in facts for n in f)
    lines = [[esc(n), *(esc(f.get(n, "–")) for f in facts)] for n in names if len({f.get(n) for f in facts}) > 1]
    found = [table(["", *(esc(s.name) for s in sides)], lines, left=1 + len(sides), class_="facts")] if lines else []
    first = sides[0]
    for s in sides[1:]:
        change = _diff(first, s)
        if change:
            found += [tag("h3", esc(f"{first.name} and {s.name}")), tag("pre", tag("code", change))]
    if not found:
        found = [tag("p", "Nothing.")]
    if command:
        found += [tag("h3", "Made by"), tag("pre", tag("code", esc(command)))]
    return section("strategy", "What differs in the strategies", "", *found)


def _diff(one: ComparedStep, other: ComparedStep) -> str:
    """The lines of their texts that differ, with those around them, as markup."""
    before, after = one.strategy.splitlines(), other.strategy.splitlines()
    lines = unified_diff(before, after, one.name, other.name, lineterm="", n=2)
    shown: list[str] = []
    for line in lines:
        kind = {"+": "added", "-": "removed"}.get(line[:1]) if not line.startswith(("+++", "---")) else None
        shown.append(tag("span", esc(line), class_=kind) if kind else esc(line))
    return "\n".join(shown)
