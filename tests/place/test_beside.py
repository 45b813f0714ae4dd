"""Places beside a pipeline: scopes on stages of choice, which are visited once more where values come back."""

from __future__ import annotations

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
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
    text = show(found.program)
    assert parse_program(text) == found.program and verify(found.program) == () and exact(found.program)
    for executor in (None, RankExecutor):
        more = {} if executor is None else {"executor": executor}
        assert prove(found.training, found.program, 1, **more).ok  # type: ignore[arg-type]
    alone = compile_job(found.job, EVALUATE)
    assert verify(alone.program) == () and prove_evaluation(alone.training, alone.program, 1).ok


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
    text = show(found.program)
    assert parse_program(text) == found.program and verify(found.program) == () and exact(found.program)
    assert prove(found.training, found.program, 1).ok
    assert prove(found.training, found.program, 1, executor=RankExecutor).ok
    alone = compile_job(found.job, EVALUATE)
    assert verify(alone.program) == () and prove_evaluation(alone.training, alone.program, 1).ok


def test_what_is_cut_is_not_placed() -> None:
    with pytest.raises(ParcError, match="E0415.*cut into stages"):
        distilled("pp = 2", "gpipe(2)", "place student.block on pp[1]")


def test_places_on_another_axis_are_refused() -> None:
    with pytest.raises(ParcError, match="E0552.*one axis") as caught:
        distilled("pp = 2, qq = 2", "gpipe(2)", "place teacher on qq[0]")
    assert "cuts [0, …]" in (caught.value.diagnostics[0].help or "")
