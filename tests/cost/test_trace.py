"""`parc trace`: the format that viewers read, and that it tells what was simulated."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import parc
from compiler.cost.simulate import simulate
from compiler.cost.timeline import Timeline
from parc.cli import cli
from parc.report.trace import trace

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "serial": ("gpt", ""),
    "pipeline": ("gpt", "dp=2 tp=2 pp=2 microbatches=4 layers=8"),
    "uneven": ("gpt", "pp=4 microbatches=8 layers=6"),
    "zero3": ("gpt", "dp=4 zero=3 layers=12"),
    "towers": ("towers", ""),
    "pangu": ("pangu_200b", ""),
}


@cache
def timeline(case: str) -> Timeline:
    example, options = CASES[case]
    return simulate(parc.compile(EXAMPLES / f"{example}.par", params=dict(o.split("=") for o in options.split())))


def spans(found: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    tracks = defaultdict(list)
    for event in found["traceEvents"]:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


@pytest.mark.parametrize("case", CASES)
def test_events_have_what_viewers_need(case: str) -> None:
    found = json.loads(json.dumps(trace(timeline(case), case), allow_nan=False))
    for event in found["traceEvents"]:
        assert {"ph", "ts", "dur", "pid", "tid", "name"} <= set(event)
        assert event["ph"] in "XM" and event["ts"] >= 0 and event["dur"] >= 0
    named = {(e["pid"], e["tid"]) for e in found["traceEvents"] if e["name"] == "thread_name"}
    assert set(spans(found)) <= named
    assert {e["pid"] for e in found["traceEvents"]} == set(range(len(timeline(case).classes)))


@pytest.mark.parametrize("case", CASES)
def test_nothing_overlaps_within_a_track(case: str) -> None:
    for events in spans(trace(timeline(case), case)).values():
        events.sort(key=lambda e: e["ts"])
        for before, after in zip(events, events[1:], strict=False):
            # a picosecond is the unit of the simulation; fractions of a microsecond are rounded far below it
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6


@pytest.mark.parametrize("case", CASES)
def test_a_trace_is_as_long_as_the_step(case: str) -> None:
    t = timeline(case)
    found = spans(trace(t, case))
    for pid in range(len(t.classes)):
        (step,) = found[pid, 0]
        assert step["ts"] == 0 and step["dur"] == pytest.approx(t.step_seconds * 1e6)
    end = max(e["ts"] + e["dur"] for events in found.values() for e in events)
    assert end == pytest.approx(t.step_seconds * 1e6)
    assert sum(len(events) for events in found.values()) == len(t.events) + len(t.classes)


def test_each_stage_of_a_pipeline_runs_each_micro_batch_forward_and_back() -> None:
    found = spans(trace(timeline("pipeline"), "pipeline"))
    for pid in range(2):
        kinds = defaultdict(list)
        for event in found[pid, 1]:
            kinds[event["cat"]].append(event["args"]["micro_batch"])
        assert sorted(kinds["forward pass"]) == sorted(kinds["backward pass"]) == [0, 1, 2, 3]
        assert kinds["update"]  # in pieces: the stages meet in the middle of it, for the norm of all gradients


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    done = CliRunner().invoke(cli, ["trace", str(EXAMPLES / "gpt.par"), "-D", "pp=2", "-o", str(out)])
    assert done.exit_code == 0 and done.stdout == "" and "2 classes" in done.stderr
    found = json.loads(out.read_text())
    assert found["otherData"]["devices"] == 2 and len(found["traceEvents"]) > 10
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    told = CliRunner().invoke(cli, ["trace", str(EXAMPLES / "gpt.par"), "-D", "pp=2"])
    assert json.loads(told.stdout) == found


def test_a_job_without_a_cluster_has_no_trace(tmp_path: Path) -> None:
    text = "model m {\n  dim b = 2\n  input x : f32[b]\n  weight w[b]\n  loss mean(x * w)\n}\n"
    text += "optimizer sgd(lr) {\n  w = w - lr * g\n}\njob fit {\n  train m\n  optimizer sgd(lr = 0.1)\n}\n"
    file = tmp_path / "m.par"
    file.write_text(text)
    done = CliRunner().invoke(cli, ["trace", str(file), "-o", str(tmp_path / "x.json")])
    assert done.exit_code == 1 and "E0801" in done.stderr and not (tmp_path / "x.json").exists()
