"""A timeline as Chrome trace events: a process per class of devices, a thread per stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from math import inf, nextafter
from typing import Any, Literal, get_args

from compiler.cost.price.kinds import Stream
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.timeline import Event, Piece, Pieces, Player, Timeline
from compiler.numbering import show_ranks
from compiler.program import FunctionPhase
from dsl.data import dataclass

Detail = Literal["all", "some", "none"]
DETAILS: tuple[Detail, ...] = get_args(Detail)

FEW = 20_000
"""Pieces that are shown wherever they are, before only those of first and last micro-batches are."""

PER_NANOSECOND = 1000
"""Picoseconds. The format counts in microseconds; viewers keep whole nanoseconds of them."""

KINDS = {
    **{p.value: p.words for p in FunctionPhase},
    "collective": "collective",
    "send": "send",
    "copy": "copy",
    "hosted": "on the host",
    "product": "matrix product",
    "vector": "element-wise",
    "exposed": "exposed communication",
    "wait": "waiting",
    "host": "host",
    "repeat": "loop",
}
FIRST = Stream.COMPUTE
"""The stream that stands above the others."""


def devices(player: Player) -> str:
    """`devices 128..255`, `device 3`, `devices 0..2, 4..7`, `devices 0, 2, 4 and 13 others`."""
    return show_ranks(player.ranks)


def each(player: Player) -> str:
    """`each of devices 128..255`, `device 3`."""
    return f"each of {devices(player)}" if player.count > 1 else devices(player)


Held = Sequence[Mapping[str, Sequence[tuple[int, int]]]]
"""Per class of devices and kind of memory: from these moments on (picoseconds) a device holds so many bytes."""


@dataclass(frozen=True)
class Trace:
    """A step of the job `name`. pieces (of `record`): what lies in the activations that `detail` asks for."""

    timeline: Timeline
    name: str
    pieces: Pieces = field(default_factory=dict)
    detail: Detail = "some"
    memory: Held = ()

    @cached_property
    def shown(self) -> dict[int, Sequence[Piece]]:
        """The events of the timeline (by index) in which pieces are shown, and which."""
        return dict(_shown(self.timeline, self.pieces, self.detail))

    @cached_property
    def lasting(self) -> list[tuple[int, Event]]:
        """The events that are told, and their index. Of no length in nanoseconds, they would nest in each other."""
        return [(at, e) for at, e in enumerate(self.timeline.events) if lasts(e.start_ps, e.end_ps)]

    @property
    def count(self) -> int:
        """Of events that last, the step among them."""
        return len(self.lasting) + 1 + sum(len(list(self._inside(at))) for at in self.shown)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"traceEvents": list(self.events()), **self.about()}

    def text(self) -> Iterator[str]:
        """As JSON, in many parts: there may be a million events."""
        return in_parts(self.events(), self.about())

    def about(self) -> dict[str, Any]:
        """What the format says beside the events."""
        return {"displayTimeUnit": "ms", "otherData": {"job": self.name, **self.figures()}}

    def figures(self) -> dict[str, Any]:
        """Of the step."""
        t = self.timeline
        return {"devices": t.devices, "step_seconds": t.step_seconds, "mfu": t.mfu, "bubble": t.bubble}

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as plain values, one by one.

        The first process has one event as long as the step, each class one with its streams as threads. Pieces are
        nested in their activations on `compute`, and on the levels that their messages cross. Arrows lead from sends to
        what waited for them; counters say how full memory is. `ts` and `dur` are in microseconds; events of a thread
        nest or do not overlap.

        Perfetto takes a thread for the process of the same number, and 0 for the kernel's idle thread: so no number
        stands twice, for threads or processes, and none is 0.
        """
        timeline = self.timeline
        by_class: list[list[tuple[int, Event]]] = [[] for _ in timeline.classes]
        for at, event in self.lasting:
            by_class[event.cls].append((at, event))
        arrows = self._messages()
        lengths = (round(timeline.step_seconds * PICOSECONDS), PER_NANOSECOND)
        step_ps = max([*lengths, *(e.end_ps for e in timeline.events)])
        step, tid = len(timeline.classes) + 1, len(timeline.classes) + 2
        yield from named("process", step, step, self.name, -1)
        yield from named("thread", step, tid, "step", 0)
        yield complete(f"a step of {self.name}", "step", 0, step_ps, step, tid, self.figures())
        digits = len(str(max((p.group for p in timeline.classes), default=0)))  # some viewers sort by name
        for pid, player in enumerate(timeline.classes, 1):
            mine = by_class[pid - 1]
            streams = {e.stream for _, e in mine} | {p.stream for at, _ in mine for p in self.shown.get(at, ())}
            order = sorted(streams, key=lambda stream: (stream != FIRST, stream))
            tids = {stream: i for i, stream in enumerate(order, tid + 1)}
            tid += len(tids)
            yield from named("process", pid, pid, f"stage {player.group:0{digits}}: {devices(player)}", pid)
            for i, stream in enumerate(order):
                yield from named("thread", pid, tids[stream], stream, i)
            for at, e in mine:
                told = {"micro_batch": e.micro, "stage": e.stage} | ({"chunk": e.chunk} if e.chunk else {})
                yield complete(e.name, e.kind, e.start_ps, e.end_ps, pid, tids[e.stream], told)
                for p in self._inside(at):
                    start, end = e.start_ps + p.start, e.start_ps + p.end
                    yield complete(p.name, p.kind, start, end, pid, tids[p.stream], _told(p))
                for message in e.messages:
                    if (message, e.cls) in arrows:
                        yield _arrow(e, arrows[message, e.cls], pid, tids[e.stream])
            for kind, moments in (self.memory[pid - 1] if self.memory else {}).items():
                for ns, n in {ps // PER_NANOSECOND: n for ps, n in moments}.items():  # of a nanosecond the last counts
                    yield {"ph": "C", "name": kind, "ts": microseconds(ns), "pid": pid, "args": {"bytes": n}}

    def _messages(self) -> dict[tuple[int, int], int]:
        """(message, class that sends or waits for it) -> number of the arrow that has both ends.

        Where a group has several classes, each of them sends: to those with the same place in the other group.
        """
        t = self.timeline
        base: dict[int, int] = {}
        for p in t.classes:
            base[p.group] = min(p.first, base.get(p.group, p.first))
        place = [p.first - base[p.group] for p in t.classes]
        ends: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for _, e in self.lasting:
            for message in e.messages:
                ends.setdefault((message, place[e.cls]), ([], []))[e.stream == Stream.SEND].append(e.cls)
        # Messages within a device group take no time and are no events: no arrow has one end.
        whole = (found for found in ends.items() if all(found[1]))
        return {(key[0], cls): i for i, (key, of) in enumerate(whole) for classes in of for cls in classes}

    def _inside(self, at: int) -> Iterator[Piece]:
        """The pieces that are shown in an event, but for those of no length."""
        start = self.timeline.events[at].start_ps
        for p in self.shown.get(at, ()):
            if lasts(start + p.start, start + p.end):
                yield p


def lasts(start_ps: int, end_ps: int) -> bool:
    """Whether it has a length in nanoseconds."""
    return start_ps // PER_NANOSECOND < end_ps // PER_NANOSECOND


def in_parts(events: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[str]:
    """A trace as JSON, an event at a time. about: what the format says beside the events."""
    yield '{"traceEvents":['
    for i, event in enumerate(events):
        yield (",\n" if i else "\n") + dumped(event)
    yield f"],{dumped(about)[1:]}\n"


def dumped(value: Mapping[str, Any]) -> str:
    """As JSON, without spaces."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _shown(timeline: Timeline, pieces: Pieces, detail: Detail) -> Iterator[tuple[int, Sequence[Piece]]]:
    """The events (by index) in which pieces are shown."""
    found: dict[int, Sequence[Piece]] = {}
    lengths = {key: max((p.end for p in inside), default=0) for key, inside in pieces.items()}
    for at, e in enumerate(timeline.events):
        key = (timeline.classes[e.cls].program, (e.kind, e.chunk), e.segment)
        # With slow devices an activation may last longer than the pieces of devices that are alike.
        if e.stream == Stream.COMPUTE and lengths.get(key) == e.end_ps - e.start_ps:
            found[at] = pieces[key]
    if detail == "none":
        return
    if detail == "all" or sum(map(len, found.values())) <= FEW:
        yield from found.items()
        return
    micros: dict[tuple[int, str, int], set[int]] = {}
    for at in found:
        e = timeline.events[at]
        micros.setdefault((e.cls, e.kind, e.chunk), set()).add(e.micro)
    ends = {key: (min(seen), max(seen)) for key, seen in micros.items()}
    for at, inside in found.items():
        e = timeline.events[at]
        if e.micro in ends[e.cls, e.kind, e.chunk]:
            yield at, inside


def _told(piece: Piece) -> dict[str, Any]:
    told = {"axes": piece.axes, "bytes": piece.bytes, "flops": piece.flops}
    return {k: v for k, v in told.items() if v} | ({"iterations": piece.times} if piece.times > 1 else {})


def _arrow(event: Event, number: int, pid: int, tid: int) -> dict[str, Any]:
    """The end of an arrow at a send, or at what waited for it."""
    end = {"ph": "s"} if event.stream == Stream.SEND else {"ph": "f", "bp": "e"}
    where = {"ts": microseconds(event.start_ps // PER_NANOSECOND), "pid": pid, "tid": tid}
    return {**end, "name": "message", "cat": "message", "id": number, **where}


def named(what: str, pid: int, tid: int, name: str, index: int) -> Iterator[dict[str, Any]]:
    """The name of a process or thread, and its place among them."""
    for key, args in (("name", {"name": name}), ("sort_index", {"sort_index": index})):
        yield {"ph": "M", "name": f"{what}_{key}", "ts": 0, "pid": pid, "tid": tid, "args": args}


def complete(
    name: str, kind: str, start_ps: int, end_ps: int, pid: int, tid: int, args: Mapping[str, Any]
) -> dict[str, Any]:
    """An event with a beginning and an end."""
    # Both ends are cut, never the length: so what is nested, or follows, still does.
    start, end = start_ps // PER_NANOSECOND, end_ps // PER_NANOSECOND
    where = {"ts": microseconds(start), "dur": microseconds(end - start), "pid": pid, "tid": tid}
    return {"ph": "X", "name": name, "cat": KINDS.get(kind, kind), **where, "args": args}


def microseconds(ns: int) -> float:
    """The nearest number of microseconds of which `int(x * 1000)` is `ns`: so viewers make whole nanoseconds of it.

    Perfetto multiplies in double precision and cuts (`CoerceToTs`): of 0.251 it makes 250. The next number above n/1000
    is at least half a unit in the last place above it, too: its product is not below n.
    """
    us = ns / 1000
    return us if int(us * 1000) == ns else nextafter(us, inf)
