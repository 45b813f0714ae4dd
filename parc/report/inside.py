"""Inside a pass: the kernels and messages of each function of the class that ends last, a row per engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.cost.price.kinds import Kind, Over, Stream
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.timeline import Piece, Pieces, Timeline
from parc.report.html import esc, legend, section, share, svg, tag
from parc.report.pipeline import AXIS, PASSES, axis, fits, named, zoomed
from parc.report.spent import all_axes, axis_class, axis_name
from parc.report.trace import each
from parc.units import amount, flop, flops, seconds

UNROLLED = 120
"""Pieces of a loop that are drawn one by one, at most."""

SHOWN = 6
"""Functions."""

KEPT = 0.15
"""What is left of the time that loops repeat, as a part of the rest."""

BOX, GAP = 22, 6


def inside(timeline: Timeline, pieces: Pieces, slow: bool = False) -> str:
    """The section of the page; nothing if nothing is known of the class. slow: there are slow devices, whose passes
    `pieces` are not."""
    if not timeline.spent:
        return ""
    player = timeline.classes[timeline.slowest]
    functions = _functions(pieces, player.program)[:SHOWN]
    axes = all_axes(timeline)
    kinds: dict[str, str] = {}
    parts = []
    for (kind, chunk), found in functions:
        name = PASSES[kind] + (f", chunk {chunk}" if chunk else "")
        length = max((p.end for p in found), default=0)
        if length:
            parts.append(tag("h3", esc(f"{name[0].upper()}{name[1:]}: {seconds(length / PICOSECONDS)}")))
            parts.append(_picture(found, length, axes, kinds, f"{kind}{chunk}"))
    if not parts:
        return ""
    whose = each(player) + (f" (stage {player.group})" if len(timeline.classes) > 1 else "")
    if slow:
        whose = f"a device of stage {player.group}"
    note = f"What {whose} runs in one pass, and the messages beside it{', if none is slow' if slow else ''}. "
    note += "Waits for other stages are left out."
    if "repeat" in kinds:
        note += " Of long loops most of the time is cut out, so that the rest can be seen."
    order = ["product", "vector", *(f"x{i}" for i in range(5)), "wait", "copy", "hosted", "host", "repeat"]
    keys = legend((k, kinds[k]) for k in order if k in kinds)
    return section("inside", "Inside a pass", note, keys, *parts)


def _functions(pieces: Pieces, program: int) -> list[tuple[tuple[str, int], list[Piece]]]:
    """Per function of a class of the program what lies in it, its segments one behind the other."""
    found: dict[tuple[str, int], list[Piece]] = {}
    for (c, key, _), mine in sorted(pieces.items(), key=lambda x: x[0][2]):
        if c == program:
            before = found.setdefault(key, [])
            at = max((p.end for p in before), default=0)
            before += [replace(p, start=p.start + at, end=p.end + at) for p in mine]
    order = list(PASSES)
    return sorted(found.items(), key=lambda x: (order.index(x[0][0]), x[0][1]))


def _picture(found: Sequence[Piece], length: int, axes: Sequence[Over], kinds: dict[str, str], ident: str) -> str:
    streams = sorted({p.stream for p in found}, key=lambda s: (s != Stream.COMPUTE, s))
    height = AXIS + len(streams) * (BOX + GAP)
    time = Time(found, length)
    most = min(500, 10 * length // time.shown)
    parts = [axis(0, length / PICOSECONDS, lambda t: None if time.is_cut(t) else time.at(t), height, most, (2,))]
    for r, stream in enumerate(streams):
        y = AXIS + r * (BOX + GAP)
        parts.append(f'<rect class="idle" x="0" y="{y}" width="100%" height="{BOX}"/>')
        texts = []
        shapes = []
        for p in found:
            if p.stream != stream:
                continue
            x = time.at(p.start)
            width = time.at(p.end) - x
            shapes.append(
                f'<rect class="{_class(p, axes, kinds)}" x="{share(x)}" y="{y}" width="{share(width)}" height="{BOX}" '
                f'data-tip="{_told(p)}"/>'
            )
            text = p.name.rpartition(".")[2] if p.kind in (Kind.PRODUCT, Kind.VECTOR) else p.axes or p.name
            level = fits(width, text)
            if level is not None:
                shown = " ".join([f"l{level}"] * (level > 0) + ["dark"] * (p.kind in (Kind.EXPOSED, Kind.REPEAT)))
                shown = f' class="{shown}"' if shown else ""
                texts.append(f'<text{shown} x="{share(x + width / 2)}" y="{y + BOX // 2 + 4}">{esc(text)}</text>')
        parts.append(f'<g class="row">{"".join(shapes)}</g><g class="micro">{"".join(texts)}</g>')
    label = f"What runs in {seconds(length / PICOSECONDS)} of a pass"
    picture = svg(*parts, label=label, width="100%", height=height)
    return zoomed(named([(s, s) for s in streams], picture, (BOX, GAP)), f"inside-{ident}")


class Time:
    """Where times of a pass lie in its picture, from 0 to 1: without most of what its loops repeat."""

    def __init__(self, found: Sequence[Piece], length: int) -> None:
        loops: list[list[Piece]] = []
        for p in found:
            if p.kind == Kind.REPEAT:  # a loop has one on each stream; they overlap
                same = (of for of in loops if p.start < of[0].end and p.end > of[0].start)
                loop: list[Piece] = next(same, [])
                loops += [loop] if not loop else []
                loop.append(p)
        spans = [(max(p.start for p in of), min(p.end for p in of)) for of in loops]
        spans = sorted((a, b) for a, b in spans if b > a)
        rest = length - sum(b - a for a, b in spans)
        kept = round(KEPT * rest / max(1, len(spans)))
        self.length = length
        self.cuts = [(a + kept // 2, b - kept // 2) for a, b in spans if b - a > kept]
        self.shown = max(1, length - sum(b - a for a, b in self.cuts))

    def at(self, t: int) -> float:
        """Times in a cut are at its place."""
        return (t - sum(min(t, b) - a for a, b in self.cuts if t > a)) / self.shown

    def is_cut(self, t: int) -> bool:
        return any(a < t < b for a, b in self.cuts)


def _class(p: Piece, axes: Sequence[Over], kinds: dict[str, str]) -> str:
    """Of the colour; `kinds` learns what it stands for."""
    if p.kind in (Kind.COLLECTIVE, Kind.EXPOSED):
        kind = axis_class(p.axes, axes)
        kinds.setdefault(kind, f"messages over {axis_name(p.axes, axes)} (pale: waited for)")
        return f"{kind} pale" if p.kind == Kind.EXPOSED else kind
    names = {"product": "products of matrices", "vector": "element-wise work and reductions", "copy": "copies"}
    names |= {
        "hosted": "what the hosts compute",
        "wait": "waits",
        "host": "waits for the host",
        "repeat": "more iterations of a loop",
    }
    kinds.setdefault(p.kind, names[p.kind])
    return p.kind


def _told(p: Piece) -> str:
    """A few lines, as an attribute."""
    lines = [p.name, seconds(p.duration / PICOSECONDS)]
    if p.flops and p.kind == Kind.PRODUCT:
        lines.append(f"{flop(p.flops)}, {flops(p.flops * PICOSECONDS / p.duration)}")
    if p.bytes:
        over = f" over {p.axes}" if p.axes else ""
        lines.append(f"{amount(p.bytes)}{over}, {amount(p.bytes * PICOSECONDS / p.duration)}/s")
    return "&#10;".join(map(esc, lines))
