"""Texts of all stages are read back as they were printed, and compiled on to the same program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import parc
from compiler.driver import compile_job, run_passes
from compiler.model import Job
from compiler.passes.pipeline import Work
from compiler.text import show
from compiler.text.stage_parser import parse_graph, parse_stage
from compiler.text.stages import STAGES, show_graph, show_stage
from dsl.diagnostics import ParcError
from tests.golden.cases import CASES, EXAMPLES, compiled

NAMES = [case.name for case in CASES]


@cache
def work(name: str) -> Work:
    return run_passes(compiled(name).job)


def text(name: str, stage: str) -> str:
    w = work(name)
    return show_stage({"graph": w.job, "training": w.training, "placed": w.placed}[stage])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_read_back_and_compiled_on(name: str, stage: str) -> None:
    printed = text(name, stage)
    found = parse_stage(printed)
    assert show_stage(found) == printed
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
    """Of what a tactic brings some may change nothing; which tactic brought a rule is no part of the text."""
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
