"""Texts of all stages are read back as they were printed, and compiled on to the same program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import parc
from compiler.driver import compile_job, run_passes
from compiler.model import Job, Training
from compiler.passes.pipeline import Work
from compiler.passes.place.place import Placed
from compiler.text import show
from compiler.text.spans import of_fact
from compiler.text.stage_parser import parse_graph, parse_stage
from compiler.text.stages import STAGES, show_graph, show_stage
from compiler.verify import verify_stage
from compiler.walk import graph_values, walk
from dsl.diagnostics import ParcError
from dsl.source import Source, Span
from tests.golden.cases import CASES, EXAMPLES, compiled

NAMES = [case.name for case in CASES]


@cache
def work(name: str) -> Work:
    return run_passes(compiled(name).job)


def text(name: str, stage: str) -> str:
    w = work(name)
    return show_stage({"graph": w.job, "training": w.training, "placed": w.placed}[stage])


def stands(of: Job | Training | Placed) -> dict[str, Span]:
    """Where everything was written."""
    job = of if isinstance(of, Job) else of.job if isinstance(of, Training) else of.training.job
    graphs = [job.model.graph, *(u.graph for u in job.updates)] if isinstance(of, Job) else of.graphs
    found = {"job": job.span, **dict(of_fact(job.strategy, "")), **dict(of_fact(job.cluster, "cluster"))}
    for graph in graphs:
        found |= {v.name: v.span for v in graph_values(graph)}
        found |= {f"= {n.outputs[0].name}": n.span for n, _ in walk(graph)}
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_read_back_and_compiled_on(name: str, stage: str) -> None:
    printed = text(name, stage)
    found = parse_stage(printed)
    assert show_stage(found) == printed
    w = work(name)
    assert stands(found) == stands({"graph": w.job, "training": w.training, "placed": w.placed}[stage])
    assert verify_stage(found) == ()
    assert compile_job(found).program == work(name).program


def test_whole_batches_are_apart_in_the_training_graph() -> None:
    printed = text("counted", "training")
    assert "\nbatch " in printed and "\ntotal " in printed


@pytest.mark.parametrize("stage", STAGES)
def test_files_of_stages(stage: str, tmp_path: Path) -> None:
    options = {"dp": 2, "tp": 2, "zero": 1}
    file = tmp_path / f"gpt.{stage}"
    file.write_text(parc.emit(EXAMPLES / "gpt.par", stage, params=options), encoding="utf-8")
    assert parc.emit(file) == parc.emit(EXAMPLES / "gpt.par", params=options)
    assert parc.emit(file, stage) == file.read_text(encoding="utf-8")
    with pytest.raises(TypeError, match="params"):
        parc.emit(file, params=options)
    if stage != "graph":
        with pytest.raises(ValueError, match="behind"):
            parc.emit(file, "graph")


HEAD = """\
graph fit of m
strategy Strategy(name = "s")
input %x: f32[b=4]
model m (
  %x: f32[b=4],
) {
  yield %x
}
"""


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("graph fit", "grahp fit", "E0601", "expected `program`, `graph`"),
        ("Strategy(", "Strategie(", "E0603", "no facts `Strategie`"),
        ('name = "s"', 'nome = "s"', "E0606", "has no `nome`"),
        ('name = "s"', "mesh = ()", "E0606", "lacks `name`"),
        ('strategy Strategy(name = "s")', "strategy Precision()", "E0606", "expected Strategy"),
        ('name = "s"', "name = 3", "E0606", "`name` holds str"),
        ('name = "s"', 'name = "s", mesh = (3)', "E0606", "`mesh` holds"),
        ("f32[b=4]\nmodel", "f23[b=4]\nmodel", "E0601", "element type"),
        ("yield %x", "%y: f32[b=4] = exq %x\n  yield %x", "E0603", "no op `exq`"),
        ("yield %x\n}", "yield %x", "E0601", ""),
        ("}\n", "}\nmore\n", "E0601", ""),
        ("input %x", "input x", "E0601", ""),
    ],
)
def test_what_is_wrong_with_a_text_is_told(old: str, new: str, code: str, says: str) -> None:
    assert isinstance(parse_stage(HEAD), Job)
    assert old in HEAD
    with pytest.raises(ParcError) as caught:
        parse_stage(HEAD.replace(old, new, 1), "m.graph")
    found = caught.value.diagnostics[0]
    assert found.code == code and says in found.message and found.span is not None


def test_a_text_cut_anywhere_gives_errors_not_failures() -> None:
    whole = text("counted", "placed")
    for end in range(0, len(whole), 997):
        with pytest.raises(ParcError):
            parse_stage(whole[:end])


def test_graphs_by_themselves() -> None:
    graph = work("zero_1").training.forward
    assert parse_graph(show_graph(graph)) == graph and str(graph) == show_graph(graph)
    assert parse_graph(show_graph(graph)) is not graph


def test_what_is_lowered_is_the_text_of_a_stage_as_well() -> None:
    program = work(NAMES[0]).program
    assert show(program).startswith("program ")


def test_memories_and_origins_are_in_the_text() -> None:
    text = """\
