"""What each piece of work costs on a machine: the only place where features meet a calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod

from compiler.cost.kernels.work import Collective, Copy, Hosted, Meet, Part, Post, Product, Vector, Wait, Work, WorkNode
from compiler.cost.price.calibration import Calibration
from compiler.cost.price.collectives import (
    collective_seconds,
    copy_seconds,
    level_seconds,
    meet_level,
    meet_seconds,
    messages,
    point_seconds,
    sent_bytes,
)
from compiler.cost.price.compute import hosted_seconds, launches, product_seconds, vector_seconds
from compiler.cost.price.kinds import COPIES, HOSTS, NOTHING, Kind, Over, Stream
from compiler.cost.price.machine import Machine
from compiler.memory.tiers import FIRST
from compiler.model import Device
from compiler.ops.comm import Pattern
from compiler.traffic import in_mesh_order
from dsl.data import dataclass

PICOSECONDS = 10**12
"""Per second. Time is counted in whole picoseconds here, in seconds outside of the cost model."""

COMPUTE, COPY_IN, COPY_OUT, HOST_WORK, COMM = 0, 1, 2, 3, 4
"""Streams of a device: computation, copies into its memory and out of it, what hosts compute for it; from COMM on one
per level of the cluster."""


@dataclass(frozen=True, slots=True)
class Priced:
    """blocking: computation waits for it. axes: what its messages go over. sent: bytes that a device sends.

    also: (stream, picoseconds) of links of inner levels that it needs as well, from its start.
    """

    stream: int
    ps: int
    blocking: bool = False
    axes: Over = NOTHING
    kind: str = ""
    launches: float = 0.0
    sent: float = 0.0
    also: tuple[tuple[int, int], ...] = ()


ABSENT = Priced(COMPUTE, 0)
"""Of what is not there on this machine with these numbers."""


class WorkPrices:
    """What work costs, in the update or not, as it is asked for."""

    def __init__(self) -> None:
        self.known: dict[tuple[bool, Work], Priced] = {}
        self.same: dict[tuple[bool, int], tuple[Work, Priced]] = {}  # by identity, which is sooner compared

    def note(self, work: Work, update: bool, found: Priced) -> None:
        """Remember that."""
        if len(self.same) >= KEPT:
            self.known.clear()
            self.same.clear()
        self.known[update, work], self.same[update, id(work)] = found, (work, found)


KEPT = 40_000
"""Prices that are remembered at once."""


@lru_cache(4)
def kernel_prices(device: Device, cal: Calibration) -> WorkPrices:
    """Of one kind of device with one calibration, whatever the mesh: what computation costs does not hang on that."""
    return WorkPrices()


class Pricer:
    """Prices of one machine with one calibration; equal work is priced once."""

    def __init__(self, machine: Machine, cal: Calibration) -> None:
        self.machine, self.cal = machine, cal
        self.streams = COMM + max(1, len(machine.levels))
        self.kernels = kernel_prices(machine.device, cal)
        self.others = WorkPrices()  # of messages and copies on this machine
        self.in_update = cal.changed(launch=0.0)
        self.slower: Sequence[tuple[float, ...]] = ()
        levels = [Stream.comm(level.name) for level in machine.levels]
        self.names = (Stream.COMPUTE, Stream.COPY_IN, Stream.COPY_OUT, Stream.HOST, *(levels or [Stream.comm()]))

    def shared(self, slower: Sequence[tuple[float, ...]]) -> Pricer:
        """The same prices, where sends take longer: `slower` times, per device group and level."""
        found = Pricer(self.machine, self.cal)
        found.others, found.slower = self.others, slower
        return found

    def prices(self, part: Part, update: bool, times: int = 1) -> Iterator[tuple[WorkNode, Priced, int]]:
        """All nodes of a part that have a price of their own, and how often each runs if the part does `times`."""
        for node, n in part.each(times):
            if not isinstance(node.work, (Wait, Post, Meet)) and (not node.again or self.cal.reentrant > 0):
                priced = self.price(node.work, update)
                if priced is not ABSENT:
                    yield node, priced, n

    def price(self, work: Work, update: bool = False) -> Priced:
        """Of a product, vector, collective or copy. In the update all tensors share a few launches: see `fixed`."""
        of = self.kernels if isinstance(work, (Product, Vector)) else self.others
        same = of.same.get((update, id(work)))
        if same is not None:
            return same[1]
        found = of.known.get((update, work)) or self._price(work, update)
        of.note(work, update, found)
        return found

    def _price(self, work: Work, update: bool) -> Priced:
        machine, cal = self.machine, self.in_update if update else self.cal
        if isinstance(work, Product):
            seconds = product_seconds(work, machine, cal)
            return Priced(COMPUTE, picoseconds(seconds), kind=Kind.PRODUCT, launches=launches(work, cal))
        if isinstance(work, Vector):
            seconds = vector_seconds(work, machine, cal)
            number = 0.0 if update else launches(work, cal)
            return Priced(COMPUTE, picoseconds(seconds), kind=Kind.VECTOR, launches=number)
        if isinstance(work, Collective):
            if work.role == "stages":
                work = replace(work, axes=self.scattered(work.axes))
                if not work.axes:
                    return ABSENT
            seconds = collective_seconds(work, machine, cal)
            level = machine.outermost(work.axes)
            sent = sent_bytes(work, machine, cal)
            if (
                work.role == "activations" and not work.aside
            ):  # computation waits for what is not hidden in its products
                seconds -= self._hidden(work, seconds, cal)
            waits = work.role in ("activations", "stages") or cal.prefetch <= 0
            blocking = update or (waits and not work.aside)
            ps, axes = picoseconds(seconds), Over(in_mesh_order(work.axes, machine.sizes))
            inner: tuple[float, ...] = ()
            if level and work.comm.pattern is not Pattern.NEIGHBOURS:
                inner = level_seconds(work, machine, cal)[:level]
            also = tuple((COMM + i, min(ps, picoseconds(s))) for i, s in enumerate(inner) if s)
            return Priced(COMM + level, ps, blocking, axes, Kind.COLLECTIVE, float(messages(work, cal)), sent, also)
        if isinstance(work, Copy):
            ps = picoseconds(copy_seconds(work.bytes, work.source, work.target, machine, cal))
            stream, both = COPY_IN if work.target == FIRST else COPY_OUT, FIRST not in (work.source, work.target)
            also = ((COPY_IN, ps),) if both and work.source != work.target else ()  # over the device: in and out again
            return Priced(stream, ps, axes=COPIES, kind=Kind.COPY, sent=float(work.bytes), also=also)
        if isinstance(work, Hosted):
            return Priced(HOST_WORK, picoseconds(hosted_seconds(work, machine)), axes=HOSTS, kind=Kind.HOSTED)
        raise TypeError(f"{type(work).__name__} has no price of its own")

    def _hidden(self, work: Collective, seconds: float, cal: Calibration) -> float:
        """Of a message of activations what goes beside products that make or take it."""
        hidden = seconds * (cal.exchange if work.comm.pattern is Pattern.DIRECT else cal.overlap)
        if cal.ring and work.beside:
            attention = sum(product_seconds(product, self.machine, cal) for product in work.beside)
            hidden = max(hidden, min(seconds * cal.ring, attention))
        return hidden

    def scattered(self, alike: tuple[str, ...]) -> tuple[str, ...]:
        """Of the axes along which devices send the same, those along which each sends a part: inside servers."""
        if self.cal.scattered <= 0:
            return ()
        return tuple([a for a in alike if self.machine.outermost((a,)) == 0])

    def part(self, post: Post) -> float:
        """Bytes that a device sends of a message to another stage."""
        return post.bytes / prod(self.machine.sizes[a] for a in self.scattered(post.alike))

    def post(self, size: float, group: int, to: int) -> int:
        """Picoseconds of a message between two device groups; nothing within one."""
        if group == to:
            return 0
        level = self.machine.between(group, to)
        slower = self.slower[group][level] if self.slower else 1.0
        return picoseconds(slower * point_seconds(size, level, self.machine, self.cal))

    def meet_stream(self, work: Meet | None) -> tuple[int, str]:
        """The stream of an all-reduce between device groups, and its name."""
        levels = self.machine.levels
        if work is None or not levels:
            return COMM, "comm:stages"
        level = meet_level(work.groups, self.machine)
        return COMM + level, f"comm:{levels[level].name}"

    def meet(self, work: Meet) -> int:
        """Picoseconds of an all-reduce between device groups."""
        return picoseconds(meet_seconds(float(work.bytes), work.groups, self.machine, self.cal))


def picoseconds(seconds: float) -> int:
    """Whole picoseconds: sums of them do not depend on their order."""
    return round(seconds * PICOSECONDS)
