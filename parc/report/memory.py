"""Memory: of the fullest class over time, by what it is for, and the peak of every class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from compiler.cost.price.kinds import Stream
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.timeline import Event, Timeline
from compiler.memory.occupancy import Occupancy, Series
from compiler.memory.tiers import FIRST
from compiler.numbering import show_ranks
from compiler.schedules import Action
from dsl.data import dataclass
from parc.estimate import Estimate, FullMemory
from parc.report.fullest import largest
from parc.report.html import esc, legend, num, section, share, svg, table, tag, ticks
from parc.report.trace import Held, devices
from parc.units import amount, percent, seconds

ROLES = {
    "weight": "weights",
    "optimizer": "optimizer state",
    "state": "state of the model",
    "gradient": "gradients",
    "saved": "saved for the backward pass",
    "activation": "activations and temporaries",
    "message": "communication buffers",
    "input": "inputs",
    "other": "other",
}
"""From the bottom; what there is besides is `other`."""

RESERVED = "what allocator and driver take besides"

STEPS = 800
"""Of the curve, at most; above, parts of the step show the fullest moment in them."""

VISIBLE = 400
"""Parts of the curve's width that can be told from each other."""

SMALL = 0.002
"""Of the peak: roles that never have more are `other`."""

HEIGHT = 260
TOP = 16
FAR = 4
"""Times the peak: capacities above are out of the picture."""

