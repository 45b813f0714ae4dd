"""Memories: that in which devices compute, and others to which they move values."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.source import Span

FIRST = "hbm"
"""The memory in which devices compute. What is said to be in none lies there."""

HOST = "host"
"""The memory of a server's processors, which compute, too."""

FILES = ("nvme",)
"""Memories that are files where programs are run here."""

GRAINS = {FIRST: 32, "host": 64, "nvme": 4096}
"""Bytes that are read or written at once where less is wanted. Sources: JEDEC JESD235 and JESD238 (a burst of HBM2 is 4
times 64 bits of a pseudo channel, of HBM3 8 times 32: 32 bytes, a sector of a cache), JESD79-5 (a burst of DDR5 is 64
bytes, a line of a processor's cache); NVMe disks have blocks of 4 KiB."""

EXAMPLES = {"host": "`host memory 768 GiB, 200 GB/s over 32 GB/s`", "nvme": "`nvme capacity 3.2 TB over 6 GB/s`"}
"""The memories that a server may have besides its devices' own, each as a cluster describes it."""


WAYS = 32
"""Rows of a set of a cache: a row may stand in any place of its set, as in those of FBGEMM on GPUs."""


@dataclass(frozen=True, slots=True)
class RowCache:
    """What devices keep of a table that rests in another memory: `rows` in sets of `WAYS`, those used last of each.

    hits: which share of the rows that are asked for is there, as somebody has stated it; None: nobody has.
    """

    rows: int
    hits: float | None = None

    def hit(self, rows: int) -> float:
        """That share for a table of so many rows: where it is not stated, all of its rows are asked for alike often."""
        return min(1.0, self.rows / rows) if self.hits is None else self.hits


SLOT = 9
"""Bytes that tell of a place in a cache: the number of its row and when it was used last (4 each), whether it is to be
written back (1)."""


class Share(float):
    """Bytes that a device has of a memory; sharing: how many devices have it together, of which one may need more than
    its share if others need less."""

    def __new__(cls, bytes: float, sharing: int = 1) -> Share:
        found = super().__new__(cls, bytes)
        found.sharing = sharing
        return found

    sharing: int


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory of a cluster, as programs call it by `name`.

    Args:
        capacity: bytes, of all of it.
        bandwidth: bytes per second, of all of it.
        sharing: how many devices have it together.
        link: bytes per second between it and one device.
        compute: FLOP/s of all processors whose memory it is (0: of none is anything known).
    """

    name: str
    capacity: float
    bandwidth: float
    sharing: int = 1
    link: float = inf
    compute: float = 0.0

    @property
    def share(self) -> Share:
        """A device's part of the capacity, in bytes."""
        return Share(self.capacity / self.sharing, self.sharing)

    @property
    def rate(self) -> float:
        """Bytes per second that a device moves to or from it while all that share it do."""
        return min(self.link, self.bandwidth / self.sharing)


def require_memory(memories: Mapping[str, Memory], name: str, span: Span) -> None:
    """Raise ParcError (E0412) if a cluster with these memories, described at `span`, lacks one that a program names."""
    if name not in memories:
        help = f"the cluster has {', '.join(memories)}" + (
            f"; describe it: {EXAMPLES[name]}" if name in EXAMPLES else ""
        )
        raise fail(
            "E0412", f"the program has values in `{name}`, a memory that the cluster does not have", span, help=help
        )


def row_bytes(memory: str, rows: float, row: int) -> int:
    """Bytes that so many rows of `row` bytes move which lie anywhere in a memory: whole grains of it."""
    grain = GRAINS.get(memory, 1)
    return round(rows * -(-row // grain) * grain)


def move_rate(memories: Mapping[str, Memory], source: str, target: str) -> float:
    """Bytes per second at which a device moves values from one memory to another; KeyError for unknown ones.

    Between two that are not the device's own the way is over the device: the slower one counts. Within a memory, a
    device has its share of the bandwidth.
    """
    if source == target:
        return memories[source].bandwidth / memories[source].sharing
    return min(memories[source].rate, memories[target].rate)
