"""The step as a picture: a row per class of devices, an activation a box, a message a line.

Where there are more activations than can be told apart, the whole step is drawn as shares of time, and its first and
last part box by box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from compiler.cost.price.kinds import Kind, Stream
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.timeline import Event, Timeline
from compiler.program import MODEL_PASSES, FunctionPhase
from dsl.data import dataclass
from parc.report.html import esc, legend, num, section, share, svg, tag, ticks
from parc.report.trace import devices
from parc.units import seconds

PASSES = {
    **{p.value: p.words for p in FunctionPhase},
    "host": "host, once per step",
    "M": "all-reduce between stages",
}
BOXES = 6000
"""Activations that are drawn one by one."""

EXCERPT = 2000
"""Activations in each of the two excerpts, where there are more; `EACH` of a class at most."""

EACH = 48

BINS = 8000
"""Of all rows together, where shares of time are drawn."""

WIDTH = 1000
"""Pixels that the picture is made for; wider than its window it scrolls."""

AXIS = 20
ZOOMS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Box:
    kind: str
    micro: int
    chunk: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MessageArrow:
    """A message from one row to another."""

    source: int
    to: int
    micro: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rows:
    """boxes: of each class of devices in order; times in picoseconds, of which `start` is the picture's left edge.

    chunks: parts of the loop that a class has. over: when the step is over, if the picture goes on.
    """

    boxes: tuple[tuple[Box, ...], ...]
    lines: tuple[MessageArrow, ...]
    start: int
    length: int
    chunks: int
    over: int | None = None

    @property
    def count(self) -> int:
        return sum(map(len, self.boxes))

    def between(self, start: int, end: int) -> Rows:
        """What lies wholly in this time."""
        boxes = tuple(tuple(b for b in row if start <= b.start and b.end <= end) for row in self.boxes)
        lines = tuple(m for m in self.lines if start <= m.start and m.end <= end)
        return Rows(boxes, lines, start, end - start, self.chunks)

    def longer(self, length: int) -> Rows:
        """In a picture of that length."""
        return replace(self, length=length, over=self.length)

    @property
    def background(self) -> str:
        """How far a row goes, as part of the width."""
        return "100%" if self.over is None else share(self.at(self.over))

    def at(self, time: int) -> float:
        """Where in the picture's width this time is, from 0 to 1."""
        return (time - self.start) / self.length


def rows(timeline: Timeline) -> Rows:
    """The timeline's activations and messages, in order."""
    boxes: list[list[Box]] = [[] for _ in timeline.classes]
    waits: dict[int, int] = {}
    sends: list[Event] = []
    for e in timeline.events:
        if e.stream == Stream.SEND:
            sends.append(e)
            continue
        boxes[e.cls].append(Box("M" if e.kind == Kind.COLLECTIVE else e.kind, e.micro, e.chunk, e.start_ps, e.end_ps))
        waits.update((m, e.cls) for m in e.messages)
    lines = [
        MessageArrow(e.cls, waits[m], e.micro, e.start_ps, e.end_ps) for e in sends for m in e.messages if m in waits
    ]
    length = max(round(timeline.step_seconds * PICOSECONDS), 1)
    chunks = max((e.chunk for e in timeline.events), default=0) + 1
    return Rows(tuple(map(tuple, boxes)), tuple(lines), 0, length, chunks)


def pipeline(timeline: Timeline, found: Rows) -> str:
    """The section of the page."""
    names, keys = names_of(timeline), keys_of(timeline, found)
    note = "Each row is a class of devices that do the same; a box is a pass of one micro-batch (its number inside)."
    if found.chunks > 1:
        note += " Paler boxes belong to later chunks of the loop."
    if found.count <= BOXES:
        return section("pipeline", "Timeline", note, legend(keys), whole(names, found, "all"))
    note += f" {found.count:,} boxes are too many to be told apart: first comes how each part of the step is shared."
    parts = [legend(keys), tag("h3", "The whole step"), whole(names, found, "shares")]
    for title, ident, excerpt in (("How it begins", "first", _first(found)), ("How it ends", "last", _last(found))):
        parts += [tag("h3", esc(f"{title}: {seconds(excerpt.length / PICOSECONDS)}")), _scrolled(names, excerpt, ident)]
    return section("pipeline", "Timeline", note, *parts)


def names_of(timeline: Timeline) -> list[tuple[str, str]]:
    """What rows are called, and whose they are."""
    several = len(timeline.classes) > 1
    return [(f"stage {p.group}" if several else "all devices", devices(p)) for p in timeline.classes]


