"""What `--profile` notes of a real run: every action and message once, tracks that nest, kinds that add up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from compiler.cost.price.kinds import Kind, Stream  # noqa: E402
from compiler.cost.time.simulate import Simulation  # noqa: E402
from compiler.driver import Compiled  # noqa: E402
from compiler.liveness import unrolled  # noqa: E402
from compiler.model import EVALUATE  # noqa: E402
from compiler.program import Program  # noqa: E402
from compiler.schedules.actions import Action  # noqa: E402
from parc import api  # noqa: E402
from parc.cli import cli  # noqa: E402
from parc.profiling import STEP, Prediction, Profile, players  # noqa: E402
from parc.report.measured import Measured  # noqa: E402
from parc.report.trace import Trace  # noqa: E402
from runtime.prove import random_batch  # noqa: E402
from runtime.rank.compiled import CompiledRank  # noqa: E402
from runtime.rank.timed import SENT, TimedRank  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from runtime.torch.executor import TorchExecutor  # noqa: E402
from tests.engine.test_faults import ENVIRONMENT, ROOT  # noqa: E402
from tests.some import one_in  # noqa: E402

STEPS = 3
SIZES = {"layers": "2", "hidden": "16", "heads": "2", "vocab": "80", "seq": "8", "batch": "8"}
STRATEGIES = {
    "composed": {"dp": "2", "tp": "2", "zero": "3"},
    "parallel": {"dp": "4", "microbatches": "2"},
    "piped": {"pp": "2", "dp": "2", "tp": "2", "microbatches": "4"},
    "alone": {"microbatches": "2"},
}
GPT = str(ROOT / "examples" / "gpt.par")


def compiled(name: str, **options: Any) -> Compiled:
    return api.compile(GPT, params=SIZES | STRATEGIES[name], **options)


@pytest.fixture(scope="module")
def profiles(pool: ProcessPool) -> Mapping[str, Profile]:
    """What ran in some steps of each strategy."""
    return {name: profiled(pool, compiled(name)) for name in STRATEGIES}


def profiled(pool: ProcessPool, found: Compiled) -> Profile:
    program = found.program
    run = TorchExecutor(program, leader=pool._leader, timed=True)
    for n in range(STEPS):
        run.step(random_batch(program.inputs, 0, n))
    prediction = Prediction.of(Simulation.of(found))
    classes = prediction.timeline.classes
    spans = run.measured([p.first for p in classes])
    run.close()
    return Profile(program.name, pool.about(), classes, spans, prediction)


def tracks(profile: Profile) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(process, track, its events) of the file."""
    found = json.loads("".join(Measured(profile).text()))["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in found if e["ph"] == "M" and e["name"] == "thread_name"}
    owners = {e["pid"]: e["args"]["name"] for e in found if e["ph"] == "M" and e["name"] == "process_name"}
    pids = {e["tid"]: e["pid"] for e in found}
    assert not set(names) & set(owners) and 0 not in names, "Perfetto takes threads for processes"
    for tid, name in names.items():
        yield owners[pids[tid]], name, [e for e in found if e["tid"] == tid and e["ph"] == "X"]


def nanoseconds(event: Mapping[str, Any]) -> tuple[int, int]:
    """As Perfetto reads them."""
    start = int(event["ts"] * 1000)
    return start, start + int(event["dur"] * 1000)


@pytest.mark.parametrize("name", STRATEGIES)
def test_events_of_a_track_nest_or_do_not_overlap(profiles: Mapping[str, Profile], name: str) -> None:
    for _, track, events in tracks(profiles[name]):
        assert events, track
        open_: list[tuple[int, int]] = []
        for start, end in sorted(map(nanoseconds, events), key=lambda x: (x[0], -x[1])):
            assert 0 <= start < end
            while open_ and open_[-1][1] <= start:
                open_.pop()
            assert not open_ or end <= open_[-1][1], track
            if open_:
                assert track == Stream.COMPUTE, "messages and steps lie side by side"
            open_.append((start, end))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_action_is_there_once_in_each_step(profiles: Mapping[str, Profile], name: str) -> None:
    program, profile = compiled(name).program, profiles[name]
    phases = {f.phase for cls in program.classes for f in cls.functions}
    assert profile.steps == STEPS
    for player, spans in zip(profile.players, profile.spans, strict=True):
        wanted = [str(Action(*a)) for a in unrolled(program, program.classes[player.program].schedule, player.group)]
        assert len(wanted) > 1
        for step in range(STEPS):
            found = sorted((s for s in spans if s.step == step and s.kind in phases), key=lambda s: s.start)
            assert [s.name for s in found] == wanted
            whole = next(s for s in spans if s.step == step and s.kind == "step")
            assert whole.start <= found[0].start and found[-1].end <= whole.end


@pytest.mark.parametrize("name", STRATEGIES)
def test_kinds_add_up_to_the_step(profiles: Mapping[str, Profile], name: str) -> None:
    """What is not in an action nor noted beside them is the loop over the schedule; the prediction adds up, too."""
    profile = profiles[name]
    *parts, whole = profile.kinds
    assert whole.kind == STEP and all(p.measured >= 0 for p in parts)
    assert sum(p.measured for p in parts) == pytest.approx(whole.measured, rel=1e-9)
    assert sum(p.predicted or 0 for p in parts) == pytest.approx(whole.predicted, rel=1e-6)
    spans = profile.spans[profile.shown]
    mine = [s for s in spans if s.step == STEPS - 1]
    outer = [s for s in mine if s.stream == Stream.COMPUTE and s.kind not in ("start", Kind.EXPOSED)]
    outer += [s for s in mine if s.name == "waits for sends"]
    step = next(s for s in mine if s.kind == "step")
    assert sum(s.end - s.start for s in outer) <= step.end - step.start
    assert sum(s.end - s.start for s in outer) > 0.5 * (step.end - step.start)


@pytest.mark.parametrize("name", STRATEGIES)
def test_messages_are_those_of_the_program(profiles: Mapping[str, Profile], name: str) -> None:
    """By op and axes the run has what the prediction has, of which several may travel together."""
    profile = profiles[name]
    predicted = {m.name for m in profile.messages if m.predicted}
    assert {m.name for m in profile.messages if m.calls} == predicted
    assert bool(predicted) == (name != "alone")
    if name == "piped":
        program = compiled(name).program
        sent = [s for spans in profile.spans for s in spans if s.op == SENT and s.kind == Kind.SEND]
        assert len(sent) == STEPS * 2 * program.microbatches, "an activation and a gradient for each micro-batch"


@pytest.mark.parametrize("name", ["parallel", "piped"])
def test_gradients_are_reduced_beside_the_last_backward_pass(profiles: Mapping[str, Profile], name: str) -> None:
    """Their messages are started in it, and neither in earlier passes nor in the update, which waits for them."""
    profile = profiles[name]
    last = f"B[{compiled(name).program.microbatches - 1}]"
    for spans in profile.spans:
        for step in range(STEPS):
            mine = [s for s in spans if s.step == step]
            runs = {s.name: s for s in mine if s.kind in ("B", "U")}

            def started(action: str, runs: Mapping[str, Any] = runs, mine: Sequence[Any] = mine) -> list[Any]:
                within = runs[action]
                found = (s for s in mine if s.kind == Kind.COLLECTIVE and s.over == "dp" and s.op == "all_reduce")
                return [s for s in found if within.start <= s.start < within.end]

            assert started(last)
            assert not any(" more" in s.name for s in started("U")), "but for scalars"
            assert not [s for a in runs if a not in (last, "U") for s in started(a)]


def test_the_next_layers_weights_come_beside_this_layer(profiles: Mapping[str, Profile]) -> None:
    """With `zero` 3 the gathers of the second layer are started before those of the first are waited for."""
    for spans in profiles["composed"].spans:
        for step in range(STEPS):
            forward = next(s for s in spans if s.step == step and s.kind == "F")
            inside = [s for s in spans if forward.start <= s.start < forward.end and s.over == "dp"]
            starts = [s for s in inside if s.kind == "start" and s.op == "all_gather" and "block." in s.name]
            waits = [s.start for s in inside if s.kind == Kind.EXPOSED and s.op == "all_gather"]
            assert len(starts) == 2 and starts[0].name == starts[1].name
            assert not any(starts[0].start < w < starts[1].start for w in waits)


def test_tracks_are_those_of_the_predicted_trace(profiles: Mapping[str, Profile]) -> None:
    for name, profile in profiles.items():
        found = compiled(name)
        trace: Trace = api.trace(found)
        predicted = [e for e in trace.events() if e["ph"] == "M"]
        processes = {e["args"]["name"] for e in predicted if e["name"] == "process_name"}
        threads = {e["args"]["name"] for e in predicted if e["name"] == "thread_name"}
        mine = list(tracks(profile))
        assert len(mine) > 1
        assert {owner for owner, _, _ in mine} == processes
        assert {track.split(" (")[0] for _, track, _ in mine} <= threads


def test_arrows_lead_forward_from_a_send_to_its_wait(profiles: Mapping[str, Profile]) -> None:
    ends: dict[int, list[tuple[str, float, int]]] = {}
    for e in Measured(profiles["piped"]).events():
        if e["ph"] in "sf":
            ends.setdefault(e["id"], []).append((e["ph"], e["ts"], e["pid"]))
    assert len(ends) == STEPS * 2 * 4
    for both in ends.values():
        (_, begin, source), (_, end, target) = sorted(both, key=lambda x: x[0] != "s")
        assert sorted(ph for ph, _, _ in both) == ["f", "s"] and source != target
        assert begin < end


def test_clocks_of_a_host_agree(pool: ProcessPool, profiles: Mapping[str, Profile]) -> None:
    """A message is not there before it was sent: by one clock for all processes, which those of a host have."""
    spans = profiles["piped"].spans
    sent = {(s.step, s.tag): s for of in spans for s in of if s.kind == Kind.SEND}
    waits = [s for of in spans for s in of if s.kind == Kind.EXPOSED and s.tag]
    assert len(waits) == len(sent)
    for wait in waits:
        assert sent[wait.step, wait.tag].end <= wait.end
        assert wait.end > sent[wait.step, wait.tag].start


def test_an_evaluation_is_timed(pool: ProcessPool) -> None:
    found = compiled("composed", entry=EVALUATE)
    profile = profiled(pool, found)
    assert Counter(s.name for s in profile.spans[0] if s.kind == "F") == {"F[0]": STEPS}
    assert profile.kinds[-1].kind == STEP


def test_without_a_cluster_nothing_is_predicted(pool: ProcessPool) -> None:
    program: Program = compiled("piped").program
    run = TorchExecutor(program, leader=pool._leader, timed=True)
    run.step(random_batch(program.inputs, 0, 0))
    classes = players(program)
    profile = Profile(program.name, pool.about(), classes, run.measured([p.first for p in classes]))
    run.close()
    assert [p.ranks for p in classes] == [p.ranks for p in Simulation.of(compiled("piped")).run().classes]
    assert profile.counted == range(1) and all(k.predicted is None for k in profile.kinds)
    assert {"compute", "send", "comm"} <= {track for _, track, _ in tracks(profile)}


def test_a_device_that_nobody_times_has_nothing_of_it(pool: ProcessPool) -> None:
    run = TorchExecutor(compiled("alone").program, leader=pool._leader)
    run.step(random_batch(compiled("alone").program.inputs, 0, 0))
    assert pool._leader is not None
    device = pool._leader.devices[run.number]
    assert type(device) is CompiledRank and not isinstance(device, TimedRank)
    run.close()


def test_the_emulator_measures_nothing() -> None:
    done = CliRunner().invoke(cli, ["run", GPT, "--profile", "out.json"])
    assert done.exit_code == 1 and "error[E0711]" in done.stderr


COMMANDS: Sequence[list[str]] = (
    [sys.executable, "-m", "parc"],  # which `test_faults` starts under torchrun, too
    [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "parc"],
)


@pytest.mark.parametrize("command", one_in(2, COMMANDS), ids=["parc", "torchrun"])
def test_the_command_writes_a_trace_and_shows_a_table(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    sizes = [w for n, v in (SIZES | {"layers": "1", "dp": "2"}).items() for w in ("-D", f"{n}={v}")]
    line = [*command, "run", GPT, *sizes, "--engine", "torch", "--steps", "2", "--profile", str(out)]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "measured on 2 processes on cpu" in done.stdout and "predicted by `parc cost`" in done.stdout
    found = json.loads(out.read_text())
    assert found["otherData"]["steps"] == 2
    steps = [e for e in found["traceEvents"] if e["ph"] == "X" and e["cat"] == "step"]
    assert [e["args"]["step"] for e in steps] == [1, 2]


@pytest.mark.parametrize("of", ["lowered", pytest.param("file", marks=pytest.mark.nightly)])
def test_an_evaluation_is_profiled_by_the_command(of: str, tmp_path: Path) -> None:
    """Of a file, and of a lowered program that has the entry: batches, of which none has a backward pass."""
    lowered, out = tmp_path / "both.npu", tmp_path / "out.json"
    sizes = [w for n, v in (SIZES | {"layers": "1", "dp": "2"}).items() for w in ("-D", f"{n}={v}")]
    entries = ["--entry", "train_step", "--entry", "evaluate"]
    assert CliRunner().invoke(cli, ["compile", GPT, *sizes, *entries, "-o", str(lowered)]).exit_code == 0
    what = [GPT, *sizes] if of == "file" else [str(lowered)]
    more = ["--engine", "torch", "--steps", "3", "--evaluate", "--profile", str(out)]
    line = [sys.executable, "-m", "parc", "run", *what, *more]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "mean of 2 batches (the first is left out)" in done.stdout and re.search(
        "^of a batch", done.stdout, re.MULTILINE
    )
    assert re.search(r"^batch +\S+", done.stdout, re.MULTILINE)
    events = json.loads(out.read_text())["traceEvents"]
    names = {e["name"] for e in events if e["ph"] == "X"}
    assert "F[0]" in names and not any(n.startswith(("B[", "U")) for n in names), names
