"""The cluster as a map: a square per device, blocks as its levels have them, coloured by what each class does.

Devices of a class share a path and a colour, so that the picture grows with the devices by a few bytes each. Above
`DEVICES` a square stands for some domains of the cluster's levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil, isqrt

from compiler.cost.price.kinds import COPIES
from compiler.cost.time.timeline import Timeline
from compiler.memory.tiers import FIRST
from compiler.model import Cluster
from dsl.data import dataclass
from parc.estimate import Estimate
from parc.report.html import esc, num, section, svg, tag
from parc.report.trace import devices
from parc.units import amount, percent, seconds

DEVICES = 4096
SQUARE = 5
SEPARATION = (1, 4, 10, 18)
"""Between squares, between blocks of the innermost level, of the next …"""


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """Squares in the order of the devices, each for `unit` devices: their corners, and the size of the picture."""

    unit: int
    corners: tuple[tuple[int, int], ...]
    width: int
    height: int


def layout(count: int, group: int, levels: Sequence[int]) -> DeviceMap:
    """Where `count` devices stand; `group`: devices of a group; `levels`: members of a domain, from the innermost."""
    domains, below = [], 1
    for n in levels:
        below *= n
        domains.append(below)
    # Whole domains, if those of some level are neither too many nor too few.
    too_many = max(d for d in (1, *domains) if d == 1 or count > DEVICES * d)
    fits = (d for d in (1, *domains) if count <= DEVICES * d and (d == 1 or count * 16 > DEVICES * d))
    unit = next(fits, too_many * ceil(count / (too_many * DEVICES)))
    squares = ceil(count / unit)
    sizes: list[int] = []  # squares of a domain of each level; the last holds all
    for d in [*domains, squares * unit]:
        size = min(d // unit, squares)
        if size > (sizes[-1] if sizes else 1):
            sizes.append(size)
    per_group = max(1, group // unit)
    width = height = SQUARE
    at, members = [(0, 0)], 1
    for size, gap in zip(sizes, (*SEPARATION, *SEPARATION[-1:] * len(sizes))):
        n = ceil(size / members)
        columns = _columns(n, per_group // members if per_group % members == 0 else 0)
        at = [(x + j % columns * (width + gap), y + j // columns * (height + gap)) for j in range(n) for x, y in at]
        width, height = columns * (width + gap) - gap, ceil(n / columns) * (height + gap) - gap
        members = size
    return DeviceMap(unit, tuple(at[:squares]), width, height)


def _columns(n: int, group: int) -> int:
    """As many as a device group has, if that looks well; else a divisor that makes it broader than high."""
    if 4 <= group <= 32 and n > group and n // group <= 2 * group:
        return group
    low = isqrt(n - 1) + 1
    divisor = next(d for d in range(low, n + 1) if n % d == 0)
    return divisor if divisor <= 2.5 * low else ceil(1.3 * low)


def path(found: DeviceMap, ranks: Iterable[tuple[int, int]]) -> str:
    """The squares of devices (as first, how many in a row), squares side by side as one stroke each."""
    parts = []
    at = (0, 0)
    squares = {i for first, n in ranks for i in range(first // found.unit, ceil((first + n) / found.unit))}
    for i in sorted(squares):
        x, y = found.corners[i]
        parts.append(f"m{x - at[0]} {y - at[1]}h{SQUARE}v{SQUARE}h-{SQUARE}z")
        at = (x, y)
    return "".join(parts)


def cluster(e: Estimate) -> str:
    """The section of the page."""
    t, where = e.timeline, e.compiled.job.cluster
    assert where is not None
    if not t.spent:
        return ""
    group = t.devices // (1 + max(p.group for p in t.classes))
    found = layout(t.devices, group, [level.count for level in where.levels])
    sent = [sum(link.bytes for link in s.links if link.axes != COPIES) for s in t.spent]
    peaks = [_peak(e, p.first) for p in t.classes]
    maps = [
        _map("Computes", "busy", t, found, [b / t.step_seconds for b in t.busy], percent, "of the step"),
        _map("Sends", "sent", t, found, sent, amount, "per device and step"),
        _map("Memory", "full", t, found, [float(p) for p in peaks], amount, "at the peak"),
    ]
    shapes = [tag("path", id=f"c{c}", d=path(found, p.ranks)) for c, p in enumerate(t.classes)]
    defs = tag("svg", tag("defs", *shapes), width=0, height=0, class_="defs", aria_hidden="true")
    note = f"{_levels(where, t.devices)} "
    note += "A square is a device" if found.unit == 1 else f"A square is {found.unit:,} devices"
    note += "; those of one class do the same and share a colour."
    return section("cluster", "Cluster", note, defs, tag("div", *maps, class_="maps"))


def _levels(where: Cluster, used: int) -> str:
    """`2,048 devices: 256 × server of 8; links 30 GB/s …`"""
    inside = where.device.name
    told = []
    for level in where.levels:
        rate = f"{num(level.bandwidth / 1e9)} GB/s, {seconds(level.latency)}"
        told.append(f"{level.name}: {level.count:,} × {inside} over {rate}")
        inside = level.name
    of = "" if used == where.devices else f" of {where.devices:,}"
    return f"{used:,}{of} {'device' if used == 1 else 'devices'}; " + "; ".join(told) + "."


def _peak(e: Estimate, rank: int) -> int:
    here = (m for m in e.memory if m.memory == FIRST and any(first <= rank < first + n for first, n in m.ranks))
    return next((m.peak for m in here), 0)


def _map(
    title: str,
    ident: str,
    t: Timeline,
    found: DeviceMap,
    values: Sequence[float],
    show: Callable[[float], str],
    what: str,
) -> str:
    low, high = min(values), max(values)
    alike = show(low) == show(high)
    uses = []
    for c, (player, value) in enumerate(zip(t.classes, values)):
        strength = float(high > 0) if alike else (value - low) / (high - low)
        tip = f"stage {player.group}, {devices(player)}: {show(value)} {what}"
        uses.append(f'<use href="#c{c}" fill-opacity="{num(0.28 + 0.72 * strength)}" data-tip="{esc(tip)}"/>')
    label = f"{title}: {show(low)} to {show(high)} {what}"
    picture = svg(
        tag("g", *uses, class_=f"map {ident}"),
        label=label,
        viewBox=f"0 0 {found.width} {found.height}",
        class_="map",
        style=f"max-width:{4 * found.width}px",
    )
    if not alike:
        bar = tag("i", class_=f"ramp {ident}")
        scale = tag("p", tag("span", esc(show(low))), bar, tag("span", esc(show(high))), class_="scale")
    else:
        scale = tag("p", tag("span", esc(f"{show(high)}, all alike")), class_="scale")
    return tag("figure", tag("figcaption", tag("strong", esc(title)), " ", esc(what)), picture, scale)
