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
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.cost.time.timeline import Timeline
from parc.cli import cli
from parc.report.trace import Detail, Trace

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
def simulation(case: str) -> Simulation:
    example, options = CASES[case]
    params = dict(o.split("=") for o in options.split())
    return Simulation.of(parc.compile(EXAMPLES / f"{example}.par", params=params))


@cache
def timeline(case: str) -> Timeline:
    return simulation(case).run()


@cache
def found(case: str, detail: Detail = "some") -> dict[str, Any]:
    return Trace(timeline(case), case, simulation(case).record(), detail).as_json()


def spans(found: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    tracks = defaultdict(list)
    for event in found["traceEvents"]:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


def compute(found: dict[str, Any], cls: int) -> list[dict[str, Any]]:
    """What a class computes."""
    (tid,) = (
        e["tid"]
        for e in found["traceEvents"]
        if e["name"] == "thread_name" and e["pid"] == cls + 1 and e["args"]["name"] == "compute"
    )
    return spans(found)[cls + 1, tid]


def nanoseconds(event: dict[str, Any]) -> tuple[int, int]:
    start = round(event["ts"] * 1000)
    return start, start + round(event["dur"] * 1000)


@pytest.mark.parametrize("case", CASES)
def test_a_trace_is_as_long_as_the_step(case: str) -> None:
    t = timeline(case)
    tracks = spans(found(case))
    (step,) = (e for events in tracks.values() for e in events if e["cat"] == "step")
    assert step["ts"] == 0 and step["dur"] == pytest.approx(t.step_seconds * 1e6)
    assert step["args"] == {"devices": t.devices, "step_seconds": t.step_seconds, "mfu": t.mfu, "bubble": t.bubble}
    end = max(e["ts"] + e["dur"] for events in tracks.values() for e in events)
    assert end == pytest.approx(t.step_seconds * 1e6)
    made = Trace(t, case, simulation(case).record())
    assert sum(len(events) for events in tracks.values()) == made.count
    bare = spans(found(case, "none"))
    assert sum(len(events) for events in bare.values()) == len(t.events) + 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unrolled", [0, 10**9])
def test_pieces_fill_their_segments(case: str, unrolled: int) -> None:
    """Kernels and waits follow each other on `compute` from the start to the end, loops rolled or not."""
    s = simulation(case)
    for key, pieces in s.record(unrolled).items():
        segment = s.costs(s.pricer())[key[0]][key[1]][key[2]]
        tracks = defaultdict(list)
        for p in pieces:
            tracks[p.stream].append(p)
        at = 0
        for p in tracks.pop("compute", []):
            assert p.start == at, (key, p)
            at = p.end
        assert at == segment.duration, key
        for stream, others in tracks.items():
            assert all(a.end <= b.start for a, b in zip(others, others[1:], strict=False)), (key, stream)
            assert others[-1].end <= segment.duration


@pytest.mark.parametrize("case", CASES)
def test_pieces_add_up_to_what_the_cost_says(case: str) -> None:
    s = simulation(case)
    for key, pieces in s.record(10**9).items():
        segment = s.costs(s.pricer())[key[0]][key[1]][key[2]]
        assert sum(p.duration for p in pieces if p.kind in ("product", "vector")) == segment.compute, key
        exposed: dict[str, int] = defaultdict(int)
        for p in pieces:
            if p.kind == "exposed":
                exposed[p.axes] += p.duration
        assert exposed == {axes: ps for axes, ps in segment.exposed.items() if ps}, key


@pytest.mark.parametrize("case", CASES)
def test_waits_of_all_activations_are_the_exposed_communication(case: str) -> None:
    """The longest on a class is what `parc cost` tells: kernels wait, or device groups meet."""
    t = timeline(case)
    waits: list[dict[str, float]] = [defaultdict(float) for _ in t.classes]
    pieces = simulation(case).record(10**9)
    for e in (e for e in t.events if e.stream == "compute" and e.kind != "host"):
        for p in pieces[t.classes[e.cls].program, (e.kind, e.chunk), e.segment]:
            if p.kind == "exposed":
                waits[e.cls][p.axes] += p.duration / 1e12
    for e in t.events:
        if e.kind == "collective":
            waits[e.cls]["stages"] += e.duration_ps / 1e12
    longest = max(waits, key=lambda w: sum(w.values()))
    assert dict(longest) == pytest.approx({a: s for a, s in t.exposed_by_axis.items() if s})


def test_a_long_loop_is_cut_short() -> None:
    s = simulation("zero3")
    whole, short = (next(p for key, p in s.record(n).items() if key[1][0] == "F") for n in (10**9, 0))
    rest = [p for p in short if p.kind == "repeat"]
    assert {p.stream for p in rest} == {"compute", "comm:server"} and len({p.times for p in rest}) == 1
    assert len(short) < len(whole) and rest[0].name == f"× {rest[0].times} more iterations" and rest[0].times > 2


def test_detail_chooses_the_activations() -> None:
    def inside(detail: Detail) -> set[tuple[str, int]]:
        """The activations of stage 3 in which something lies."""
        chosen, last = set(), None
        for event in compute(found("pangu", detail), 3):
            if "micro_batch" in event["args"]:
                last = (event["cat"], event["args"]["micro_batch"])
            else:
                assert last is not None
                chosen.add(last)
        return chosen

    passes = ("forward pass", "backward pass")
    update = {("update", 0)}
    assert inside("none") == set()
    assert inside("some") == {(p, m) for p in passes for m in (0, 31)} | update
    assert inside("all") == {(p, m) for p in passes for m in range(32)} | update


def test_slow_devices_are_tracks_of_their_own() -> None:
    """Activations that a slow device makes longer show nothing inside; all others fill theirs."""
    compiled = simulation("pipeline")
    slow = compiled.run(None, Variation({1: 2.0}))
    shown = Trace(slow, "slow", compiled.record(), "all")
    by_class: dict[int, list[bool]] = defaultdict(list)
    for at, event in enumerate(slow.events):
        if event.stream == "compute" and event.kind in "FB":
            by_class[event.cls].append(at in shown.shown)
            inside = shown.shown.get(at, ())
            assert not inside or max(p.end for p in inside) == event.end_ps - event.start_ps
    (late,) = (c for c, p in enumerate(slow.classes) if (p.first, p.count) == (1, 1))
    assert sorted(r for p in slow.classes for at, n in p.ranks for r in range(at, at + n)) == list(range(8))
    names = {e["args"]["name"] for e in shown.as_json()["traceEvents"] if e["name"] == "process_name"}
    assert {"stage 0: device 1", "stage 1: device 5"} <= names
    assert not any(by_class[late]) and any(all(found) for found in by_class.values())
    json.loads("".join(shown.text()))


def test_pangus_trace_stays_small() -> None:
    text = "".join(Trace(timeline("pangu"), "pangu", simulation("pangu").record()).text())
    assert len(text) < 4e6 and json.loads(text) == found("pangu")


@pytest.mark.parametrize("case", ["pipeline", "pangu", "towers"])
def test_arrows_lead_from_sends_to_what_waited(case: str) -> None:
    tracks = spans(found(case))
    ends = defaultdict(dict)
    for event in found(case)["traceEvents"]:
        if event["ph"] in "sf":
            assert event["ph"] not in ends[event["id"]]
            ends[event["id"]][event["ph"]] = event
    assert ends
    for pair in ends.values():
        start, finish = pair["s"], pair["f"]
        assert start["pid"] != finish["pid"]
        (sent,) = (e for e in tracks[start["pid"], start["tid"]] if e["ts"] == start["ts"])
        (came, *_) = (e for e in tracks[finish["pid"], finish["tid"]] if e["ts"] == finish["ts"])
        assert sent["cat"] == "send" and "pass" in came["cat"]
        assert nanoseconds(sent)[1] <= nanoseconds(came)[0]
        assert sent["args"]["micro_batch"] == came["args"]["micro_batch"]


def test_each_stage_of_a_pipeline_runs_each_micro_batch_forward_and_back() -> None:
    for cls in range(2):
        kinds = defaultdict(list)
        for event in compute(found("pipeline", "none"), cls):
            kinds[event["cat"]].append(event["args"]["micro_batch"])
        assert sorted(kinds["forward pass"]) == sorted(kinds["backward pass"]) == [0, 1, 2, 3]
        assert kinds["update"]  # in pieces: the stages meet in the middle of it, for the norm of all gradients


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    done = CliRunner().invoke(cli, ["trace", str(EXAMPLES / "gpt.par"), "-D", "pp=2", "-o", str(out)])
    assert done.exit_code == 0 and done.stdout == "" and "2 classes" in done.stderr
    written = json.loads(out.read_text())
    assert written["otherData"]["devices"] == 2 and len(written["traceEvents"]) > 10
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    told = CliRunner().invoke(cli, ["trace", str(EXAMPLES / "gpt.par"), "-D", "pp=2"])
    assert json.loads(told.stdout) == written


def test_a_job_without_a_cluster_has_no_trace(tmp_path: Path) -> None:
    text = "model m {\n  dim b = 2\n  input x : f32[b]\n  weight w[b]\n  loss mean(x * w)\n}\n"
    text += "optimizer sgd(lr) {\n  w = w - lr * g\n}\njob fit {\n  train m\n  optimizer sgd(lr = 0.1)\n}\n"
    file = tmp_path / "m.par"
    file.write_text(text)
    done = CliRunner().invoke(cli, ["trace", str(file), "-o", str(tmp_path / "x.json")])
    assert done.exit_code == 1 and "E0801" in done.stderr and not (tmp_path / "x.json").exists()