graph g (
  %x: f32[b=4] in host again of y,
) {
  %z: f32[b=4] moved of x at far.away = move %x from host to hbm
  yield %z
}
"""
    graph = parse_graph(text)
    assert show_graph(graph) == text
    (x,), (z,) = graph.inputs, graph.outputs
    assert (x.memory, x.origin.phase, x.origin.of, x.origin.path) == ("host", "again", "y", "y")
    assert (z.memory, z.origin.phase, z.origin.of, z.origin.path) == ("hbm", "moved", "x", "far.away")


def test_rules_that_overlap_within_tactics_are_read_back(tmp_path: Path) -> None:
    """Of what a tactic brings some may change nothing: the text tells which tactic brought a rule."""
    given = (EXAMPLES / "gpt.par").read_text(encoding="utf-8").replace("../", f"{EXAMPLES.parent}/")
    given = given.replace("  data_parallel(dp)\n", "  data_parallel(dp)\n  fsdp(dp)\n").replace(
        "(context_parallel, ", "(fsdp, context_parallel, "
    )
    file = tmp_path / "gpt.par"
    file.write_text(given, encoding="utf-8")
    want = parc.emit(file, params={"dp": 2})
    for stage in STAGES:
        printed = tmp_path / f"gpt.{stage}"
        printed.write_text(parc.emit(file, stage, params={"dp": 2}), encoding="utf-8")
        assert parc.emit(printed) == want


WRONG = """\
use std.layers (linear)
use std.optimizers (sgd)

tactic again(tp) {
  shard weights on tp
}

model line {
  dim b = 8, d = 4, n = 4
  input x : f32[b,d]
  h = linear(x, over n)
  running = cumsum(h, over b)
  loss mean(h * h) + mean(running * running)
}

strategy plan for line {
  mesh (dp = 2, tp = 2)
  split b on dp
  RULE
  microbatches 2 over b
}

