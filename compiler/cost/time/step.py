"""The one stepper: devices of one class, or of several side by side, go through a segment's tasks.

A task starts when its stream is free, what it needs is there, and the devices that it is done with are ready, too. At
the end of a segment all streams have ended. A rolled loop is played until an iteration repeats the one before, shifted
in time; the rest of its iterations are that shift, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from compiler.cost.kernels.work import Product, Vector
from compiler.cost.price.kinds import NOTHING, Kind, Over, Stream
from compiler.cost.price.pricer import COMM, COMPUTE
from compiler.cost.time.task import HERE, Rolled, Task, Tasks
from compiler.cost.time.tasks import Segment
from compiler.cost.time.timeline import Piece
from compiler.limits import TURNS
from dsl.data import dataclass
from dsl.diagnostics import fail

Together = Mapping[tuple[str, ...], Sequence[Sequence[int]]]
"""Mesh axes -> per class, the classes that a collective over them brings together."""


@dataclass(slots=True)
class Recording:
    """What lies where, if somebody wants to know. names: of the streams; unrolled: pieces of a loop that are shown one
    by one, at most."""

    names: Sequence[str]
    unrolled: int
    pieces: list[Piece] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Played:
    """A segment on devices of a class, in picoseconds. duration: from the first class's beginning to its end; ready:
    when each of its messages is.

    compute: of kernels; exposed: in which they wait for messages, by axes; pieces: what lies where, if it was recorded.
    """

    segment: Segment
    duration: int
    ready: tuple[int, ...]
    compute: int
    exposed: dict[Over, int]
    pieces: tuple[Piece, ...] = ()


def play(segment: Segment, streams: int, recording: Recording | None = None) -> Played:
    """A segment on devices that are alike."""
    return step(segment, streams, (0,), (1.0,), {}, recording)[0]


def step(
    segment: Segment,
    streams: int,
    begin: Sequence[int],
    factors: Sequence[float],
    together: Together,
    recording: Recording | None = None,
) -> list[Played]:
    """A segment on the classes of a device group. begin: per class, when it starts; factors: how many times longer its
    kernels take; recording: of the first class."""
    devices = [_Device(streams, b, f) for b, f in zip(begin, factors)]
    devices[0].recording = recording
    ends = _Stepper(devices, together).tasks(segment.tasks, list(begin), None)
    found = []
    for device, b, mine in zip(devices, begin, ends):
        duration = device.close(b + segment.host)
        posts = zip(segment.cut.posts, segment.dispatched, strict=True)
        ready = tuple([max([b + at, *[mine[d] for d in deps]]) for (_, deps), at in posts])
        found.append(Played(segment, duration, ready, device.compute, device.exposed))
    if recording is not None:
        pieces = tuple(sorted(recording.pieces, key=lambda p: (p.start, -p.end)))
        found[0] = replace(found[0], pieces=pieces)
        recording.pieces = []
    return found


class _Device:
    """The streams of a class's devices, each with the axes of its last message."""

    __slots__ = ("compute", "exposed", "factor", "free", "last", "recording", "sent")

    def __init__(self, streams: int, begin: int, factor: float) -> None:
        self.free = [begin] * streams
        self.last = [NOTHING] * streams
        self.sent: dict[int, tuple[int, Over]] = {}  # when a message ended -> when it began, and its axes
        self.exposed: dict[Over, int] = {}
        self.compute = 0
        self.factor = factor
        self.recording: Recording | None = None

    def start(self, task: Task, ready: int) -> int:
        """When it could start, as far as this device is concerned."""
        free, start = self.free, ready
        if free[task.stream] > start:
            start = free[task.stream]
        for s, _ in task.also:
            if free[s] > start:
                start = free[s]
        if task.blocking and free[COMPUTE] > start:
            start = free[COMPUTE]
        return start

    def run(self, task: Task, start: int, cause: Over) -> int:
        """When it ends. cause: axes of the message that it waited for; of loops only the end is known."""
        free, stream, ps = self.free, task.stream, task.ps
        if stream == COMPUTE:
            if start > free[COMPUTE]:
                self.wait(free[COMPUTE], start, cause or self.cause(start))
            if self.factor != 1.0:
                ps = round(ps * self.factor)
            free[COMPUTE] = end = start + ps
            self.compute += ps
        else:
            end = start + ps
            if ps:
                self.sent[end] = (start, task.axes)
            if task.blocking:
                before, free[COMPUTE] = free[COMPUTE], end
                self.wait(before, end, task.axes)
            free[stream] = end
            self.last[stream] = task.axes
            for s, share in task.also:
                free[s] = start + share
                self.last[s] = task.axes
        if self.recording is not None and ps:
            work, priced = task.node.work, task.priced
            kernel = isinstance(work, (Product, Vector))
            of = (float(work.bytes), float(work.flops)) if kernel else (priced.sent, 0.0)  # type: ignore[union-attr]
            name = self.recording.names[stream]
            self.recording.pieces.append(Piece(name, task.node.name, priced.kind, start, end, task.axes, *of))
        return end

    def wait(self, start: int, end: int, axes: Over) -> None:
        """Computation stands still, until a message over `axes` has come ("": for no message).

        What that message itself waited for (others on its link, or what they brought) is told as theirs.
        """
        while end > start:
            began, of = self.sent.get(end, (start, axes)) if axes else (start, axes)
            began = max(began, start)
            if of:
                self.exposed[of] = self.exposed.get(of, 0) + end - began
            self.note(f"waits for {of}" if of else "waits", Kind.EXPOSED if of else Kind.WAIT, began, end, of)
            end, axes = began, of

    def note(self, name: str, kind: str, start: int, end: int, axes: Over = NOTHING) -> None:
        """Records what computation does besides kernels."""
        if self.recording is not None and end > start:
            self.recording.pieces.append(Piece(Stream.COMPUTE, name, kind, start, end, axes))

    def cause(self, ready: int) -> Over:
        """The axes of the message that ended then, if one did."""
        ended = (s for s in range(COMM, len(self.free)) if self.free[s] == ready)
        return next((self.last[s] for s in ended), NOTHING)

    def repeat(self, times: int, loop: Rolled, mark: _Mark) -> int:
        """As many iterations more as the last one, which began at `mark`; by how much time they shift."""
        by = self.free[COMPUTE] - mark.time
        recent = self.free[COMPUTE] - 2 * by
        self.sent = {
            end + times * by: (began + times * by, axes) for end, (began, axes) in self.sent.items() if end > recent
        }
        for s in loop.streams:
            self.free[s] += times * by
        for axes, ps in self.exposed.items():
            self.exposed[axes] = ps + times * (ps - mark.exposed.get(axes, 0))
        self.compute += times * (self.compute - mark.compute)
        if self.recording is not None:
            _again(self.recording, times, by, mark.pieces)
        return times * by

    def close(self, host: int) -> int:
        """All streams end, and the host has dispatched all kernels at `host`; when that is."""
        last = max(self.free)
        self.wait(self.free[COMPUTE], last, self.last[self.free.index(last)])
        self.note("waits for the host", Kind.HOST, last, host)
        return max(last, host)


