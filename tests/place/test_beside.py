"""Places beside a pipeline: scopes on stages of choice, which are visited once more where values come back."""

from __future__ import annotations

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.model import EVALUATE
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove, prove_evaluation
from runtime.rank.executor import RankExecutor
from tests.entries.test_several import FILE, SMALL
from tests.memory.measured import exact


def distilled(mesh: str, schedule: str, *rules: str) -> Compiled:
    """Student and teacher, the student cut into stages."""
    text = FILE.read_text(encoding="utf-8").replace(" on pod(devices)", "")
    lines = [f"mesh ({mesh})", f"pipeline student.block on pp, schedule {schedule}", *rules]
    text += "strategy plan for distilled {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
    return compile_job(evaluate_file(Source(str(FILE), text, str(FILE)), SMALL, None, "plan").job)


def whole(found: Compiled) -> None:
    """Its text, its memory, and the proofs of both entries, on both executors."""
    text = show(found.program)
    assert parse_program(text) == found.program and verify(found.program) == () and exact(found.program)
    assert prove(found.training, found.program, 1).ok
    assert prove(found.training, found.program, 1, executor=RankExecutor).ok
    alone = compile_job(found.job, EVALUATE)
    assert verify(alone.program) == () and prove_evaluation(alone.training, alone.program, 1).ok


def holders(compiled: Compiled, model: str) -> set[int]:
    """Groups that hold weights of a model."""
    classes = compiled.program.classes
    return {g for c in classes for s in c.states if s.role == "weight" and s.name.startswith(model) for g in c.groups}


@pytest.mark.parametrize(
    ("mesh", "schedule", "rules", "teacher"),
    [
        ("pp = 3", "one_f_one_b(2), cuts [0, 1]", ("place teacher on pp[0]",), 0),
        ("pp = 3", "gpipe(2), cuts [0, 1]", ("place teacher on pp[1]", "recompute"), 1),
        ("pp = 2", "one_f_one_b(2)", ("place teacher on pp[1]",), 1),
        ("pp = 3, dp = 2", "zero_bubble(2), cuts [0, 1]", ("place teacher on pp[0]", "fsdp(dp)"), 0),
        ("pp = 2, tp = 2", "one_f_one_b(4)", ("place teacher on pp[0]", "tensor_parallel(tp)"), 0),
    ],
)
def test_a_teacher_beside_a_pipelined_student(mesh: str, schedule: str, rules: tuple[str, ...], teacher: int) -> None:
    rules = tuple(r.replace("fsdp(dp)", "split b on dp\n  shard weights, gradients, optimizer on dp") for r in rules)
    found = distilled(mesh, schedule, *rules)
    assert holders(found, "teacher") == {teacher} and holders(found, "student") >= {1}
    whole(found)


@pytest.mark.parametrize(
    ("mesh", "schedule", "rules", "homes"),
    [
        ("pp = 2", "gpipe(2)", ("place student.embedding on pp[1]",), (1, 0, 1)),
        ("pp = 2", "gpipe(2)", ("place student on pp[1]",), (1, 0, 1)),  # but for the layers, which are cut
        ("pp = 2", "one_f_one_b(4)", ("place student.linear on pp[0]", "recompute"), (0, 1, 0)),
        ("pp = 2, dp = 2", "zero_bubble(4)", ("place student.linear on pp[0]", "data_parallel(dp)"), (0, 1, 0)),
        (
            "pp = 2",
            "zero_bubble(4)",
            ("place student.embedding on pp[1]", "place student.linear on pp[0]", "place teacher on pp[1]"),
            (1, 0, 1, 0),
        ),
    ],
)
def test_what_comes_back_is_visited_once_more(
    mesh: str, schedule: str, rules: tuple[str, ...], homes: tuple[int, ...]
) -> None:
    found = distilled(mesh, schedule, *rules)
    assert found.program.homes.groups == homes
    whole(found)


def test_what_is_cut_is_not_placed() -> None:
    with pytest.raises(ParcError, match="E0415.*cut into stages"):
        distilled("pp = 2", "gpipe(2)", "place student.block on pp[1]")


