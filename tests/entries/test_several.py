"""Several models in one job: a frozen teacher and its student, each laid out by its own rules; all entries proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.cost.kernels.flops import flops_of, model_flops
from compiler.driver import Compiled, compile_job, run_passes
from compiler.evaluate import evaluate_file
from compiler.graph import Graph
from compiler.model import ENTRIES, EVALUATE, Precision
from compiler.ops.effects import Send
from compiler.origin import Role, within
from compiler.passes.places import node_path
from compiler.program import FunctionPhase
from compiler.text import parse_program, show
from compiler.text.stage_parser import parse_stage
from compiler.text.stages import show_stage
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove, prove_evaluation
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.entries.asked import asked

FILE = Path(__file__).resolve().parents[2] / "examples" / "distill.par"
SMALL = {
    "layers": "4",
    "hidden": "16",
    "small_layers": "2",
    "small_hidden": "8",
    "heads": "2",
    "vocab": "24",
    "seq": "8",
}
PLANS = {
    "serial": "",
    "data": "mesh (dp = 2)\n  split b on dp",
    "tensors": "mesh (tp = 2)\n  split h, f, v on tp in teacher\n  split b on tp in student\n  microbatches 2 over b",
    "zero 3 of one": "mesh (dp = 2)\n  split b on dp\n  shard weights on dp in teacher\n  shard optimizer on dp",
    "apart": "mesh (role = 2)\n  place teacher on role[0]\n  place student on role[1]\n  microbatches 2 over b",
    "other way": "mesh (role = 2, dp = 2)\n  split b on dp\n  place teacher on role[1]\n  place student on role[0]",
    "student piped": "mesh (pp = 2)\n  pipeline student.block on pp, schedule one_f_one_b(microbatches = 4)",
    "teacher piped": "mesh (pp = 4)\n  pipeline teacher.block on pp, schedule gpipe(microbatches = 4)",
    "zero bubble": "mesh (pp = 2)\n  pipeline student.block on pp, schedule zero_bubble(microbatches = 4)",
    "both piped": "mesh (pp = 2, dp = 2)\n  split b on dp\n"
    "  pipeline student.block on pp, schedule one_f_one_b(microbatches = 4)\n  pipeline teacher.block on pp, cuts [1]",
    "both, zero bubble": "mesh (pp = 2)\n  pipeline student.block on pp, schedule zero_bubble(microbatches = 4)\n"
    "  pipeline teacher.block on pp",
    "recomputed, both": "mesh (pp = 2, tp = 2)\n  split h, f on tp in teacher\n  recompute student.block\n"
    "  pipeline teacher.block on pp, schedule gpipe(microbatches = 2)\n  pipeline student.block on pp",
    "recomputed": "mesh (dp = 2)\n  split b on dp\n  recompute student.block",
}


def compiled(plan: str, entry: str = "train_step") -> Compiled:
    text = FILE.read_text(encoding="utf-8").replace(" on pod(devices)", "")
    name, rules = "plan" if PLANS[plan] else "serial", PLANS[plan]
    text += f"strategy plan for distilled {{\n  {rules}\n}}\n" if rules else ""
    source = Source(str(FILE), text, str(FILE))
    job = evaluate_file(source, SMALL, None, name, precision=Precision("f64", "f64")).job
    return compile_job(asked(job, entry), entry)


@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
@pytest.mark.parametrize("plan", PLANS)
def test_a_step_is_proved(plan: str, executor: type[Emulator | RankExecutor]) -> None:
    found = compiled(plan)
    proof = prove(found.training, found.program, 2, executor=executor)
    assert proof.ok and not proof.vacuous


@pytest.mark.parametrize("plan", PLANS)
def test_evaluation_is_proved(plan: str) -> None:
    found = compiled(plan, EVALUATE)
    assert prove_evaluation(found.training, found.program, 1).ok


@pytest.mark.parametrize("plan", PLANS)
def test_a_teacher_has_weights_and_nothing_else(plan: str) -> None:
    """No gradients, no states of the optimizer, nothing saved for a backward pass, none that computes it."""
    program = compiled(plan).program
    states = [s for c in program.classes for s in c.states]
    teacher = [s for s in states if within(s.logical, "teacher")]
    assert teacher and {s.role for s in teacher if s.role is not Role.SAVED} == {Role.WEIGHT}
    assert all(s.frozen for s in teacher if s.role is Role.WEIGHT)
    assert not any(within(s.logical, "student") and s.frozen for s in states)
    saved = {s.logical for s in teacher if s.role is Role.SAVED}
    assert all("block" not in name for name in saved), saved  # the logits are, for the loss's derivative


def test_each_has_its_own_layout() -> None:
    program = compiled("tensors").program
    (cls,) = program.classes
    split = {s.logical: s.layout.split_axes for s in cls.states if s.role is Role.WEIGHT}
    assert split["teacher.block.mlp.w1"] == {"tp"} and split["student.block.mlp.w1"] == frozenset()
    (cls,) = compiled("zero 3 of one").program.classes
    split = {s.logical: s.layout.split_axes for s in cls.states if s.role is Role.WEIGHT}
    assert split["teacher.block.mlp.w1"] == {"dp"} and split["student.block.mlp.w1"] == frozenset()


@pytest.mark.parametrize(("plan", "teacher"), [("apart", 0), ("other way", 1)])
def test_on_devices_of_its_own_it_runs_forward_only(plan: str, teacher: int) -> None:
    program = compiled(plan).program
    by = {g: c for c in program.classes for g in c.groups}
    weights = {g: {s.logical.partition(".")[0] for s in c.states if s.role is Role.WEIGHT} for g, c in by.items()}
    assert weights == {teacher: {"teacher"}, 1 - teacher: {"student"}}
    mine = by[teacher]
    assert not any(s.role in (Role.OPTIMIZER, Role.GRADIENT) for s in mine.states)
    assert next(f for f in mine.functions if f.phase is FunctionPhase.FORWARD).body.nodes
    if teacher == 0:  # the loss is where the last of its operands is: the other way that is here
        assert not any(f.body.nodes for f in mine.functions if f.phase is FunctionPhase.BACKWARD)


def test_what_is_counted() -> None:
    """The teacher's parameters are not trained, and of its FLOPs only the forward pass is needed."""
    found = compiled("serial")
    assert {w.name.partition(".")[0] for w in found.job.model.trained} == {"student"}

    def flops(graph: Graph, scope: str) -> float:
        """Loops by their paths, other products by those of their results."""
        mine = (n for n in graph.nodes if within(node_path(n), scope))
        return sum(map(flops_of, mine))

    training = found.training
    forward, backward = ([flops(g, s) for s in ("teacher", "student")] for g in (training.forward, training.backward))
    assert forward[0] > forward[1] > 0 and backward[0] == 0 < backward[1]
    head = flops_of_all(training.forward)
    assert head == sum(forward)
    assert forward[0] + 2.5 * forward[1] < model_flops(training) <= forward[0] + 3 * forward[1]


