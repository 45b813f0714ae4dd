"""What a job runs on: devices, the levels of their network, memories besides their own."""

from __future__ import annotations

from dataclasses import field
from math import prod
from typing import Any

from compiler.memory.tiers import FIRST, Memory
from dsl.data import dataclass
from dsl.source import NOWHERE, Span

INTEGER = "int8"
"""What a device's peak is called that is of products of 8-bit integers: no type of tensors."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the standard library or the user's: numbers in FLOP/s, bytes, bytes/s, seconds."""

    name: str
    compute: tuple[tuple[str, float], ...] = ()  # dtype (or unit.dtype) -> FLOP/s
    memory: float = 0.0
    bandwidth: float = 0.0
    settings: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # all else: words, then numbers in base units
    library: bool = field(default=False, compare=False)  # it is one of the standard library's


TOPOLOGIES = ("switch", "ring", "full_mesh")


@dataclass(frozen=True, slots=True)
class Level:
    """`count` of the level below, links of `bandwidth` bytes/s per device and direction, `latency` seconds.

    topology: `switch`, `ring` or `full_mesh` (each pair has its own link, so that a few devices use only a few links).
    """

    name: str
    count: int
    bandwidth: float
    latency: float
    topology: str = "switch"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Levels from the innermost to the outermost. memories: besides the devices' own; `tiers` are all. stack: the
    software, whose efficiencies the device states."""

    name: str
    device: Device
    levels: tuple[Level, ...]
    memories: tuple[Memory, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)
    stack: str = ""
    stack_span: Span = field(default=NOWHERE, compare=False)

    @property
    def devices(self) -> int:
        return prod(level.count for level in self.levels)

    @property
    def tiers(self) -> dict[str, Memory]:
        """All memories by name, the device's own first."""
        own = Memory(FIRST, self.device.memory, self.device.bandwidth)
        return {FIRST: own} | {m.name: m for m in self.memories}
