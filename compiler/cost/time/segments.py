"""Segments of functions that programs before had as well, with their prices, as they are played.

What a function takes hangs on its work and on which levels of the cluster its messages cross. Strategies that differ in
micro-batches, replicas and the order of passes have much of it alike: of one work object (`WorkTemplates` gives the
same one for the same numbers) it is found once.
"""

from __future__ import annotations

from typing import NamedTuple

from compiler.cost.kernels.work import Collective, Part
from compiler.cost.price.pricer import COMPUTE, Pricer
from compiler.cost.time.step import Played, play
from compiler.cost.time.tasks import tasks
from compiler.traffic import in_mesh_order

KEPT = 600
"""Functions that are remembered, those that were asked for last."""


class LinkUse(NamedTuple):
    """Picoseconds of one run: in which links of each stream are used, and of all that computation waits for."""

    used: tuple[int, ...]
    time: int


class _Known(NamedTuple):
    """part: kept, for it is found by its identity; played: its segments, as they are played."""

    part: Part
    played: list[Played]
    use: LinkUse


class KnownSegments:
    """Of functions of one cluster's programs, with its own calibration."""

    def __init__(self) -> None:
        self.axes: dict[int, tuple[Part, tuple[tuple[str, ...], ...]]] = {}
        self.known: dict[tuple[object, ...], _Known] = {}

    def played(self, part: Part, pricer: Pricer) -> list[Played]:
        """The segments of a pass."""
        return self._of(part, pricer).played

    def use(self, part: Part, pricer: Pricer) -> LinkUse:
        """What it uses of the links."""
        return self._of(part, pricer).use

    def _of(self, part: Part, pricer: Pricer) -> _Known:
        key = (id(part), *[_way(axes, pricer) for axes in self._axes(part)])
        found = self.known.pop(key, None)
        if found is None:
            while len(self.known) >= KEPT:
                del self.known[next(iter(self.known))]
            found = _Known(part, [play(s, pricer.streams) for s in tasks(part, pricer)], link_use(part, pricer))
        self.known[key] = found
        return found

    def _axes(self, part: Part) -> tuple[tuple[str, ...], ...]:
        """What its messages go over."""
        known = self.axes.get(id(part))
        if known is None:
            while len(self.axes) >= KEPT:
                del self.axes[next(iter(self.axes))]
            found = tuple({n.work.axes: None for n, _ in part.each() if isinstance(n.work, Collective)})
            known = self.axes[id(part)] = part, found
        return known[1]


def _way(axes: tuple[str, ...], pricer: Pricer) -> tuple[object, ...]:
    """All that prices ask of axes: how many devices there are along each, in the order of the mesh, and how many of
    them, of each and of all, share domains of each level."""
    of = pricer.machine
    return in_mesh_order(axes, of.sizes), of.span(axes), *[(of.sizes[a], of.span((a,))) for a in axes]


def link_use(part: Part, pricer: Pricer) -> LinkUse:
    """Of one run of a pass."""
    used, time = [0] * pricer.streams, 0
    for _, priced, n in pricer.prices(part, False):
        if priced.stream == COMPUTE or priced.blocking:
            time += n * priced.ps
        for stream, ps in ((priced.stream, priced.ps), *priced.also):
            used[stream] += n * ps
    return LinkUse(tuple(used), time)