def keys_of(timeline: Timeline, found: Rows) -> list[tuple[str, str]]:
    """What the colours of a picture stand for."""
    kinds = {b.kind for row in found.boxes for b in row}
    keys = [(k, what) for k, what in PASSES.items() if k in kinds]
    keys += [("send", "message")] if found.lines else []
    return keys + ([("idle", "waits for other stages")] if len(timeline.classes) > 1 else [])


def whole(names: Sequence[tuple[str, str]], found: Rows, ident: str) -> str:
    """The picture of all rows: box by box (`all`), or shares of time."""
    return _scrolled(names, found, ident) if ident == "all" else _aggregated(names, found)


def _first(found: Rows) -> Rows:
    ends = sorted(b.end for row in found.boxes for b in row)
    return found.between(0, ends[min(EXCERPT, EACH * len(found.boxes)) - 1])


def _last(found: Rows) -> Rows:
    starts = sorted((b.start for row in found.boxes for b in row), reverse=True)
    return found.between(starts[min(EXCERPT, EACH * len(found.boxes)) - 1], found.length)


def _height(count: int) -> tuple[int, int]:
    """Of a box, and of the gap below it."""
    return (22, 8) if count <= 16 else (16, 5) if count <= 32 else (11, 3) if count <= 64 else (6, 1)


def _scrolled(names: Sequence[tuple[str, str]], found: Rows, ident: str) -> str:
    """The boxes with the names of their rows."""
    return zoomed(named(names, _boxes(found), _height(len(names))), ident)


def zoomed(picture: str, ident: str) -> str:
    """A picture with names that can be stretched."""
    zoom = tag("p", *(tag("button", f"{z}×", type="button", data_zoom=z) for z in ZOOMS), class_="zoom")
    return tag("div", zoom, picture, class_="timeline z0", data_part=ident)


def named(names: Sequence[tuple[str, str]], picture: str, height: tuple[int, int]) -> str:
    """Names of rows (and more of each, for those who ask) beside their picture. height: of a box and the gap below."""
    box, gap = height
    label = [tag("div", esc(n), title=where, style=f"height:{box + gap}px;line-height:{box}px") for n, where in names]
    small = " small" if box < 11 else ""
    column = tag("div", *label, class_=f"names{small}", style=f"padding-top:{AXIS}px")
    return tag("div", column, tag("div", picture, class_="scroll"), class_="rows")


def axis(
    start: float,
    end: float,
    at: Callable[[int], float | None],
    height: int,
    most: int = 10,
    zooms: Sequence[int] = (2, 4),
) -> str:
    """A line and a time for each round number of seconds, more of them where the picture is stretched.

    at: where picoseconds lie in the width, from 0 to 1, if anywhere; most: of the numbers where it is not stretched;
    zooms: (powers of two) at which there are as many times more.
    """
    parts = []
    known: set[int] = set()
    for zoom in (0, *zooms):
        shown = f' class="l{zoom}"' if zoom else ""
        group = []
        for t in ticks(start, end, most * 2**zoom):
            ps = round(t * PICOSECONDS)
            x = at(ps)
            if ps in known or x is None:
                continue
            known.add(ps)
            anchor = "start" if x < 0.02 else "end" if x > 0.97 else "middle"
            where = share(x)
            group.append(f'<line class="grid" x1="{where}" x2="{where}" y1="{AXIS - 4}" y2="{height}"/>')
            group.append(
                f'<text class="tick" x="{where}" y="{AXIS - 8}" text-anchor="{anchor}">{esc(seconds(t))}</text>'
            )
        parts.append(f"<g{shown}>{''.join(group)}</g>")
    return "".join(parts)


def _axis(found: Rows, height: int, zooms: Sequence[int] = (2, 4)) -> str:
    end = found.start + found.length
    return axis(found.start / PICOSECONDS, end / PICOSECONDS, found.at, height, zooms=zooms)


