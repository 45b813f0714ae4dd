"""Places beside a pipeline: scopes on stages of choice, and what would go back is refused."""

from __future__ import annotations

import re

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


@pytest.mark.parametrize("scope", ["student.embedding", "student"])
def test_what_would_go_back_is_refused(scope: str) -> None:
    with pytest.raises(ParcError) as caught:
        distilled("pp = 2", "gpipe(2)", f"place {scope} on pp[1]")
    (found,) = caught.value.diagnostics
    assert found.code == "E0551" and found.span is not None and found.help is not None
    assert re.search(r"made on stage 1, but stage 0 reads it", found.message), found


def test_what_is_cut_is_not_placed() -> None:
    with pytest.raises(ParcError, match="E0415.*cut into stages"):
        distilled("pp = 2", "gpipe(2)", "place student.block on pp[1]")


def test_places_on_another_axis_are_refused() -> None:
    with pytest.raises(ParcError, match="E0552.*one axis") as caught:
        distilled("pp = 2, qq = 2", "gpipe(2)", "place teacher on qq[0]")
    assert "cuts [0, …]" in (caught.value.diagnostics[0].help or "")
