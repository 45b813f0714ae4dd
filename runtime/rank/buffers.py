"""Memory of one device: buffers, what lies in them, and how many bytes there are."""

from __future__ import annotations

from dataclasses import field

from compiler.graph import Value
from compiler.layout import TIME
from compiler.ops.base import Op
from compiler.ops.elementwise import Broadcast
from dsl.data import dataclass
from runtime.backend import Array, Backend
from runtime.comm import Handle, Wait


@dataclass
class Ledger:
    """Bytes alive on one device, and the most there ever were, by memory."""

    live: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    def add(self, memory: str, size: int) -> None:
        self.live[memory] = self.live.get(memory, 0) + size
        self.peak[memory] = max(self.peak.get(memory, 0), self.live[memory])


@dataclass(eq=False)
class RankBuffer:
    """A piece of memory as the program sees it; let go when nobody holds it."""

    ledger: Ledger
    memory: str
    size: int
    holders: int = 1
    repeated: bool = False
    coming: tuple[Handle[Array], Array] | None = None  # what is not there yet, and where it will lie

    def __post_init__(self) -> None:
        self.ledger.add(self.memory, self.size)

    def arrive(self, backend: Backend) -> Wait[None]:
        """Wait for what it is to hold."""
        if self.coming is not None:
            (handle, place), self.coming = self.coming, None
            backend.assign(place, (yield from handle.wait()))

    @property
    def sole(self) -> bool:
        """Whether one value holds it, which may be written to."""
        return self.holders == 1 and not self.repeated

    def seen(self, op: Op) -> RankBuffer:
        """Hold it for a view of what lies in it: one that repeats its numbers has more than there is room for."""
        self.repeated |= isinstance(op, Broadcast)
        return self.hold()

    def hold(self) -> RankBuffer:
        self.holders += 1
        return self

    def drop(self) -> None:
        self.holders -= 1
        if self.holders == 0:
            self.ledger.add(self.memory, -self.size)


@dataclass
class HeldArray:
    """A value: its array, and the buffer that its bytes belong to."""

    array: Array
    buffer: RankBuffer

    def shared(self) -> HeldArray:
        """The same for another that holds it."""
        return HeldArray(self.array, self.buffer.hold())


@dataclass(frozen=True, slots=True)
class Destination:
    """Memory that a value of this type is copied to, or combined with: by `sum` or `max`."""

    array: Array
    dtype: str
    combine: str | None = None

    def slice(self, backend: Backend, i: int) -> Destination:
        """The place of one iteration in a stack."""
        return Destination(backend.part(self.array, (slice(i, i + 1),)), self.dtype, self.combine)

    def put(self, backend: Backend, value: Array) -> None:
        """Copy the value there, or add it to what is there in its type."""
        if self.combine is None:
            backend.assign(self.array, value)
            return
        backend.accumulate(self.array, value, self.combine)
        rounded = backend.rounded(self.array, self.dtype)
        if rounded is not self.array:
            backend.assign(self.array, rounded)


def adds(var: Value) -> str:
    """How micro-batches add up: by the reduction that the value leaves pending over them."""
    return var.layout.pending_on(TIME) or "sum"
