"""Loss and metrics of several micro-batches: devices add up their own parts, and agree once, behind the last."""

from __future__ import annotations

import pytest

from compiler.cost.price.kinds import Over
from compiler.cost.time.simulate import simulate
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.model import EVALUATE
from compiler.ops.comm import Comm
from compiler.program import FunctionPhase
from compiler.text import parse_program, show
from compiler.text.stage_parser import parse_stage
from compiler.text.stages import show_stage
from compiler.traffic import collectives
from compiler.verify import verify, verify_stage
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.evaluation import prove_evaluation
from runtime.rank.executor import RankExecutor
from tests.memory.measured import exact
from tests.place.test_reductions import PIPELINE, REPLICAS, TEXT

LOSS = "loss mean(h * h) + mean(h * scale)"
RESULTS = {
    "means": f"{LOSS}\n  metric size = mean(abs(h))\n  metric all = sum(x)",
    "largest": f"{LOSS}\n  metric high = max(h)\n  metric low = min(x)",
    "of some": "w = cast(x > 0.0, f64)\n  loss sum(h * h * w) / sum(w) + mean(h * scale)\n"
    "  metric some = sum(h * w) / sum(w)\n  metric spread = max(h) - mean(h)",
}


def compiled(axes: str, *rules: str, results: str = "means", entry: str = "train_step") -> Compiled:
    sizes = [int(a.partition("=")[2]) for a in axes.split(",")]
    devices = 1
    for n in sizes:
        devices *= n
    text = TEXT.replace("AXES", axes).replace("RULES", "\n  ".join(rules)).replace("DEVICES", str(devices))
    job = evaluate(Source("t.par", text.replace(LOSS, RESULTS[results])))
    return compile_job(job, entry)


def sent(of: Compiled, axis: str) -> float:
    """All bytes that a device sends over the axis in a step."""
    return sum(c.bytes for c in collectives(of.program) if axis in c.axes)


@pytest.mark.parametrize("results", RESULTS)
@pytest.mark.parametrize("entry", ["train_step", EVALUATE])
@pytest.mark.parametrize(
    ("axes", "rules"),
    [
        ("rep = 2, dp = 4", REPLICAS),
        ("pp = 2, rep = 2, dp = 2", (*REPLICAS, "pipeline block on pp, schedule one_f_one_b(microbatches = {n})")),
    ],
    ids=["flat", "pipeline"],
)
def test_what_is_sent_does_not_depend_on_micro_batches(
    axes: str, rules: tuple[str, ...], entry: str, results: str
) -> None:
    """Not a byte more over `rep`, gradients, loss and metrics together; in the program and in its price."""
    few, many = (
        compiled(
            axes,
            *(r.replace("{n}", str(n)) for r in rules),
            *([] if "pp" in axes else [f"microbatches {n}"]),
            results=results,
            entry=entry,
        )
        for n in (2, 8)
    )
    assert sent(few, "rep") == sent(many, "rep") > 0
    first, second = (simulate(c).traffic for c in (few, many))
    over = {k for k in (*first, *second) if isinstance(k, Over) and "rep" in k.axes}
    assert over and {k: first.get(k) for k in over} == {k: second.get(k) for k in over}


def test_passes_send_nothing_for_it() -> None:
    """Whatever goes over an axis in passes is no scalar; one message for each of loss and metrics is behind them."""
    (cls,) = compiled("rep = 2, dp = 4", *REPLICAS, "microbatches 8", results="largest").program.classes
    bodies = {f.phase: [n for n in f.body.nodes if isinstance(n.op, Comm) and n.op.message] for f in cls.functions}
    assert all(n.inputs[0].type.dims for p in (FunctionPhase.FORWARD, FunctionPhase.BACKWARD) for n in bodies[p])
    assert sorted(getattr(n.op, "fn", "") for n in bodies[FunctionPhase.METRICS]) == ["max", "max", "sum"]
    assert [s.role for s in cls.states if s.name == "loss.parts"] == ["statistic"]


def test_with_one_micro_batch_the_pass_ends_the_step() -> None:
    program = compiled("rep = 2, dp = 4", *REPLICAS).program
    assert {f.phase for c in program.classes for f in c.functions} == {"F", "B", "U"}


def test_a_placed_graph_without_its_end_is_found() -> None:
    placed = compiled("rep = 2, dp = 2", *REPLICAS, "microbatches 4").placed
    text = show_stage(placed)
    begin, end = text.index("\nfinish "), text.index("\nfunction ", text.index("\nfinish "))
    assert show_stage(parse_stage(text)) == text
    (one,) = verify_stage(parse_stage(text[:begin] + text[end:]))
    assert one.code == "E0650" and "no `finish`" in one.message


CASES = [
    ("rep = 2, dp = 2", (*REPLICAS, "microbatches 4")),
    ("rep = 2, dp = 3", ("split b on rep pad", "split s on dp pad", "microbatches 5 over b pad")),
    ("dp = 2, tp = 2", ("data_parallel(dp)", "megatron(tp)", "microbatches 2")),
    ("pp = 2, dp = 2", ("data_parallel(dp)", PIPELINE.format("zero_bubble"))),
    ("pp = 2, dp = 2", ("data_parallel(dp)", f"{PIPELINE.format('interleaved').removesuffix(')')}, chunks = 2)")),
]


@pytest.mark.parametrize("results", RESULTS)
@pytest.mark.parametrize(("axes", "rules"), CASES, ids=lambda x: "-".join(x) if isinstance(x, tuple) else x)
def test_proved(axes: str, rules: tuple[str, ...], results: str) -> None:
    of = compiled(axes, *rules, results=results)
    text = show(of.program)
    assert verify(of.program) == () and parse_program(text) == of.program
    proof = prove(of.training, of.program, 1, executor=RankExecutor if results == "largest" else None)
    assert proof.ok, proof.worst
    exact(of.program)
    alone = compiled(axes, *rules, results=results, entry=EVALUATE)
    assert verify(alone.program) == () and prove_evaluation(alone.training, alone.program, 1).ok
