"""What the text of a device's functions calls to start things early and to take them in late (`runtime.rank.ahead`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from compiler.ops.comm import Comm
from dsl.data import dataclass
from runtime.backend import Array
from runtime.comm import Handle, Wait
from runtime.rank.ahead import BUCKET
from runtime.rank.collectives import Here

if TYPE_CHECKING:
    from runtime.rank.compiled import CompiledRank

Key = tuple[str, str]


class Pending:
    """A value that is not there yet."""

    __slots__ = ("handle", "value")

    def __init__(self, handle: Handle[Array]) -> None:
        self.handle: Handle[Array] | None = handle
        self.value: Array = None

    def get(self) -> Array:
        """The value; the process waits for it."""
        if self.handle is not None:
            self.value, self.handle = finished(self.handle), None
        return self.value

    def there(self) -> bool:
        """Whether nothing has to be waited for."""
        return self.handle is None or self.handle.done()


def finished(handle: Handle[Any]) -> Any:
    """What a handle of a network gives whose calls block."""
    waiting = handle.wait()
    try:
        next(waiting)
    except StopIteration as end:
        return end.value
    raise AssertionError("calls block here: there is nothing to yield for")


@dataclass(frozen=True, slots=True)
class Starting:
    """A reduction of the update, or of a slice of its operand (`count`: of how many; 0: of all of it), as a device
    starts it. heres: what it is told, by micro-batch; kind: those of a kind travel together; bytes: of the device's
    piece of the operand."""

    key: Key
    op: Comm
    heres: Sequence[Here]
    kind: tuple[object, ...]
    bytes: int
    count: int = 0


@dataclass(slots=True)
class Filling:
    """How slices that come late go to a loop's results: they are put into a list, or, where there is none, added to the
    accumulator `buffer` (by `fn`, in `dtype`). starts: what each then starts, in the function's run for micro-batch
    `last`. waiting: the list, the number of the slice, and the slice."""

    buffer: str = ""
    fn: str = ""
    dtype: str = ""
    starts: Sequence[Starting] = ()
    last: int = 0
    waiting: tuple[list[Array] | None, int, Pending] | None = None


@dataclass(slots=True)
class Stack:
    """Where an iteration's result goes. slices: the variable that holds the list; sink: what adds it to an accumulator,
    where there is no list; fill: the name of its `Filling`. late: slices come after their iteration."""

    slices: str
    index: str
    sink: str
    fill: str
    late: bool = False


@dataclass(slots=True)
class Begun:
    """Reductions that were started before the update, or wait for others to travel with."""

    queue: list[tuple[Starting, int, Array]] = field(default_factory=list)
    bytes: int = 0
    found: dict[Key, Pending | list[Pending | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Joined:
    """A handle of slices that come one by one, as a list."""

    slices: Sequence[Pending]

    def done(self) -> bool:
        return all(p.there() for p in self.slices)

    def wait(self) -> Wait[list[Array]]:
        yield from ()
        return [p.get() for p in self.slices]


# --- slices that come late


def later(d: CompiledRank, fill: Filling, slices: list[Array] | None, i: int, value: Pending, micro: int) -> None:
    """A slice is on its way; the one before it is taken in."""
    arrive(d, fill, micro)
    fill.waiting = slices, i, value


def arrive(d: CompiledRank, fill: Filling, micro: int) -> None:
    """Take in the slice that is on its way, if there is one."""
    if fill.waiting is None:
        return
    (slices, i, pending), fill.waiting = fill.waiting, None
    value = pending.get()
    if slices is None:
        d.add(fill.buffer, i, value, fill.fn, fill.dtype)
    else:
        slices[i] = value
    if fill.starts and micro == fill.last:
        reduce_slices(d, [fill], i, slices)


# --- reductions that start early


def reduce_slices(d: CompiledRank, fills: Sequence[Filling], i: int, *slices: list[Array] | None) -> None:
    """Slices of some gradients are complete: where they are in no list, in their accumulators."""
    for fill, made in zip(fills, slices, strict=True):
        source = made if made is not None else d.states[fill.buffer].array
        value = source[i] if isinstance(source, list) else d.backend.element(source, i)
        for starting in fill.starts:
            _ready(d, starting, i, value)


def reduce_whole(d: CompiledRank, starts: Sequence[tuple[str, Starting]]) -> None:
    """Gradients are complete, in these accumulators."""
    for buffer, starting in starts:
        _ready(d, starting, 0, d.read(buffer))


def _ready(d: CompiledRank, starting: Starting, i: int, value: Array) -> None:
    begun = d.begun
    begun.queue.append((starting, i, value))
    begun.bytes += starting.bytes
    if begun.bytes >= BUCKET:
        reduce_ready(d)


def reduce_ready(d: CompiledRank) -> None:
    """Start what is ready: those of a kind together."""
    begun = d.begun
    kinds: dict[tuple[object, ...], list[tuple[Starting, int, Array]]] = {}
    for item in begun.queue:
        kinds.setdefault(item[0].kind, []).append(item)
    begun.queue, begun.bytes = [], 0
    for items in kinds.values():
        if len(items) == 1:
            ((starting, _, value),) = items
            found = [d.start(starting.op, starting.heres, 0, value)]
        else:
            found = d.start_all([(s.op, s.heres) for s, _, _ in items], 0, *(value for _, _, value in items))
        for (starting, i, _), pending in zip(items, found, strict=True):
            if not starting.count:
                begun.found[starting.key] = pending
                continue
            slices = begun.found.setdefault(starting.key, [None] * starting.count)
            assert isinstance(slices, list)
            slices[i] = pending


def started(d: CompiledRank, key: Key) -> Pending:
    """What was started before the update: an array, or the list of its slices."""
    found = d.begun.found.pop(key)
    if not isinstance(found, list):
        return found
    return d.pending(Joined([p for p in found if p is not None]))
