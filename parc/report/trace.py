"""A timeline as Chrome trace events: a process per class of devices, a thread per stream."""

from __future__ import annotations

from typing import Any

from compiler.cost.timeline import Event, Player, Timeline

PER_MICROSECOND = 10**6
"""Picoseconds. The format counts in microseconds, with fractions."""

KINDS = {
    "F": "forward pass",
    "B": "backward pass",
    "W": "gradients of weights",
    "U": "update",
    "collective": "collective",
    "send": "send",
    "copy": "copy",
}
_FIRST = ("step", "compute")


def devices(player: Player) -> str:
    """`devices 128..255`, `device 3`."""
    last = player.first + player.count - 1
    return f"devices {player.first}..{last}" if player.count > 1 else f"device {player.first}"


def trace(timeline: Timeline, name: str) -> dict[str, Any]:
    """The trace as plain values, for `json.dumps`.

    Each class has a thread `step` with one event as long as the step, under it its streams. `ts` and `dur` are in
    microseconds; events of a thread do not overlap.
    """
    events: list[dict[str, Any]] = []
    step_ps = max([round(timeline.step_seconds * 1e12), *(e.end_ps for e in timeline.events)])
    by_class: dict[int, list[Event]] = {c: [] for c in range(len(timeline.classes))}
    for event in timeline.events:
        by_class[event.cls].append(event)
    for pid, player in enumerate(timeline.classes):
        mine = by_class[pid]
        streams = [*_FIRST, *sorted({e.stream for e in mine} - set(_FIRST))]
        tids = {stream: tid for tid, stream in enumerate(streams)}
        events.append(_meta("process_name", pid, 0, {"name": f"stage {player.group}: {devices(player)}"}))
        events.append(_meta("process_sort_index", pid, 0, {"sort_index": pid}))
        for stream, tid in tids.items():
            events.append(_meta("thread_name", pid, tid, {"name": stream}))
            events.append(_meta("thread_sort_index", pid, tid, {"sort_index": tid}))
        events.append(_complete(f"a step of {name}", "step", 0, step_ps, pid, 0, {"devices": player.count}))
        for e in mine:
            told = {"micro_batch": e.micro, "stage": e.stage}
            kind = KINDS.get(e.kind, e.kind)
            events.append(_complete(e.name, kind, e.start_ps, e.end_ps, pid, tids[e.stream], told))
    figures = {
        "job": name,
        "devices": timeline.devices,
        "step_seconds": timeline.step_seconds,
        "mfu": timeline.mfu,
        "bubble": timeline.bubble,
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": figures}


def _meta(what: str, pid: int, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": what, "ts": 0, "dur": 0, "pid": pid, "tid": tid, "args": args}


def _complete(
    name: str, category: str, start_ps: int, end_ps: int, pid: int, tid: int, args: dict[str, Any]
) -> dict[str, Any]:
    ts = start_ps / PER_MICROSECOND
    dur = (end_ps - start_ps) / PER_MICROSECOND
    return {"ph": "X", "name": name, "cat": category, "ts": ts, "dur": dur, "pid": pid, "tid": tid, "args": args}