job fit {
  train line using plan
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("stage", ["graph", "training"])
@pytest.mark.parametrize(
    ("rule", "code"),
    [("split n on tp\n  split n on tp", "E0542"), ("again(tp)", "E0542"), ("split n on tp", "E0502")],
)
def test_errors_are_those_of_the_source(rule: str, code: str, stage: str, tmp_path: Path) -> None:
    """With their places, those in the library too, and with what else they point at."""
    file, printed = tmp_path / "line.par", tmp_path / f"line.{stage}"
    text = WRONG.replace("tp = 2", "tp = 3") if "again" in rule else WRONG
    file.write_text(text.replace("RULE", rule), encoding="utf-8")
    printed.write_text(parc.emit(file, stage), encoding="utf-8")
    with pytest.raises(ParcError) as want:
        parc.emit(file)
    with pytest.raises(ParcError) as got:
        parc.emit(printed)
    assert got.value.diagnostics == want.value.diagnostics
    assert code in {d.code for d in got.value.diagnostics} and all(d.span for d in got.value.diagnostics)


@pytest.mark.parametrize(
    ("stage", "old", "new", "code"),
    [
        ("graph", "running: f32[b=4", "running: f32[b=5", "E0612"),
        ("training", "running: f32[b=4", "running: f32[b=5", "E0612"),
        ("placed", "running: f32[b=2/dp, f=8] = relu", "running: f32[b=4, f=8] = relu", "E0614"),
        ("placed", "running: f32[b=2/dp, f=8] = relu", "running: f32[b=2/dp, f=8] = all_reduce", "E0601"),
    ],
)
def test_what_was_changed_by_hand_is_verified(stage: str, old: str, new: str, code: str, tmp_path: Path) -> None:
    text = WRONG.replace("RULE", "").replace("mesh (dp = 2, tp = 2)", "mesh (dp = 2)").replace("b = 8", "b = 4")
    text = text.replace("running = cumsum(h, over b)", "dim f = 8\n  running = relu(linear(x, over f))")
    text = text.replace("  microbatches 2 over b\n", "")
    file, printed = tmp_path / "line.par", tmp_path / f"line.{stage}"
    file.write_text(text, encoding="utf-8")
    whole = parc.emit(file, stage)
    assert old in whole
    printed.write_text(whole.replace(old, new), encoding="utf-8")
    with pytest.raises(ParcError) as caught:
        parc.emit(printed)
    found = caught.value.diagnostics[0]
    assert found.code == code and found.span is not None and found.span.source == str(printed)
    assert new in printed.read_text()[: found.span.end + 80]


def test_paths_of_data_count_from_the_text(tmp_path: Path) -> None:
    """Nothing of this machine is in it."""
    (tmp_path / "parc.toml").touch()
    for folder in ("jobs", "texts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "jobs" / "numbers.csv").write_text("x\n1\n2\n3\n4\n")
    text = """\
use std.optimizers (sgd)

model line {
  dim b = 4
  input x : f32[b]
  weight w[b]
  loss mean(x * w)
}

job fit {
  train line
  optimizer sgd(lr = 0.1)
  data csv("numbers.csv")
}
"""
    file = tmp_path / "jobs" / "line.par"
    file.write_text(text)
    for there in (tmp_path / "jobs", tmp_path / "texts"):
        for stage in STAGES:
            printed = there / f"line.{stage}"
            printed.write_text(parc.emit(file, stage, folder=str(there)))
            facts = [line for line in printed.read_text().splitlines() if line.startswith("data ")]
            assert len(facts) == 1 and str(tmp_path) not in facts[0], facts
            found = parse_stage(printed.read_text(), folder=str(there))
            job = found if isinstance(found, Job) else found.job if isinstance(found, Training) else found.training.job
            assert job.data is not None and job.data.folder == str(tmp_path / "jobs")


@pytest.mark.parametrize("stage", STAGES)
def test_texts_without_a_line_are_read_or_refused(stage: str) -> None:
    """Whatever is missing: what the head declares goes with what the graphs take in and give."""
    text = WRONG.replace("RULE", "").replace("mesh (dp = 2, tp = 2)", "mesh (dp = 2)")
    lines = parc.emit(Source("line.par", text.replace("cumsum(h, over b)", "h")), stage).splitlines(keepends=True)
    refused = set()
    for i in range(len(lines)):
        try:
            parc.emit(Source(f"line.{stage}", "".join(lines[:i] + lines[i + 1 :])))
        except ParcError as error:
            assert all(d.span is not None for d in error.diagnostics), (lines[i], error)
            refused |= {d.code for d in error.diagnostics}
    assert {"E0601", "E0610", "E0650"} <= refused
