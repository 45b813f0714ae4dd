"""`page`: a job's cost as one HTML page that needs nothing else: no network, no fonts, no libraries.

estimate, memory over time ─▶ sections (a module each: pictures are SVG) ─▶ page, with all data as JSON in it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import parc
from compiler.cost.price.kinds import Kind
from compiler.cost.time.timeline import Pieces, Timeline
from compiler.memory.occupancy import Occupancy
from dsl.diagnostics import plural
from parc.estimate import Estimate
from parc.report.cluster import cluster
from parc.report.document import document
from parc.report.html import esc, section, share, svg, table, tag
from parc.report.inside import inside
from parc.report.memory import coarser, fullest, levels, memory
from parc.report.pipeline import BOXES, Rows, pipeline, rows
from parc.report.spent import waterfall
from parc.report.trace import each
from parc.report.traffic import communication
from parc.setup import setup
from parc.units import amount, flops, percent, seconds

SCHEMA = 1
"""Of the data in the page; raised when a field goes away or changes its meaning."""


def page(e: Estimate, occupancy: Mapping[int, Occupancy], pieces: Pieces, command: str = "", strategy: str = "") -> str:
    """The page. pieces: what lies in each pass; command: the line that made it; strategy: its source text.

    The same arguments give the same bytes.
    """
    job, t = e.compiled.job, e.timeline
    assert job.cluster is not None
    boxes = rows(t)
    title = f"{job.name}: {job.model.name} with {job.strategy.name}"
    told = f"{t.devices:,} {job.cluster.device.name} of {job.cluster.name}" + (
        f", {job.cluster.stack}" if job.cluster.stack else ""
    )
    body = [
        tag(
            "header",
            tag("h1", esc(job.name)),
            tag("p", esc(f"{job.model.name} with {job.strategy.name} on {told}")),
            table(["", ""], [[esc(name), esc(what)] for name, what in setup(e)], left=2, class_="facts"),
        ),
        _headline(e),
        waterfall(t),
        pipeline(t, boxes),
        inside(t, pieces, bool(e.variation and e.variation.devices)),
        memory(e, occupancy),
        communication(t),
        cluster(e),
        _operations(t),
        _strategy(e, command, strategy),
    ]
    data = {"schema": SCHEMA, "parc": parc.__version__, "command": command, **step_data(e, occupancy, boxes)}
    return document(title, body, data)


def _headline(e: Estimate) -> str:
    """The figures that people ask for first, and what limits them."""
    t = e.timeline
    each = t.tokens_per_second / t.devices if t.devices else 0.0
    longest = [(a, seconds(s)) for a, s in t.exposed_by_axis.items() if s][:3]
    exposed = ", ".join(f"{a} {s}".replace(" ", "\N{NO-BREAK SPACE}") for a, s in longest)
    fits = e.needed <= e.capacity
    room = f"of {amount(e.capacity)}: fits" if fits else f"of {amount(e.capacity)}: does not fit"
    step = t.step_seconds or 1.0
    cards = [
        ("step", seconds(t.step_seconds), f"{t.samples:,} samples, {t.tokens:,} tokens", ""),
        ("throughput", f"{t.tokens_per_second:,.0f}", f"tokens/s; {each:,.1f} per device", ""),
        ("MFU", percent(t.mfu), f"HFU {percent(t.hfu)}", ""),
        ("bubble", percent(t.bubble), "of all devices' time", ""),
        ("exposed communication", percent(t.exposed / step), exposed or "none", ""),
        ("device memory", amount(e.needed), room, "good" if fits else "bad"),
    ]
    shown = [
        tag("div", tag("dt", esc(name)), tag("dd", tag("b", esc(value)), tag("span", esc(more))), class_=f"card {mood}")
        for name, value, more, mood in cards
    ]
    parts = [tag("dl", *shown, class_="cards")]
    if t.bottleneck:
        parts.append(tag("p", tag("strong", "Bottleneck. "), esc(t.bottleneck), class_="verdict"))
    if not fits:
        over = esc(f"{amount(e.needed - e.capacity)} of device memory too much. What would make it fit is tried by ")
        where = (tag("strong", "It does not fit. "), over, tag("code", "parc cost"), ".")
        parts.append(tag("p", *where, class_="verdict bad"))
    if e.helps:
        rows = []
        for h in e.helps:
            left = h.seconds / step
            picture = svg(
                f'<rect class="product" x="0" y="2" width="{share(left)}" height="12"/>',
                f'<rect class="saved" x="{share(left)}" y="2" width="{share(1 - left)}" height="12"/>',
                label=f"{h.what}: {seconds(h.seconds)}",
                width="100%",
                height=16,
            )
            rows.append([esc(h.what), picture, esc(seconds(h.seconds)), f"−{percent(1 - left)}"])
        parts += [tag("h2", "What would help most"), table(["if there were", "", "step", ""], rows, class_="bars few")]
    return tag("section", *parts, id="headline")


def _operations(t: Timeline) -> str:
    rows = []
    for c in t.top:
        rate = flops(c.flops / c.seconds) if c.kind == Kind.PRODUCT and c.seconds else ""
        moved = amount(c.bytes / c.seconds) + "/s" if c.bytes and c.seconds else ""
        of = percent(c.seconds / t.step_seconds) if t.step_seconds else ""
        name = tag("code", esc(c.name))
        rows.append([name, esc(c.kind), f"{c.calls:,}", esc(seconds(c.seconds)), of, esc(rate), esc(moved)])
    note = f"Of {each(t.classes[t.slowest])}, in a step; some of it runs at the same time."
    head = ["operation", "kind", "calls", "time", "of the step", "computes", "moves or sends"]
    return section("operations", "What takes longest", note, table(head, rows, left=2))


def _strategy(e: Estimate, command: str, source: str) -> str:
    parts = [table(["", ""], [[esc(n), esc(what)] for n, what in strategy_facts(e)], left=2, class_="facts")]
    if source:
        parts.append(tag("pre", tag("code", esc(source))))
    if command:
        parts += [tag("h3", "Made by"), tag("pre", tag("code", esc(command)))]
    return section("strategy", f"Strategy {e.compiled.job.strategy.name}", "", *parts)


def strategy_facts(e: Estimate) -> list[tuple[str, str]]:
    """Names and what they are, as text."""
    job, program = e.compiled.job, e.compiled.program
    facts = [
        ("mesh", " × ".join(f"{a.name} = {a.size}" for a in job.strategy.mesh) or "one device"),
        ("pipeline", f"{plural(program.stages, 'stage')} on {plural(program.groups, 'group')} of devices"),
        ("micro-batches", f"{program.microbatches:,}"),
        ("precision", f"{job.precision.compute}, master {job.precision.master}"),
    ]
    return facts + [("schedule", p.schedule) for p in job.strategy.pipelines]


def step_data(e: Estimate, occupancy: Mapping[int, Occupancy], boxes: Rows) -> dict[str, Any]:
    """What the pictures show, in seconds and bytes but where a name says otherwise."""
    t = e.timeline
    classes = []
    for c, (p, spent) in enumerate(zip(t.classes, t.spent)):
        figures = asdict(spent)
        links, sends = figures.pop("links"), {str(to): n for to, n in figures.pop("sends").items()}
        where = {"group": p.group, "first": p.first, "devices": p.count}
        classes.append({**where, "busy": t.busy[c], "spent": figures, "links": links, "sends": sends})
    whole = boxes.count <= BOXES
    return {
        "estimate": e.as_json(),
        "classes": classes,
        "timeline": {
            "columns": ["kind", "micro_batch", "chunk", "start_us", "duration_us"],
            "rows": [[[b.kind, b.micro, b.chunk, *_span(b.start, b.end)] for b in row] for row in boxes.boxes]
            if whole
            else None,
            "boxes": boxes.count,
        },
        "memory": [_series(e, occupancy, kind) for kind in dict.fromkeys(k for o in occupancy.values() for k in o)],
    }


def _series(e: Estimate, occupancy: Mapping[int, Occupancy], kind: str) -> dict[str, Any]:
    group = fullest(e, kind)
    series = occupancy[group][kind]
    found = coarser(levels(e.timeline, group, series))
    roles = list(series.roles)
    return {
        "memory": kind,
        "group": group,
        "peak": series.peak,
        "columns": ["start_us", "duration_us", "action", *roles],
        "rows": [[*_span(v.start, v.end), v.action, *(v.roles.get(r, 0) for r in roles)] for v in found],
    }


def _span(start: int, end: int) -> tuple[float, float]:
    """(start, duration) in microseconds, to the nanosecond."""
    return start // 1000 / 1000, (end // 1000 - start // 1000) / 1000