def _boxes(found: Rows) -> str:
    box, gap = _height(len(found.boxes))
    height = AXIS + len(found.boxes) * (box + gap)
    parts = []
    for r, row in enumerate(found.boxes):
        y = AXIS + r * (box + gap)
        parts.append(f'<rect class="idle" x="0" y="{y}" width="{found.background}" height="{box}"/>')
        shapes, texts = [], []
        for b in row:
            x, width = found.at(b.start), (b.end - b.start) / found.length
            pale = f' fill-opacity="{num(1 - 0.45 * b.chunk / (found.chunks - 1))}"' if b.chunk else ""
            shapes.append(
                f'<rect class="{b.kind}"{pale} x="{share(x)}" y="{y}" width="{share(width)}" height="{box}"/>'
            )
            if b.kind in MODEL_PASSES and box >= 11:
                level = fits(width, str(b.micro))
                if level is not None:
                    middle = share(x + width / 2)
                    shown = " ".join([f"l{level}"] * (level > 0) + ["dark"] * (b.chunk > 0))
                    shown = f' class="{shown}"' if shown else ""
                    texts.append(f'<text{shown} x="{middle}" y="{y + box // 2 + 4}">{b.micro}</text>')
        parts.append(f'<g class="row" data-row="{r}">{"".join(shapes)}</g><g class="micro">{"".join(texts)}</g>')
    lines = []
    for m in found.lines:
        x1, x2 = share(found.at(m.start)), share(found.at(m.end))
        y1, y2 = _side(m, box, gap), _side(m, box, gap, True)
        lines.append(f'<line{_far(m)} x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    label = f"Timeline of {len(found.boxes)} classes of devices over {seconds(found.length / PICOSECONDS)}"
    inside = _axis(found, height), *parts, f'<g class="lines">{"".join(lines)}</g>'
    return svg(*inside, label=label, width="100%", height=height)


def _far(line: MessageArrow) -> str:
    """Lines across other rows are fainter."""
    return ' class="far"' if abs(line.to - line.source) > 1 else ""


def _side(line: MessageArrow, box: int, gap: int, end: bool = False) -> int:
    """The edge of the row from which, or to which, the line goes: the one that faces the other row."""
    down = line.to > line.source
    row = line.to if end else line.source
    return AXIS + row * (box + gap) + (box if down != end else 0)


def fits(width: float, text: str) -> int | None:
    """The first zoom (power of two) at which the text has room in a box of this share of the width."""
    room = 6.0 * len(text) + 3
    return next((i for i, z in enumerate(ZOOMS) if width * WIDTH * z >= room), None)


def _aggregated(names: Sequence[tuple[str, str]], found: Rows) -> str:
    """For each row and part of the step, how much of it each kind takes, one upon the other."""
    box, gap = (30, 8) if len(names) <= 16 else _height(len(names))
    # Parts with some boxes each: shares of fewer would show where boxes and parts beat, not how the step goes.
    bins = max(60, min(400, BINS // len(names), found.count // len(names) // 8))
    height = AXIS + len(names) * (box + gap)
    parts = []
    for r, row in enumerate(found.boxes):
        y = AXIS + r * (box + gap)
        parts.append(f'<rect class="idle" x="0" y="{y}" width="{found.background}" height="{box}"/>')
        total, areas = [0.0] * bins, []
        for kind in PASSES:
            taken = _shares([b for b in row if b.kind == kind], found.length, bins)
            if any(taken):
                total = [a + t for a, t in zip(total, taken)]
                areas.append(f'<path class="{kind}" d="{_area(total, box)}"/>')
        areas.reverse()  # each reaches down to the bottom, and the next ones lie on it
        parts.append(
            f'<svg y="{y}" width="100%" height="{box}" viewBox="0 0 {bins} {box}" preserveAspectRatio="none">'
            f"{''.join(areas)}</svg>"
        )
    label = f"How {len(names)} classes of devices share {seconds(found.length / PICOSECONDS)}"
    picture = svg(_axis(found, height, ()), *parts, label=label, width="100%", height=height)
    return tag("div", named(names, picture, (box, gap)), class_="timeline")


def _shares(boxes: Sequence[Box], length: int, bins: int) -> list[float]:
    """How much of each bin the boxes take, 0 to 1."""
    taken = [0.0] * bins
    for b in boxes:
        start, end = b.start * bins / length, b.end * bins / length
        for i in range(int(start), min(bins, int(end) + 1)):
            taken[i] += max(0.0, min(end, i + 1) - max(start, i))
    return taken


def _area(values: Sequence[float], height: int) -> str:
    """The path around steps of these heights (0 to 1) from the bottom of a picture."""
    path, last = [f"M0 {height}"], ""
    for i, v in enumerate(values):
        y = num(height * (1 - min(1.0, v)), 1)
        path.append(f"H{i}V{y}" if y != last and i else f"V{y}" if not i else "")
        last = y
    return "".join(path) + f"H{len(values)}V{height}Z"
