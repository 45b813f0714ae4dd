"""One device whose actions, messages and waits are timed: a `CompiledRank` that notes when each began and ended.

The text of its functions is the same; what it calls is another: values that are not there yet are `TimedPending`s, and
the methods that start messages note them. A device that nobody times has nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter_ns
from typing import Any

from compiler.cost.price.kinds import STAGES, Kind, Over, Stream
from compiler.graph import Value
from compiler.ops.comm import Comm
from compiler.ops.effects import Recv, Send, StageReduce
from compiler.program import Function, FunctionKey
from compiler.schedules.actions import Action
from compiler.traffic import in_mesh_order
from dsl.data import dataclass
from runtime.backend import Array
from runtime.comm import Handle, Wait
from runtime.rank.collectives import Here
from runtime.rank.compiled import CompiledRank
from runtime.rank.initial import OneDevice
from runtime.rank.starts import Pending, finished
from runtime.rank.writer import RankWriter

START = "start"
"""Of what a device does to start a message: it copies what it sends, and calls the library."""

SENT = "send"
"""The op of a send and of the waits for it; those of other messages are their mnemonics."""


@dataclass(frozen=True, slots=True)
class TimedSpan:
    """From one moment to another, in nanoseconds of a process' clock.

    step: counts from 0. stream: `step`, `compute`, `comm` (messages of collectives) or `send`.
    kind: `step`, a function's (`F`, `B`, …), `host` (inputs come in, results go out), `start`, `exposed` (waits for a
    message), `collective`, `send`. name: as `parc trace` has it. op, over: of messages, their starts and waits.
    tag: of a message between device groups, the same at its send and its wait.
    """

    step: int
    stream: str
    name: str
    kind: str
    start: int
    end: int
    op: str = ""
    over: Over = Over()
    tag: tuple[Any, ...] = ()


@dataclass(slots=True)
class TimedMessage:
    """A message on its way. It is over when somebody sees that it is there, at the latest who waits for it."""

    name: str
    kind: str
    op: str
    over: Over
    start: int
    tag: tuple[Any, ...] = ()
    over_yet: bool = False


def delivered(spans: Sequence[Sequence[TimedSpan]]) -> list[list[TimedSpan]]:
    """The spans of several devices by one clock, where sends end when they had come, at the latest: libraries tell a
    sender only when he waits."""
    waits = {(s.step, s.tag): s.end for of in spans for s in of if s.tag and s.op == Recv.mnemonic}

    def there(s: TimedSpan) -> TimedSpan:
        came = waits.get((s.step, s.tag)) if s.op == SENT else None
        return s if came is None else replace(s, end=min(s.end, max(s.start + 1, came)))

    return [[there(s) for s in of] for of in spans]


class TimedPending(Pending):
    """A value that is not there yet, and the message that brings it; None: nothing has to come."""

    __slots__ = ("message", "rank")

    def __init__(self, pending: Pending, rank: TimedRank, message: TimedMessage | None) -> None:
        self.handle, self.value = pending.handle, pending.value
        self.rank, self.message = rank, message

    def get(self) -> Array:
        if self.handle is not None:
            self.value, self.handle = self.rank.wait_for(self.handle, self.message), None
        return self.value


class NamedHeres(list[Here]):
    """What a collective is told, and the name of its result."""

    name = ""


class TimedWriter(RankWriter):
    """Writes functions of a `TimedRank`."""

    def __init__(self, rank: CompiledRank, function: Function) -> None:
        super().__init__(rank, function)
        self.names["Pending"] = TimedPending

    def heres(self, var: Value, out: Value, spare: bool = False) -> list[Here]:
        found = NamedHeres(super().heres(var, out, spare))
        found.name = out.name
        return found


class TimedRank(CompiledRank):
    """settled: returns when all that was started on the device is done, for devices that compute on their own."""

    writer = TimedWriter

    def __init__(self, device: OneDevice, settled: Callable[[], None] = lambda: None) -> None:
        super().__init__(device)
        self.settled = settled
        self.spans: list[TimedSpan] = []
        self.clocks: list[tuple[int, int]] = []
        """(the own clock, by how much that of process 0 is ahead of it), at the beginning and at the end."""
        self.number, self.began, self.done_at = -1, 0, 0
        self.flying: list[tuple[Handle[Any], TimedMessage]] = []
        self.compiled = {key: partial(self.act, key, run) for key, run in self.compiled.items()}

    # --- what is noted

    def now(self) -> int:
        """The clock, once the device has done what it was told."""
        self.settled()
        return perf_counter_ns()

    def note(self, stream: str, name: str, kind: str, start: int, end: int, *of: Any) -> None:
        """Something that is over."""
        self.spans.append(TimedSpan(self.number, stream, name, kind, start, end, *of))

    def look(self) -> None:
        """Note the messages that have come, or gone, since somebody looked."""
        left = []
        for handle, message in self.flying:
            if message.over_yet:
                continue
            if handle.done():
                self.came(message, perf_counter_ns())
            else:
                left.append((handle, message))
        self.flying = left

    def came(self, message: TimedMessage, end: int) -> None:
        """A message is over."""
        if not message.over_yet:
            message.over_yet = True
            stream = Stream.SEND if message.op == SENT else Stream.comm()
            if message.op != Recv.mnemonic:  # it is its sender's
                of = message.op, message.over, message.tag
                self.note(stream, message.name, message.kind, message.start, end, *of)

    def wait_for(self, handle: Handle[Array], message: TimedMessage | None) -> Array:
        """What a handle gives."""
        if message is None:
            return finished(handle)
        self.look()
        start = self.now()
        value = finished(handle)
        end = self.now()
        self.came(message, end)
        of = message.op, message.over, message.tag if message.op == Recv.mnemonic else ()
        self.note(Stream.COMPUTE, f"waits for {message.over}", Kind.EXPOSED, start, end, *of)
        return value

    def launched(
        self, handle: Handle[Any], start: int, name: str, op: str, over: Over, tag: tuple[Any, ...] = ()
    ) -> TimedMessage:
        """A message that was started."""
        kind = Kind.SEND if op == SENT else Kind.COLLECTIVE
        message = TimedMessage(name, kind, op, over, start, tag)
        self.note(Stream.COMPUTE, f"starts {name}", START, start, perf_counter_ns(), op, over)
        self.flying.append((handle, message))
        return message

    def measured(self) -> list[TimedSpan]:
        """All spans so far by the clock of process 0; between two comparisons clocks drift evenly."""
        (first, ahead), (last, later) = self.clocks[0], self.clocks[-1]
        drift = (later - ahead) / max(1, last - first)

        def there(ns: int) -> int:
            return ns + ahead + round((ns - first) * drift)

        return [replace(s, start=there(s.start), end=there(s.end)) for s in self.spans]

    # --- a step

    def open_step(self) -> None:
        self.number += 1
        self.began = self.now()

    def step(self) -> Wait[None]:
        self.note(Stream.COMPUTE, "inputs", Kind.HOST, self.began, self.now())
        yield from super().step()
        self.look()

    def act(
        self, key: FunctionKey, run: Callable[[CompiledRank, int, Any], None], d: CompiledRank, micro: int, ctx: Any
    ) -> None:
        """Run an action of the schedule."""
        start = self.now()
        run(d, micro, ctx)
        end = self.now()
        self.note(Stream.COMPUTE, str(Action(*key, micro)), key[0], start, end)
        self.look()

    def settle(self) -> None:
        start, some = self.now(), bool(self.sent)
        super().settle()
        end = self.now()
        for _, message in self.flying:
            self.came(message, end)
        self.flying = []
        if some:
            self.note(Stream.COMPUTE, "waits for sends", Kind.EXPOSED, start, end, SENT, STAGES)
        self.done_at = end

    def close_step(self) -> None:
        end = self.now()
        self.note(Stream.COMPUTE, "results", Kind.HOST, self.done_at, end)
        self.note("step", "step", "step", self.began, end)

    # --- messages

    def over(self, op: Comm) -> Over:
        """What its messages go over."""
        return Over(in_mesh_order(op.over(), self.program.sizes))

    def start(self, op: Comm, heres: Sequence[Here], micro: int, value: Array) -> Pending:
        start = perf_counter_ns()
        found = super().start(op, heres, micro, value)
        if not op.message or found.handle is None:
            return TimedPending(found, self, None)
        name = heres.name if isinstance(heres, NamedHeres) else op.mnemonic
        return TimedPending(found, self, self.launched(found.handle, start, name, op.mnemonic, self.over(op)))

    def start_all(self, calls: Sequence[tuple[Comm, Sequence[Here]]], micro: int, *values: Array) -> list[Pending]:
        start = perf_counter_ns()
        found = super().start_all(calls, micro, *values)
        (op, heres), handle = calls[0], found[0].handle
        assert handle is not None
        name = f"{heres.name} and {len(calls) - 1} more" if isinstance(heres, NamedHeres) else op.mnemonic
        message = self.launched(handle, start, name, op.mnemonic, self.over(op))
        return [TimedPending(p, self, message) for p in found]

    def pending(self, handle: Handle[Array]) -> Pending:
        return TimedPending(super().pending(handle), self, None)

    def reduce_stages(self, op: StageReduce, value: Array, dtype: str) -> Pending:
        start = perf_counter_ns()
        found = super().reduce_stages(op, value, dtype)
        assert found.handle is not None
        return TimedPending(found, self, self.launched(found.handle, start, op.key, op.mnemonic, STAGES))

    def post(self, op: Send, chunk: int, micro: int, value: Array) -> None:
        start = perf_counter_ns()
        super().post(op, chunk, micro, value)
        own = self.program.homes.stage(self.group, chunk)
        to = self.program.homes.group(own + op.to)
        if to != self.group:
            tag = op.name, micro, own, own + op.to
            self.launched(self.sent[-1], start, f"{op.name} to group {to}", SENT, STAGES, tag)

    def fetch(self, op: Recv, chunk: int, micro: int, shape: tuple[int, ...], dtype: str) -> Pending:
        start = perf_counter_ns()
        found = super().fetch(op, chunk, micro, shape, dtype)
        own = self.program.homes.stage(self.group, chunk)
        source = self.program.homes.group(own + op.source)
        if source == self.group:
            return TimedPending(found, self, None)
        tag = op.name, micro, own + op.source, own
        return TimedPending(
            found, self, TimedMessage(f"{op.name} of group {source}", Kind.SEND, op.mnemonic, STAGES, start, tag)
        )