class _Mark:
    """Where a device is as an iteration begins."""

    __slots__ = ("compute", "exposed", "pieces", "time")

    def __init__(self, device: _Device) -> None:
        self.time, self.compute, self.exposed = device.free[COMPUTE], device.compute, dict(device.exposed)
        self.pieces = len(device.recording.pieces) if device.recording is not None else 0


def _again(recording: Recording, times: int, by: int, mark: int) -> None:
    """The last iteration's pieces `times` more, or one piece per stream that stands for them."""
    last = recording.pieces[mark:]
    if not last:  # iterations that take no time: nothing of them is shown, however many there are
        return
    if times * len(last) <= recording.unrolled:
        for i in range(1, times + 1):
            recording.pieces += [replace(p, start=p.start + i * by, end=p.end + i * by) for p in last]
        return
    for stream in dict.fromkeys(p.stream for p in last):
        start = max(p.end for p in last if p.stream == stream)
        if times * by:
            name = f"× {times} more iterations"
            recording.pieces.append(Piece(stream, name, Kind.REPEAT, start, start + times * by, times=times))


class _Stepper:
    def __init__(self, devices: Sequence[_Device], together: Together) -> None:
        self.devices, self.together = devices, together if len(devices) > 1 else {}
        self.played = 0

    def tasks(
        self,
        tasks: Sequence[Tasks],
        start: list[int],
        before: list[list[int]] | None,
        began: Sequence[Sequence[int]] = (),
    ) -> list[list[int]]:
        """Per class, when each task has ended. start: when all that they read from outside is there; before: the ends
        in the iteration before; began: when this one began, the one before, and so on: what is fetched ahead waits for
        one of them. (Systems gather one layer's weights while the layer before computes.)"""
        devices, together = self.devices, self.together
        ends: list[list[int]] = [[] for _ in devices]
        for task in tasks:
            ready, causes = [], []
            for c, mine in enumerate(ends):
                at, cause = start[c], NOTHING
                since = task.prefetch - HERE
                if 0 <= since < len(began) and began[since][c] > at:
                    at = began[since][c]
                for d in task.deps:
                    if mine[d] > at:
                        at, cause = mine[d], tasks[d].axes
                if before is not None:
                    for d in task.carried:
                        if before[c][d] > at:
                            at, cause = before[c][d], tasks[d].axes
                ready.append(at)
                causes.append(cause)
            if isinstance(task, Rolled):
                for mine, end in zip(ends, self.loop(task, ready)):
                    mine.append(end)
                continue
            starts = [device.start(task, at) for device, at in zip(devices, ready)]
            if task.over and together:
                starts = [max([starts[m] for m in members]) for members in together[task.over]]
            for device, mine, at, cause in zip(devices, ends, starts, causes):
                mine.append(device.run(task, at, cause))
        return ends

    def loop(self, loop: Rolled, start: list[int]) -> list[int]:
        """Per class, when the last iteration has ended."""
        devices = self.devices
        parties = self.parties(loop)
        before: list[list[int]] | None = None
        began: list[list[int]] = []
        deep = max((t.prefetch for tasks in (loop.tasks, loop.first, loop.last) for t in tasks), default=0)
        shape: list[tuple[int, ...]] = []
        i = 0
        while i < loop.rounds:
            began = [[max(d.free[COMPUTE], s) for d, s in zip(devices, start)], *began[: max(0, deep - HERE)]]
            marks = [_Mark(device) for device in devices]
            before = self.tasks(loop.of(i), start, before, began)
            now = []
            for c, device in enumerate(devices):
                zero = device.free[COMPUTE]
                times = [*(of[c] for of in began), devices[parties[c]].free[COMPUTE]]
                times += [device.free[s] for s in loop.streams] + [before[c][d] for d in loop.needed]
                now.append(tuple([t - zero for t in times]))
            i += 1
            self.played += len(loop.tasks)
            if self.played > TURNS and i < loop.rounds and now != shape:
                message = f"of a loop of {loop.rounds:,} iterations the messages fall ever further behind"
                raise fail("E0931", message, help="fewer iterations, or faster links")
            left = loop.rounds - i - bool(loop.last)  # which are as this one
            if now == shape and left > 0:
                more = [d.repeat(left, loop, mark) for d, mark in zip(devices, marks)]
                before = [[t + by for t in ends] for ends, by in zip(before, more)]
                began = [[t + by for t, by in zip(of, more)] for of in began]
                i += left
            shape = now
        return [max([s, *ends]) for s, ends in zip(start, before or [[] for _ in start])]

    def parties(self, loop: Rolled) -> list[int]:
        """Per class, the first of those that it meets in the loop, directly or through others: their iterations must
        repeat with the same shift."""
        found = list(range(len(self.devices)))
        for members in (m for axes in loop.over for m in self.together.get(axes, ())):
            to = min(found[m] for m in members)
            gone = {found[m] for m in members}
            found = [to if f in gone else f for f in found]
        return found
