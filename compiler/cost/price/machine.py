"""Where devices stand: which levels of the cluster an axis of the mesh spans, and what the device has.

Devices are numbered as the mesh says, major to minor; level l has domains of consecutive devices. So all follows from
the strides of the axes, at no cost that grows with the number of devices.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from compiler.cluster import INTEGER
from compiler.memory.tiers import Memory, require_memory
from compiler.model import Cluster, Device, Level
from compiler.numbering import Ranks
from compiler.program import Program
from dsl.data import dataclass
from dsl.source import NOWHERE, Span

STANDING_IN = {"f16": ("bf16",), "bf16": ("f16",), INTEGER: ("bf16", "f16")}
"""Types whose peaks stand in for those that a device does not state."""


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A cluster under a program's mesh. strides: how many devices apart neighbours along an axis are."""

    device: Device
    levels: tuple[Level, ...]
    sizes: dict[str, int]
    strides: dict[str, int]
    ranks: Ranks
    cores: int
    tile: tuple[int, int, int]
    memories: dict[str, Memory]
    domains: tuple[int, ...]  # devices of one domain of each level
    peaks: dict[str, float]
    vector_peaks: dict[str, float]
    cube: tuple[int, int, int] | None = None  # rows, columns and depth that the matrix unit takes at a time
    described: Span = NOWHERE  # of the cluster's description
    links: float = 1.0  # bandwidth inside a server, over that of the links of which the device's efficiencies are

    @property
    def servers(self) -> int:
        """On how many domains of the innermost level the program's devices are."""
        return ceil(self.ranks.devices / self.domains[0]) if self.domains else 1

    def peak(self, dtype: str) -> float:
        """FLOP/s of the matrix unit; 16-bit types stand in for each other, and for integers of 8 bits, which they hold
        exactly; else the slowest."""
        found = next((self.peaks[d] for d in (dtype, *STANDING_IN.get(dtype, ())) if d in self.peaks), None)
        return found or min(self.peaks.values(), default=1e12)

    def span(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        """How many of the group along `axes` share a domain of level 0, how many such domains one of level 1, …"""
        found = []
        inside, below = 1, 1
        for domain in self.domains:
            members = 1
            for axis in axes:
                size, stride = self.sizes[axis], self.strides[axis]
                members *= min(size, max(1, ceil(domain / stride))) if stride < domain else 1
            found.append(max(1, ceil(members / below)))
            below, inside = members, members
        total = 1
        for axis in axes:
            total *= self.sizes[axis]
        if total > inside:  # more devices than the cluster has levels for: the outermost takes them
            found[-1] *= ceil(total / inside)
        return tuple(found)

    def outermost(self, axes: tuple[str, ...]) -> int:
        """The level whose links the axes need."""
        return max((i for i, n in enumerate(self.span(axes)) if n > 1), default=0)

    def between(self, a: int, b: int) -> int:
        """The level that devices of the same coordinates of two device groups have in common."""
        return self.ranks.level(a, b, self.domains)


def machine(program: Program, cluster: Cluster, slow_links: dict[str, float] | None = None) -> Machine:
    """`slow_links`: level -> by how much its links are slower.

    Raises ParcError (E0412) for a state in a memory that the cluster does not have.
    """
    ranks = Ranks.of(program)
    device, memories = cluster.device, cluster.tiers
    for memory in sorted({state.memory for cls in program.classes for state in cls.states}):
        require_memory(memories, memory, cluster.span)
    settings = dict(device.settings)
    (link,) = settings.get("link", (0.0,))
    (cores,) = settings.get("cores", (1,))
    slow = slow_links or {}
    levels = tuple(replace(level, bandwidth=level.bandwidth / slow.get(level.name, 1.0)) for level in cluster.levels)
    domains = []
    below = 1
    for level in levels:
        below *= level.count
        domains.append(below)
    return Machine(
        device,
        levels,
        {a.name: a.size for a in program.axes},
        ranks.strides,
        ranks,
        cores,
        settings.get("tile", (128, 128, 64)),
        memories,
        tuple(domains),
        {k: v for k, v in device.compute if "." not in k},
        {k.rpartition(".")[2]: v for k, v in device.compute if "." in k},
        settings.get("cube"),
        cluster.span,
        cluster.levels[0].bandwidth / link if link else 1.0,
    )
