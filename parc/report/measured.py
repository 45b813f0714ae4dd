"""A real run as Chrome trace events, with the processes and tracks of `parc trace`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from compiler.cost.price.kinds import Over, Stream
from compiler.cost.time.timeline import Player
from compiler.ops.effects import Recv
from dsl.data import dataclass
from parc.profiling import Profile
from parc.report.trace import FIRST, PER_NANOSECOND, complete, devices, in_parts, lasts, microseconds, named
from runtime.rank.timed import SENT, TimedSpan

_ENDS: dict[str, dict[str, Any]] = {SENT: {"ph": "s"}, Recv.mnemonic: {"ph": "f", "bp": "e"}}


@dataclass(frozen=True)
class Measured:
    """The trace of a profile: all of its steps."""

    profile: Profile

    def text(self) -> Iterator[str]:
        """As JSON, in many parts."""
        return in_parts(self.events(), self.about())

    def about(self) -> dict[str, Any]:
        """What the format says beside the events."""
        p = self.profile
        told = {"job": p.job, "measured": p.about, "steps": p.steps}
        if p.prediction is not None:
            told["predicted_step_seconds"] = p.prediction.timeline.step_seconds
        return {"displayTimeUnit": "ms", "otherData": told}

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as plain values, as `parc.report.trace.Trace.events` numbers and names them.

        The first process has an event for each step, from its beginning on the first device to its end on the last;
        each class of devices has one process, with what its first device did. Messages that overlap lie on several
        tracks. Arrows lead from a send to where it was waited for.
        """
        profile = self.profile
        step, tid = len(profile.players) + 1, len(profile.players) + 2
        zero = min((s.start for of in profile.spans for s in of), default=0)
        yield from named("process", step, step, profile.job, -1)
        yield from named("thread", step, tid, "step", 0)
        before = zero
        for number in range(profile.steps):
            mine = [s for of in profile.spans for s in of if s.step == number and s.kind == "step"]
            start = max(before, min(s.start for s in mine))  # clocks of hosts are alike but for some microseconds
            before = max(start, *(s.end for s in mine))
            name = f"step {number + 1} of {profile.job}"
            yield _event(name, "step", start, before, zero, step, tid, {"step": number + 1})
        arrows = self._arrows()
        digits = len(str(max((p.group for p in profile.players), default=0)))
        for pid, (player, spans) in enumerate(zip(profile.players, profile.spans, strict=True), 1):
            yield from named("process", pid, pid, f"stage {player.group:0{digits}}: {devices(player)}", pid)
            tracks = self._tracks(spans)
            for i, (stream, mine) in enumerate(tracks):
                tid += 1
                yield from named("thread", pid, tid, stream, i)
                for s in mine:
                    yield _event(s.name, s.kind, s.start, s.end, zero, pid, tid, _told(s, player))
                    if (arrow := arrows.get((s.step, s.tag))) is not None:
                        at = s.start if s.op == SENT else s.end - 1  # within the wait, behind the send
                        where = {"ts": microseconds(at - zero), "pid": pid, "tid": tid}
                        yield {**_ENDS[s.op], "name": "message", "cat": "message", "id": arrow, **where}

    def _tracks(self, spans: Sequence[TimedSpan]) -> list[tuple[str, list[TimedSpan]]]:
        """(name, what is on it, in order of the start), `compute` first: what overlaps on a stream of messages is on
        tracks of its own."""
        prediction = self.profile.prediction
        levels = prediction.streams if prediction is not None else {}
        by_stream: dict[str, list[TimedSpan]] = {}
        for s in sorted(spans, key=lambda s: (s.start, -s.end)):
            if s.stream != "step" and lasts(s.start * PER_NANOSECOND, s.end * PER_NANOSECOND):
                by_stream.setdefault(_stream(s, levels), []).append(s)
        found = []
        for stream, mine in sorted(by_stream.items(), key=lambda x: (x[0] != FIRST, x[0])):
            if stream == FIRST:
                found.append((stream, mine))
                continue
            lanes: list[list[TimedSpan]] = []
            for s in mine:
                lane = next((lane for lane in lanes if lane[-1].end <= s.start), None)
                if lane is None:
                    lanes.append(lane := [])
                lane.append(s)
            found += [(f"{stream} ({i})" if i > 1 else stream, lane) for i, lane in enumerate(lanes, 1)]
        return found

    def _arrows(self) -> dict[tuple[int, tuple[Any, ...]], int]:
        """(step, tag) of messages of which both ends are shown -> a number."""
        ends: dict[tuple[int, tuple[Any, ...]], set[str]] = {}
        for s in (s for of in self.profile.spans for s in of if s.tag):
            if lasts(s.start * PER_NANOSECOND, s.end * PER_NANOSECOND):
                ends.setdefault((s.step, s.tag), set()).add(s.op)
        return {key: i for i, (key, ops) in enumerate(ends.items()) if len(ops) > 1}


def _stream(s: TimedSpan, levels: dict[Over, str] | Any) -> str:
    return str(levels.get(s.over, s.stream)) if s.stream == Stream.comm() else s.stream


def _told(s: TimedSpan, player: Player) -> dict[str, Any]:
    told: dict[str, Any] = {"step": s.step + 1, "stage": player.group}
    return told | ({"op": s.op, "axes": s.over} if s.op else {})


def _event(
    name: str, kind: str, start: int, end: int, zero: int, pid: int, tid: int, told: dict[str, Any]
) -> dict[str, Any]:
    return complete(name, kind, (start - zero) * PER_NANOSECOND, (end - zero) * PER_NANOSECOND, pid, tid, told)