LANES = ("place student on at[1]", "place teacher on at[0]")


@pytest.mark.parametrize(
    ("mesh", "schedule", "rules", "homes"),
    [
        ("pp = 2, at = 2", "one_f_one_b(2)", LANES, (1, 3, 0, 2)),  # one place of the teacher has nothing to do
        ("at = 2, pp = 2", "one_f_one_b(4)", (*LANES, "pipeline teacher.block on pp"), (0, 1, 2, 3)),
        ("pp = 2, at = 2", "gpipe(2)", (*LANES, "pipeline teacher.block on pp"), (0, 2, 1, 3)),
        ("at = 2, pp = 2", "zero_bubble(4)", (*LANES, "pipeline teacher.block on pp"), (0, 1, 2, 3)),
        ("at = 2, pp = 2", "gpipe(2)", (*LANES, "place teacher on pp[1]"), (2, 3, 1, 0)),
        ("at = 2, pp = 2", "gpipe(2)", (*LANES, "place student.linear on pp[0]"), (2, 3, 2, 0, 1)),
        ("at = 2, pp = 2, dp = 2", "gpipe(2)", (*LANES, "place student.linear on at[0]", "data_parallel(dp)"), None),
    ],
)
def test_places_on_a_second_axis(
    mesh: str, schedule: str, rules: tuple[str, ...], homes: tuple[int, ...] | None
) -> None:
    """Two pipelines side by side, or one and what is placed beside it."""
    found = distilled(mesh, schedule, *rules)
    assert homes is None or found.program.homes.groups == homes
    assert sorted(set(found.program.homes.groups)) == list(range(4))
    whole(found)


def test_lanes_share_no_devices() -> None:
    found = distilled("at = 2, pp = 2", "one_f_one_b(4)", *LANES, "pipeline teacher.block on pp")
    assert holders(found, "teacher") == {0, 1} and holders(found, "student") == {2, 3}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (("place teacher on at[0]",), "`student.block` has a place on pp, but none on at"),
        (("place student on at[1]", "place teacher on pp[0]"), "`teacher` has a place on pp, but none on at"),
        ((*LANES, "place teacher on at[1]"), "E0415.*placed twice"),
    ],
)
def test_a_place_on_each_axis(rules: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParcError, match=message) as caught:
        distilled("pp = 2, at = 2", "gpipe(2)", *rules)
    assert all(d.span is not None for d in caught.value.diagnostics)


READ_BY_ALL = """
use std.layers (mlp)
use std.optimizers (sgd)

fn gain(x[..., d]) {
  weight g[d] ~ ones
  return x * g
}

model net {
  dim b = 8, d = 4
  input x : f32[b,d]
  m = mlp(gain(x), 3, std = 0.5) as encoder
  h = gain(x) as first
  repeat 4 as block {
    h = tanh(gain(h) + m)
  }
  loss mean(h * h)
}

strategy plan for net {
  mesh (%s)
  pipeline block on pp, schedule %s
%s
}

job fit {
  train net using plan
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize(
    ("mesh", "schedule", "rules", "homes"),
    [
        (
            "at = 2, pp = 2",
            "one_f_one_b(2), cuts [0]",
            ("place encoder on at[1]", "place block on at[0]", "place first on at[0]"),
            (2, 0, 1, 3),
        ),
        ("pp = 3", "one_f_one_b(3, pad = true, over = b), cuts [0, 2]", ("place encoder on pp[1]",), (1, 0, 1, 2)),
        ("pp = 3", "zero_bubble(4), cuts [0, 2]", ("place encoder on pp[2]", "place first on pp[1]"), (2, 1, 0, 1, 2)),
    ],
)
def test_what_all_layers_read_comes_before_a_first_stage_without_layers(
    mesh: str, schedule: str, rules: tuple[str, ...], homes: tuple[int, ...]
) -> None:
    """Its gradient goes back through that stage, as what the loop carries does."""
    text = READ_BY_ALL % (mesh, schedule, "\n".join(f"  {rule}" for rule in rules))
    found = compile_job(evaluate(Source("net.par", text)))
    assert found.program.homes.groups == homes
    whole(found)
