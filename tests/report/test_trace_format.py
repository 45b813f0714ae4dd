"""Traces against the rules of those that read them: Chrome's trace event format, as catapult (chrome://tracing) and
Perfetto's trace processor read it. Perfetto 52 and catapult, run by hand on these traces, show every slice where these
rules say that it lies.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import parc
from compiler.cost.time.slow import Variation
from dsl.source import Source
from parc import api
from parc.report.trace import microseconds

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "serial": ("gpt", "", {}),
    "pipeline": ("gpt", "dp=2 tp=2 pp=2 microbatches=4 layers=8 zero=1", {}),
    "slow": ("gpt", "dp=2 tp=2 pp=2 microbatches=4", {1: 2.0}),
    "recsys": ("recsys", "dp=4", {}),
    "towers": ("towers", "", {}),
    "pangu": ("pangu_200b", "", {}),
}
Event = dict[str, Any]
KEYS = {"X": {"dur", "cat", "args", "tid"}, "M": {"args"}, "C": {"args"}, "s": {"id", "cat", "tid"}}
KEYS["f"] = KEYS["s"] | {"bp"}


@cache
def trace(case: str) -> list[Event]:
    example, options, slow = CASES[case]
    compiled = parc.compile(EXAMPLES / f"{example}.par", params=dict(o.split("=") for o in options.split()))
    found = json.loads("".join(api.trace(compiled, variation=Variation(slow)).text()))
    assert set(found) == {"traceEvents", "displayTimeUnit", "otherData"} and found["displayTimeUnit"] in ("ms", "ns")
    return found["traceEvents"]


def ns(us: float) -> int:
    """Perfetto keeps whole nanoseconds: it multiplies in double precision, and cuts."""
    return int(us * 1000)


def problems(events: list[Event]) -> list[str]:
    """What breaks a rule."""
    bad: list[str] = []
    for e in events:
        missing = {"ph", "name", "ts", "pid", *KEYS[e["ph"]]} - set(e)
        if missing:
            return [f"{sorted(missing)} missing in {e}"]
        if not (isinstance(e["ts"], int | float) and e["ts"] >= 0 and abs(ns(e["ts"]) - 1000 * e["ts"]) < 1e-3):
            bad.append(f"ts of {e}")
        if not (isinstance(e["name"], str) and e["name"]):
            bad.append(f"name of {e}")
    return bad + numbers(events) + slices(events) + flows(events) + counters(events)


def numbers(events: list[Event]) -> list[str]:
    """Threads and processes have numbers of their own (else Perfetto merges them), a name, and a place of their own."""
    bad: list[str] = []
    pids = {e["pid"] for e in events}
    threads = {(e["pid"], e["tid"]) for e in events if e["ph"] in "Xsf"}
    tids = [t for _, t in threads]
    if len(set(tids)) < len(tids) or pids & set(tids) or not all(n > 0 for n in [*pids, *tids]):
        bad.append("a number stands for two things, or is 0")
    for what, all_of in (("process", {(p,) for p in pids}), ("thread", threads)):
        for key in ("name", "sort_index"):
            said = [e for e in events if e["ph"] == "M" and e["name"] == f"{what}_{key}"]
            of = [(e["pid"], e["tid"])[: 1 if what == "process" else 2] for e in said]
            if len(set(of)) < len(of) or set(of) != all_of:
                bad.append(f"{what}_{key} of not just all")
            if what == "process" and len({e["args"][key] for e in said}) < len(said):
                bad.append(f"two of the same {what}_{key}")
    return bad


def tracks(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    found: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            found[e["pid"], e["tid"]].append(e)
    return found


def slices(events: list[Event]) -> list[str]:
    """Those of a thread nest or do not overlap, the outer one first. Without a length one would hold the next."""
    bad: list[str] = []
    for mine in tracks(events).values():
        open_until: list[int] = []
        for e in sorted(mine, key=lambda e: ns(e["ts"])):  # a stable order: as they are written
            start, end = ns(e["ts"]), ns(e["ts"]) + ns(e["dur"])
            while open_until and open_until[-1] <= start:
                open_until.pop()
            if end <= start:
                bad.append(f"no length: {e}")
            if open_until and end > open_until[-1]:
                bad.append(f"overlaps: {e}")
            open_until.append(end)
    return bad


def flows(events: list[Event]) -> list[str]:
    """An arrow has two ends, of one name and category, each where a slice begins or runs, the first one earlier."""
    bad: list[str] = []
    ends: dict[int, list[Event]] = defaultdict(list)
    threads = tracks(events)
    for e in events:
        if e["ph"] in "sf":
            ends[e["id"]].append(e)
            around = threads.get((e["pid"], e["tid"]), ())
            if not any(ns(x["ts"]) <= ns(e["ts"]) < ns(x["ts"]) + ns(x["dur"]) for x in around):
                bad.append(f"hangs in the air: {e}")
    for pair in ends.values():
        if sorted(e["ph"] for e in pair) != ["f", "s"] or len({(e["name"], e["cat"]) for e in pair}) > 1:
            bad.append(f"not an arrow: {pair}")
        else:
            start, finish = sorted(pair, key=lambda e: e["ph"], reverse=True)
            if start["ts"] >= finish["ts"] or finish["bp"] != "e":
                bad.append(f"leads back: {pair}")
    return bad


def counters(events: list[Event]) -> list[str]:
    bad: list[str] = []
    last: dict[tuple[int, str], int] = {}
    for e in events:
        if e["ph"] == "C":
            key = e["pid"], e["name"]
            if ns(e["ts"]) <= last.get(key, -1):
                bad.append(f"goes back: {e}")
            last[key] = ns(e["ts"])
            if not e["args"] or not all(isinstance(v, int | float) and v >= 0 for v in e["args"].values()):
                bad.append(f"not numbers: {e}")
    return bad


@pytest.mark.parametrize("case", CASES)
def test_a_trace_keeps_the_rules(case: str) -> None:
    assert not problems(trace(case))


@pytest.mark.parametrize("example", sorted(path.stem for path in EXAMPLES.glob("*.par")))
def test_the_trace_of_every_job_of_the_examples_keeps_the_rules(example: str) -> None:
    file = EXAMPLES / f"{example}.par"
    for job in re.findall(r"^job (\w+)", file.read_text(), re.MULTILINE):
        text = "".join(api.trace(parc.compile(file, job=job)).text())
        assert not problems(json.loads(text)["traceEvents"]), job


def test_no_nanosecond_is_lost() -> None:
    """Plain thousandths lose some: what follows then begins before its time."""
    assert int(1.001 * 1000) == 1000
    draw = random.Random(9)
    moments = [*range(20_000), *(draw.randrange(10 ** draw.randrange(4, 16)) for _ in range(100_000))]
    for n in moments:
        us = json.loads(json.dumps(microseconds(n)))
        assert int(us * 1000) == n and abs(us * 1000 - n) < 0.25
    assert any(int(n / 1000 * 1000) != n for n in moments)


def test_what_takes_no_time_is_not_told() -> None:
    """Messages of a few bytes over links without latency, and kernels of a device without launches."""
    text = (EXAMPLES / "gpt.par").read_text()
    fast = Source("gpt.par", re.sub(r"over [^,\n]+, [\d.]+ us", "over 1e18 B/s, 0 us", text))
    params = {"pp": "2", "dp": "2", "microbatches": "2"}
    compiled = parc.compile(fast, params=params)
    events = list(api.trace(compiled).events())
    assert not problems(events) and not any(e.get("cat") == "send" for e in events)
    assert "block" in json.dumps(events)
    instant = api.trace(compiled)
    ends = [replace(e, start_ps=e.start_ps // 10**9, end_ps=e.end_ps // 10**9) for e in instant.timeline.events]
    nothing = replace(instant, timeline=replace(instant.timeline, events=ends, step_seconds=1e-12), memory=())
    dense = replace(instant, memory=[{"hbm": [(0, 1), (2000, 5), (2900, 7), (3000, 2)]}] * len(instant.memory))
    counted = [(e["ts"], e["args"]["bytes"]) for e in dense.events() if e["ph"] == "C" and e["pid"] == 1]
    assert counted == [(0.0, 1), (0.002, 7), (0.003, 2)]
    assert [e["cat"] for e in nothing.events() if e["ph"] == "X"] == ["step"] and not problems(list(nothing.events()))


def _first(events: list[Event], ph: str, at: int = 0) -> Event:
    return [e for e in events if e["ph"] == ph][at]


BREAK: dict[str, Callable[[list[Event]], object]] = {
    "missing": lambda events: _first(events, "X").pop("dur"),
    "ts of": lambda events: _first(events, "X").update(ts=0.0004),
    "name of": lambda events: _first(events, "X").update(name=""),
    "stands for two": lambda events: [e.update(tid=1) for e in events if e.get("tid") == _first(events, "X")["tid"]],
    "thread_name of not": lambda events: events.remove(next(e for e in events if e["name"] == "thread_name")),
    "same process_sort": lambda events: [
        e["args"].update(sort_index=0) for e in events if e["name"] == "process_sort_index"
    ],
    "no length": lambda events: _first(events, "X", -1).update(dur=0),
    "overlaps": lambda events: next(e for e in events if e["ph"] == "X" and e["cat"] == "matrix product").update(
        dur=1e9
    ),
    "hangs": lambda events: _first(events, "s").update(ts=1e9),
    "not an arrow": lambda events: events.remove(_first(events, "f")),
    "leads back": lambda events: _first(events, "f").update(bp="s"),
    "goes back": lambda events: _first(events, "C", -1).update(ts=0.0),
    "not numbers": lambda events: _first(events, "C").update(args={"bytes": "many"}),
}


@pytest.mark.parametrize("what", BREAK)
def test_a_broken_trace_breaks_a_rule(what: str) -> None:
    events = copy.deepcopy(trace("pipeline"))
    BREAK[what](events)
    assert any(what in problem for problem in problems(events))


@pytest.mark.parametrize("case", CASES)
def test_the_counters_peak_is_the_peak(case: str) -> None:
    """Of each class of devices, in each memory: what `parc cost` says of it."""
    example, options, slow = CASES[case]
    params = dict(o.split("=") for o in options.split())
    estimate = api.cost(EXAMPLES / f"{example}.par", params=params, variation=Variation(slow))
    most: dict[tuple[int, str], int] = defaultdict(int)
    for e in trace(case):
        if e["ph"] == "C":
            most[e["pid"], e["name"]] = max(most[e["pid"], e["name"]], e["args"]["bytes"])
    of = {p.first: pid for pid, p in enumerate(estimate.timeline.classes, 1)}
    for m in estimate.memory:
        assert most[of[m.ranks[0][0]], m.memory] == m.peak
    assert max(most.values()) == max(m.peak for m in estimate.memory)