UNITS = {"TiB": 2.0**40, "GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10, "B": 1.0}


@dataclass(frozen=True, slots=True)
class MemoryInterval:
    """From `start` to `end` (picoseconds) a device holds so much, in bytes by role. action: what runs, if anything."""

    start: int
    end: int
    roles: Mapping[str, int]
    action: str = ""

    @property
    def total(self) -> int:
        return sum(self.roles.values())


def fullest(e: Estimate, memory: str) -> int:
    """The first group whose devices need most of this memory."""
    return next(full.moment.group for full in e.fullest if full.moment.memory == memory)


def held(timeline: Timeline, occupancy: Mapping[int, Occupancy]) -> Held:
    """What the devices of each class hold, for a trace."""
    events: list[list[Event]] = [[] for _ in timeline.classes]
    for e in timeline.events:
        events[e.cls].append(e)
    return [
        {
            kind: [(v.start, v.total) for v in _levels(timeline, mine, series)]
            for kind, series in occupancy[p.group].items()
        }
        for p, mine in zip(timeline.classes, events)
    ]


def levels(timeline: Timeline, group: int, series: Series) -> list[MemoryInterval]:
    """The series of a group against the time of its first class."""
    cls = next(c for c, p in enumerate(timeline.classes) if p.group == group)
    return _levels(timeline, [e for e in timeline.events if e.cls == cls], series)


def _levels(timeline: Timeline, events: Iterable[Event], series: Series) -> list[MemoryInterval]:
    """Against the time of a class with these events: while an action runs its fullest moment, between actions what
    stays."""
    when: dict[tuple[str, int, int], tuple[int, int]] = {}
    for e in events:
        if e.stream == Stream.COMPUTE:
            action = (e.kind, e.chunk, e.micro)
            when[action] = (when[action][0] if action in when else e.start_ps, e.end_ps)
    found: list[MemoryInterval] = []
    at, now = 0, series.before
    for done, moment in zip(series.actions, series.moments):
        start, end = when.get(done, (at, at))
        if start > at:
            found.append(MemoryInterval(at, start, now))
        if end > start:
            found.append(MemoryInterval(start, end, moment.at_peak, str(done)))
        at, now = max(at, end), moment.after
    length = max(round(timeline.step_seconds * PICOSECONDS), at, 1)
    if length > at:
        found.append(MemoryInterval(at, length, now))
    return found


def spoken(action: Action) -> str:
    """`backward pass of micro-batch 1`."""
    phase = action.kind
    chunk = f", {'round' if phase.of_round else 'chunk'} {action.chunk}" if action.chunk else ""
    if not phase.per_microbatch:
        return phase.words + chunk
    return f"{phase.words} of micro-batch {action.mb}{chunk}"


def coarser(found: Sequence[MemoryInterval], most: int = STEPS) -> list[MemoryInterval]:
    """At most so many levels: each part of the time shows its fullest."""
    if len(found) <= most:
        return list(found)
    length = found[-1].end
    best: dict[int, MemoryInterval] = {}
    for level in found:
        for i in range(level.start * most // length, (level.end - 1) * most // length + 1):
            if i not in best or level.total > best[i].total:
                best[i] = level
    return [
        MemoryInterval(i * length // most, (i + 1) * length // most, v.roles, v.action) for i, v in sorted(best.items())
    ]


def widened(found: Sequence[MemoryInterval]) -> list[MemoryInterval]:
    """With the fullest moments long enough to be seen, where they are not: at the cost of what is beside them."""
    length, peak = found[-1].end, max(level.total for level in found)
    least = -(-length // VISIBLE)
    shown: list[MemoryInterval] = []
    for level in found:
        start, end = max(level.start, shown[-1].end if shown else 0), level.end
        if level.total == peak and end - level.start < least:
            start = min(start, length - least)
            end = start + least
            shown = [replace(v, end=min(v.end, start)) for v in shown if v.start < start]
        if end > start:
            shown.append(replace(level, start=start, end=end))
    return shown


def shown_roles(found: Sequence[MemoryInterval], peak: int) -> list[str]:
    """The names of ROLES that are drawn."""
    large = {r for level in found for r, n in level.roles.items() if n >= SMALL * peak}
    rest = any(n for level in found for r, n in level.roles.items() if r not in large or r not in ROLES)
    return [r for r in ROLES if r in large or (r == "other" and rest)]


def of_role(roles: Mapping[str, int], role: str, shown: Sequence[str]) -> int:
    """Bytes of a role that is drawn; all that is not is `other`."""
    if role != "other":
        return roles.get(role, 0)
    return sum(n for r, n in roles.items() if r not in shown or r == "other")


def memory(e: Estimate, occupancy: Mapping[int, Occupancy]) -> str:
    """The section of the page."""
    kinds = list(dict.fromkeys(k for found in occupancy.values() for k in found))
    parts: list[str] = []
    for kind in kinds:
        group = fullest(e, kind)
        series = occupancy[group][kind]
        if not series.peak:
            continue
        capacity = e.capacity if kind == FIRST else 0.0
        found = levels(e.timeline, group, series)
        (full,) = (full for full in e.fullest if full.moment.memory == kind)
        parts += [*curve(e.timeline, full, series, found, capacity), largest(full, tuple(ROLES))]
    parts += [tag("h3", "Peak of every class"), _peaks(e)]
    cluster = e.compiled.job.cluster
    of = f"the stack {cluster.stack}" if cluster is not None and cluster.stack else "software of which nothing is known"
    note = f"Bytes on one device with {of}, by what they are for. While a pass runs, its fullest moment is drawn."
    return section("memory", "Memory", note, *parts)


@dataclass(frozen=True, slots=True)
class CurveScale:
    """What the edges of a curve's picture are: a time in picoseconds, bytes; whether the capacity lies within."""

    length: int
    top: float
    far: bool

    @staticmethod
    def of(full: FullMemory, length: int, capacity: float) -> CurveScale:
        """For one curve alone."""
        far = capacity > FAR * full.moment.peak
        return CurveScale(length, 1.08 * max(full.needed, 0.0 if far else capacity), far)


def curve(
    timeline: Timeline,
    full: FullMemory,
    series: Series,
    found: Sequence[MemoryInterval],
    capacity: float,
    scale: CurveScale | None = None,
) -> list[str]:
    """A title, a legend and the picture. scale: of several curves that are compared."""
    group, kind = full.moment.group, full.moment.memory
    shown = shown_roles(found, series.peak)
    drawn = widened(coarser(found))
    scale = scale or CurveScale.of(full, found[-1].end, capacity)
    length, top, far = scale.length, scale.top, scale.far
    areas, below = [], [0.0] * len(drawn)
    for role in shown:
        above = [b + of_role(level.roles, role, shown) for b, level in zip(below, drawn)]
        areas.append(f'<path class="m-{role}" d="{_area(drawn, below, above, length, top)}"/>')
        below = above
    unit, size = next((u, s) for u, s in UNITS.items() if top / s >= 1 or u == "B")
    scales, grid = [], []
    for t in ticks(0, top / size, 6):
        y = num(HEIGHT * (1 - t * size / top) + TOP)
        grid.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        scales.append(f'<text class="tick" x="100%" y="{num(float(y) + 4)}" text-anchor="end">{num(t)} {unit}</text>')
    for t in ticks(0, length / PICOSECONDS, 8):
        x = share(t * PICOSECONDS / length)
        anchor = "start" if not t else "end" if t * PICOSECONDS > 0.97 * length else "middle"
        y = str(TOP + HEIGHT + 14)
        grid.append(f'<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{esc(seconds(t))}</text>')
    lines = [("peak", float(series.peak))] + ([("capacity", capacity)] if capacity and not far else [])
    for name, n in lines:
        y = num(HEIGHT * (1 - n / top) + TOP)
        grid.append(f'<line class="{name}" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        # Where the two are near each other, the lower one's name goes below its line.
        down = n == min(v for _, v in lines) and len(lines) > 1 and abs(capacity - series.peak) < 0.06 * top
        grid.append(
            f'<text class="{name} halo" x="100%" dx="-4" y="{num(float(y) + (13 if down else -4))}" '
            f'text-anchor="end">{name} {esc(amount(n))}</text>'
        )
    plot = (
        f'<svg y="{TOP}" width="100%" height="{HEIGHT}" viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none">'
        f"{''.join(areas)}</svg>"
    )
    where = devices(next(p for p in timeline.classes if p.group == group))
    which = f"{where}, stage {group}, the fullest" if len(timeline.classes) > 1 else where
    used = f" ({percent(full.needed / capacity)} of {amount(capacity)} with what is reserved)" if capacity else ""
    at = f" in the {spoken(series.actions[series.fullest])}" if series.fullest is not None else ""
    title = f"{kind} of {which}: at most {amount(series.peak)}{at}{used}"
    high = TOP + HEIGHT + 20
    told = {"data_memory": kind, "data_length": length / (PICOSECONDS / 1e6)}
    picture = svg(plot, *grid, label=title, width="100%", height=high, class_="plot", **told)
    side = tag("svg", *scales, width="100%", height=high, aria_hidden="true")
    rows = tag("div", tag("div", side, class_="names"), tag("div", picture, class_="fixed"), class_="rows")
    keys = [(f"m-{role}", ROLES[role]) for role in reversed(shown)]
    return [tag("h3", esc(title)), legend(keys), rows]


def _area(
    drawn: Sequence[MemoryInterval], below: Sequence[float], above: Sequence[float], length: int, top: float
) -> str:
    """The path around a band of steps, in a picture 1000 wide."""

    def edge(values: Sequence[float]) -> list[tuple[str, str, str]]:
        runs: list[tuple[str, str, str]] = []
        for level, v in zip(drawn, values):
            y = num(HEIGHT * (1 - v / top), 1)
            x = num(1000 * level.end / length, 2)
            if runs and runs[-1][2] == y:
                runs[-1] = (runs[-1][0], x, y)
            else:
                runs.append((num(1000 * level.start / length, 2), x, y))
        return runs

    there, back = edge(above), edge(below)
    path = [f"M0 {there[0][2]}"]
    path += [f"V{y}H{end}" for _, end, y in there]
    path += [f"V{y}H{start}" for start, _, y in reversed(back)]
    return "".join(path) + "Z"


def _peaks(e: Estimate) -> str:
    """A bar for each run of devices that have the same peak."""
    rows = []
    shown = [r for r in ROLES if r != "other"]
    for m in e.memory:
        of = e.capacity if m.memory == FIRST and e.capacity else 0.0
        most = max(x.needed for x in e.memory if x.memory == m.memory)
        top = max(most, 0.0 if of > FAR * most else of) or 1.0
        at, boxes = 0.0, []
        for role in ROLES:
            n = of_role(m.roles, role, shown)
            if n:
                told = esc(f"{ROLES[role]}: {amount(n)}")
                boxes.append(
                    f'<rect class="m-{role}" x="{share(at / top)}" y="1" width="{share(n / top)}" height="14" '
                    f'data-tip="{told}"/>'
                )
                at += n
        if m.needed > m.peak:
            told = esc(f"{RESERVED}: {amount(m.needed - m.peak)}")
            boxes.append(
                f'<rect class="m-other" x="{share(at / top)}" y="1" width="{share((m.needed - m.peak) / top)}" '
                f'height="14" fill-opacity="0.35" data-tip="{told}"/>'
            )
        if of and top >= of:
            x = share(of / top)
            boxes.append(f'<line class="capacity" x1="{x}" x2="{x}" y1="0" y2="16"/>')
        name = show_ranks(m.ranks)
        picture = svg(*boxes, label=f"{m.memory} of {name}: {amount(m.peak)}", width="100%", height=16)
        free = percent(m.needed / of) if of else ""
        sizes = [esc(amount(n)) for n in (m.peak, m.needed)]
        rows.append([esc(name), esc(m.memory), picture, *sizes, free, esc(amount(m.program.bytes))])
    head = ["devices", "memory", "", "allocated", "needed", "of capacity", "the program's own"]
    return table(head, rows, left=2, class_="bars few")