def flops_of_all(graph: Graph) -> float:
    return sum(map(flops_of, graph.nodes))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("plan", ["tensors", "apart", "student piped", "both piped"])
def test_texts_of_stages_hold_both(plan: str, entry: str) -> None:
    found = compiled(plan, entry)
    for stage in (found.job, *((w := run_passes(found.job, "place", entry)).training, w.placed)):
        read = parse_stage(show_stage(stage))
        again = compile_job(read, entry) if stage is found.job else compile_job(read)
        assert again.program == found.program


def test_a_pipeline_says_which_loop_it_cuts() -> None:
    text = FILE.read_text(encoding="utf-8").replace("pipeline student.block", "pipeline block")
    with pytest.raises(ParcError, match="several loops `block`: `teacher.block` and `student.block`"):
        evaluate_file(Source(str(FILE), text, str(FILE)), SMALL, None, "pipelined")


def test_each_stage_has_its_part_of_both_loops() -> None:
    program = compiled("both piped").program
    found = {(r.dim, g): (r.first.at(g), r.count, r.total) for c in program.classes for r in c.ranges for g in c.groups}
    assert found == {
        ("block_1", 0): (0, 1, 2), ("block_1", 1): (1, 1, 2), ("block", 0): (0, 1, 4), ("block", 1): (1, 3, 4),
    }  # fmt: skip
    text = show(program)
    assert text.count("send block") == 0 and parse_program(text) == program
    sent = {i.op.name for c in program.classes for f in c.functions for i in f.body.nodes if isinstance(i.op, Send)}
    assert {name.partition(".")[0] for name in sent} == {"teacher", "student"}


@pytest.mark.parametrize(
    ("rules", "code", "says"),
    [
        ("pipeline student.block on pp\n  pipeline student.block on pp", "E0415", "cut twice"),
        ("pipeline student.block on pp\n  pipeline teacher.block on qq", "E0415", "on `pp`, this one on `qq`"),
        ("pipeline student.block on pp\n  pipeline teacher.block on pp, schedule gpipe(4)", "E0415", "given twice"),
        ("pipeline student.block on pp\n  place teacher on qq[0]", "E0552", "has a place on pp, but none on qq"),
    ],
)
def test_what_is_wrong_with_several_pipelines(rules: str, code: str, says: str) -> None:
    text = FILE.read_text(encoding="utf-8").replace(" on pod(devices)", "")
    text += f"strategy plan for distilled {{\n  mesh (pp = 2, qq = 2)\n  {rules}\n}}\n"
    with pytest.raises(ParcError) as caught:
        compile_job(evaluate_file(Source(str(FILE), text, str(FILE)), SMALL, None, "plan").job)
    assert any(d.code == code and says in d.message for d in caught.value.diagnostics), caught.value


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "  logits = gpt(",
            "  tokens = tokens + cast(max(aim, over v) * 0.0, int32)\n  logits = gpt(",
            "needs what",
        ),
    ],
)
def test_which_loops_cannot_be_cut_together(old: str, new: str, says: str) -> None:
    text = FILE.read_text(encoding="utf-8").replace(" on pod(devices)", "")
    assert old in text
    source = Source(str(FILE), text.replace(old, new), str(FILE))
    with pytest.raises(ParcError, match=f"E0552.*{says}"):
        compile_job(evaluate_file(source, SMALL, None, "pipelined").job)
