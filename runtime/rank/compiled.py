"""One device at speed: its functions as straight-line Python, one variable per value, planned once.

It computes what `Rank` does, on any backend and network, but measures nothing and copies nothing: values are never
changed once they are defined, so that a view of one may be kept as it is. Three things are changed, and belong to this
device alone: the parts of accumulators that were made here (`owned`), the list of what was sent, and the cells in which
states lie, whose contents are replaced (programs that share a state share its cell).

A stack of a loop's results is a list of its slices as long as nobody reads it as a whole: what a forward pass saves for
the iterations of the backward pass is never copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from compiler.liveness import unrolled
from compiler.ops.comm import Comm
from compiler.ops.effects import Accumulate, Recv, Send, StageReduce
from runtime.backend import Array
from runtime.comm import Handle, Then, Wait
from runtime.rank.ahead import reductions
from runtime.rank.buffers import HeldArray, RankBuffer
from runtime.rank.collectives import Here, start_collective
from runtime.rank.initial import OneDevice
from runtime.rank.interpreter import Rank
from runtime.rank.starts import Begun, Pending, finished
from runtime.rank.writer import RankWriter


class CompiledRank(Rank):
    """A `Rank` of a network whose calls block, compiled when it is made. writer: of the text of its functions."""

    writer: type[RankWriter] = RankWriter
    caches_rows = False

    def __init__(self, device: OneDevice) -> None:
        super().__init__(device)
        program, cls, backend = device.program, device.cls, device.backend
        self.owned: dict[str, set[int]] = {}
        self.contexts = [backend.context(m, program.seed) for m in range(program.microbatches)]
        self.order = list(unrolled(program, cls.schedule, device.group))
        instrs = (i for f in cls.functions for i in f.body.nodes)
        self.additions = Counter(i.op.name for i in instrs if isinstance(i.op, Accumulate))
        self.adding: dict[str, tuple[Pending, str, str]] = {}
        self.reductions = reductions(cls, self.order)
        self.begun = Begun()
        self.compiled = {f.key: self.writer(self, f).run() for f in cls.functions}

    def step(self) -> Wait[None]:
        """The device's schedule, up to the point where all that it sent has left."""
        yield from ()
        for name, chunk, micro in self.order:
            self.doing = f"{name}.{chunk} of micro-batch {micro}" if name.per_microbatch else name
            self.compiled[name, chunk](self, micro, self.contexts[micro])
        for buffer in list(self.adding):
            self.take_in(buffer)
        self.settle()

    def settle(self) -> None:
        """Wait until all that was sent has left."""
        for handle in self.sent:
            finished(handle)
        self.sent = []

    def open_step(self) -> None:
        """What is done for a step begins: a device that is timed notes it."""

    def close_step(self) -> None:
        """All is done for a step: a device that is timed notes it."""

    def end_step(self) -> None:
        """Let go of inputs, of accumulated values, and of the outputs that micro-batches have saved."""
        super().end_step()
        self.owned, self.begun = {}, Begun()

    def share(self, name: str, other: Rank) -> None:
        """Let a state lie in the same cell as that of another program's device."""
        self.states[name] = other.states[name]

    # --- what the text calls

    def cell(self, value: Any) -> HeldArray:
        """A place for a value; nothing is counted."""
        return HeldArray(value, _UNCOUNTED)

    def whole(self, value: Any, dtype: str) -> Array:
        """A stack in one piece."""
        if not isinstance(value, list):
            return value
        out = self.backend.empty((len(value), *self.backend.shape(value[0])), dtype)
        for i, slice_ in enumerate(value):
            self.backend.assign(self.backend.element(out, i), slice_)
        return out

    def write(self, name: str, value: Array) -> None:
        """New contents of a state."""
        if name in self.states:
            self.states[name].array = value
        else:
            self.states[name] = self.cell(value)

    def write_part(self, name: str, micro: int, value: Array) -> None:
        """New contents of a micro-batch's part of a state."""
        cell = self.states[name]
        if not isinstance(cell.array, list):
            cell.array = [self.backend.element(cell.array, i) for i in range(self.program.microbatches)]
        cell.array[micro] = value

    def read_part(self, name: str, micro: int) -> Array:
        """A micro-batch's part of a state."""
        array = self.states[name].array
        return array[micro] if isinstance(array, list) else self.backend.element(array, micro)

    def read(self, name: str) -> Array:
        """What is in a buffer; in one piece from now on, if it was a stack of slices."""
        self.take_in(name)
        cell = self.states[name]
        if isinstance(cell.array, list):
            cell.array = self.whole(cell.array, self.declared[name].type.dtype)
            self.owned[name] = {_ALL}
        return cell.array

    def slices(self, name: str) -> Any:
        """What is in a buffer: an array, or the list of its slices."""
        self.take_in(name)
        return self.states[name].array

    def kept(self, name: str, micro: int) -> Array:
        """What a micro-batch has saved under a name, in one piece."""
        return self.whole(self.saved[name, micro].array, self.declared[name].type.dtype)

    def accumulate(self, name: str, value: Any, fn: str, dtype: str) -> None:
        """Add to an accumulator. A step's first value is only kept; what is added to in place was made here."""
        if name not in self.states:
            self.states[name] = self.cell(value)
            return
        cell = self.states[name]
        if isinstance(cell.array, list) and isinstance(value, list):
            for i, slice_ in enumerate(value):
                self.add(name, i, slice_, fn, dtype)
            return
        old, value, owned = self.read(name), self.whole(value, dtype), self.owned.setdefault(name, set())
        if _ALL not in owned:
            old = self.backend.copy(old)
            owned.add(_ALL)
        cell.array = self._combined(old, value, fn, dtype)

    def accumulate_later(self, name: str, value: Pending, fn: str, dtype: str) -> None:
        """Add what is on its way when somebody asks for the accumulator, before the next is added at the latest."""
        self.take_in(name)
        self.adding[name] = value, fn, dtype

    def take_in(self, name: str) -> None:
        """Add to an accumulator what is on its way."""
        if name in self.adding:
            value, fn, dtype = self.adding.pop(name)
            self.accumulate(name, value.get(), fn, dtype)

    def add(self, name: str, i: int, value: Array, fn: str, dtype: str) -> None:
        """Add to a slice of an accumulator that is there."""
        cell, owned = self.states[name], self.owned.setdefault(name, set())
        if not isinstance(cell.array, list):
            if _ALL not in owned:
                cell.array = self.backend.copy(cell.array)
                owned.add(_ALL)
            part = self.backend.element(cell.array, i)
            combined = self._combined(part, value, fn, dtype)
            if combined is not part:
                self.backend.assign(part, combined)
            return
        if i not in owned:
            cell.array[i] = self.backend.copy(cell.array[i])
            owned.add(i)
        cell.array[i] = self._combined(cell.array[i], value, fn, dtype)

    def _combined(self, into: Array, value: Array, fn: str, dtype: str) -> Array:
        self.backend.accumulate(into, value, fn)
        return self.backend.rounded(into, dtype)

    def pending(self, handle: Handle[Array]) -> Pending:
        """A value that is not there yet, of which others have noted what brings it."""
        return Pending(handle)

    def post(self, op: Send, chunk: int, micro: int, value: Array) -> None:
        """Send to another stage."""
        own = self.program.homes.stage(self.group, chunk)
        tag = op.name, micro, own, own + op.to
        everyone = self.network.between(range(self.program.groups))
        self.sent.append(everyone.send(value, self.program.homes.group(own + op.to), tag))

    def fetch(self, op: Recv, chunk: int, micro: int, shape: tuple[int, ...], dtype: str) -> Pending:
        """Receive from another stage."""
        own = self.program.homes.stage(self.group, chunk)
        tag = op.name, micro, own + op.source, own
        everyone = self.network.between(range(self.program.groups))
        return Pending(everyone.recv(self.program.homes.group(own + op.source), tag, shape, dtype))

    def reduce_stages(self, op: StageReduce, value: Array, dtype: str) -> Pending:
        """Reduce over stages."""
        total = self.network.between(op.groups).all_reduce(value, op.fn)
        return Pending(Then(total, lambda x: self.backend.rounded(x, dtype)))

    def start_all(self, calls: Sequence[tuple[Comm, Sequence[Here]]], micro: int, *values: Array) -> list[Pending]:
        """Start collectives that may travel together."""
        with self.network.together():
            found = [start_collective(op, x, heres[micro]) for (op, heres), x in zip(calls, values, strict=True)]
        return [Pending(handle) for handle in found]

    def start(self, op: Comm, heres: Sequence[Here], micro: int, value: Array) -> Pending:
        """Start a collective."""
        return Pending(start_collective(op, value, heres[micro]))


class _Uncounted(RankBuffer):
    """Where bytes are not counted."""

    def __init__(self) -> None:
        self.coming = None

    def hold(self) -> RankBuffer:
        return self

    def drop(self) -> None:
        return None


_UNCOUNTED = _Uncounted()
_ALL = -1
"""Of an accumulator in one piece: all of it was made here."""
