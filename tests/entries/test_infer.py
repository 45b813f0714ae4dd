"""`infer`: the forward pass to a model's outputs under every kind of strategy, alone and in pairs: proved by both
executors, without anything that only training or the loss has."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import parc
from compiler.driver import Compiled, compile_job, joined
from compiler.evaluate import evaluate
from compiler.memory.peak import memory_use
from compiler.model import INFER
from compiler.program import FunctionPhase
from compiler.text import parse_program, show
from compiler.text.stage_parser import parse_stage
from compiler.text.stages import show_stage
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove_evaluation, random_batch
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.entries.test_evaluate import STRATEGIES
from tests.entries.test_evaluate import source as training
from tests.matrix.cells import inferring
from tests.memory.measured import exact

OUTPUTS = {"logits": (16, 4, 12), "top": (16, 4), "used": (12,), "size": (), "right": (16, 4), "tokens": (16, 4)}


def source(strategy: str, feed: str = "DENSE", precision: str = "") -> Source:
    """The model of `test_evaluate`, to be inferred; `precision`: the statement."""
    given = training(strategy) if feed == "DENSE" else training(strategy, feed)
    head, _, _ = given.text.partition("job fit {")
    return Source("net.par", f"{head}job serve {{\n  infer net using plan\n  {precision}\n}}\n")


@cache
def lowered(given: Source) -> Compiled:
    found = compile_job(evaluate(given))
    assert verify(found.program) == ()
    assert parse_program(show(found.program)) == found.program
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_proved(strategy: str) -> None:
    found = lowered(source(strategy))
    assert found.training.entry == INFER == found.program.entries[0].name
    for executor in (Emulator, RankExecutor):
        proof = prove_evaluation(found.training, found.program, 2, executor=executor)
        assert proof.ok and proof.steps == 2 and proof.losses == ()
        assert {(r.kind, r.name) for r in proof.rows} == {("output", name) for name in OUTPUTS}
    run = Emulator(found.program).step(random_batch(found.program.inputs, 0, 0))
    assert {n: x.shape for n, x in run.outputs.items()} == OUTPUTS and not run.metrics


@pytest.mark.parametrize("strategy", ["serial", "zero 3", "interleaved", "all"])
def test_it_gives_what_evaluation_gives(strategy: str) -> None:
    """Beside the other entries of a program that trains: the same bits, after a step, too."""
    job = evaluate(training(strategy))
    each = [compile_job(job, entry) for entry in ("train_step", "evaluate", INFER)]
    both = joined([c.program for c in each])
    assert verify(both) == () and parse_program(show(both)) == both
    batch = random_batch(both.inputs, 0, 0)
    for executor in (Emulator, RankExecutor):
        run = executor(both)
        for _ in range(2):
            one, other = (run.call(entry, batch).outputs for entry in ("evaluate", INFER))
            assert one.keys() == other.keys() == OUTPUTS.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
            run.step(batch)
    assert prove_evaluation(each[-1].training, each[-1].program, 1).ok


def test_it_has_nothing_that_the_outputs_do_not_need() -> None:
    for strategy in ("zero 3", "zero bubble", "recompute", "interleaved", "all"):
        program = lowered(source(strategy)).program
        for cls in program.classes:
            assert {s.role for s in cls.states} <= {"weight", "output"}
            assert {f.phase for f in cls.functions} <= {FunctionPhase.FORWARD}
        assert exact(program)
    lines = LOSS_ONLY.replace("JOB", "infer net")
    (cls,) = compile_job(evaluate(Source("net.par", lines))).program.classes
    assert {s.logical for s in cls.states if s.role == "weight"} == {"w"}
    assert {i.name for i in compile_job(evaluate(Source("net.par", lines))).program.inputs} == {"x"}


LOSS_ONLY = """\
model net {
  dim b = 4, d = 8
  input x, target : f32[b,d]
  weight w[d], only[d]
  state seen[d] ~ zeros
  state mean[d] ~ zeros
  mean = 0.9 * mean + 0.1 * sum(x, over b)
  seen = seen + sum(target, over b)
  y[b,d] = x * w + mean
  output y
  loss mean((y - target) * (y - target) * only) + mean(seen)
}

job serve {
  JOB
}
"""


def test_states_that_outputs_depend_on_stay_and_are_renewed() -> None:
    found = compile_job(evaluate(Source("net.par", LOSS_ONLY.replace("JOB", "infer net"))))
    assert {s.name for s in found.training.model.states} == {"mean"}
    assert prove_evaluation(found.training, found.program, 3).ok
    run, batch = Emulator(found.program), random_batch(found.program.inputs, 0, 0)
    first, second = (run.step(batch).outputs["y"] for _ in range(2))
    assert not np.array_equal(first, second)


def test_weights_have_the_type_of_computation() -> None:
    one, other = (lowered(source("dp", precision=p)).program for p in ("precision bf16, master f32", ""))
    sizes = [sum(s.type.bytes for s in p.classes[0].states if s.role == "weight") for p in (one, other)]
    assert 2 * sizes[0] == sizes[1]
    assert prove_evaluation(lowered(source("dp", precision="precision bf16, master f32")).training, one, 1).ok


def test_a_model_needs_no_loss_to_infer(tmp_path: Path) -> None:
    text = "model m {\n  dim b = 4, d = 8\n  input x : f32[b,d]\n  weight w[d]\n  y[b] = x @ w\n  output y\n}\n"
    given = Source("m.par", text + "job serve {\n  infer m\n}\n")
    assert parc.verify(given, 1).ok
    found = parc.run(given, 3)
    assert found.entry == INFER and found.losses == [] and found.steps == 3 and found.outputs["y"].shape == (4,)
    assert not parc.check(given).warnings
    with pytest.raises(ParcError, match="E0303"):
        parc.run(Source("m.par", f"use std.optimizers (sgd)\n{text}{TRAINS}"))


TRAINS = "job fit {\n  train m\n  optimizer sgd(lr = 1.0)\n}\n"


@pytest.mark.parametrize("stage", ["graph", "training", "placed"])
def test_every_stage_can_be_read_back(stage: parc.api.Stage) -> None:
    given = source("all")
    text = parc.emit(given, stage)
    again = parse_stage(text, "net.graph", ".")
    assert show_stage(again) == text
    assert show(compile_job(again).program) == show(lowered(given).program)


def test_only_what_it_is_for_can_be_asked() -> None:
    for entry in ("train_step", "evaluate"):
        with pytest.raises(ParcError, match=f"E0101.*no entry `{entry}`"):
            parc.compile(source("dp"), entry=entry)
    lossless = training("dp").text.replace("  output logits, top, used, size, right\n  output tokens\n", "")
    with pytest.raises(ParcError, match="E0338"):
        parc.compile(Source("net.par", lossless), entry=INFER)


EXAMPLES = {
    "lora": ("logits", {"layers": 4, "hidden": 16, "width": 32, "vocab": 80, "seq": 8, "batch": 8, "dp": 2, "tp": 2}),
    "distill": (
        "logits, aim",
        {"layers": 4, "hidden": 16, "small_layers": 2, "small_hidden": 8, "heads": 2, "vocab": 80, "seq": 8, "dp": 2},
    ),
    "megatron_175b": ("logits", {"layers": 4, "hidden": 16, "heads": 4, "vocab": 24, "seq": 8, "pp": 2, "tp": 2}),
}
"""Those that the matrix does not have (`tests/matrix`: `test_some_are_inferred`): what each puts out, its sizes."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example(name: str) -> None:
    outputs, sizes = EXAMPLES[name]
    path = Path(__file__).resolve().parents[2] / "examples" / f"{name}.par"
    text = re.sub(r" on (pod|selene)\([^)]*\)", "", path.read_text(encoding="utf-8"))
    given = inferring(Source(str(path), text, str(path)), outputs)
    proof = parc.verify(given, 1, params=sizes)
    assert proof.ok and {r.name for r in proof.rows} >= set(outputs.split(", "))


PRICED = """\
use std.devices (ascend910)
use std.tactics

cluster pod {
  device npu = ascend910
  level server = 2 npu over 30 GB/s, 1 us
}
"""


def test_it_has_a_price() -> None:
    """A third of a step's work or less, no gradients, no optimizer, nothing saved; on every page and in every table."""
    both = {}
    for job in ("infer", "train"):
        given = training("interleaved").text if job == "train" else source("interleaved").text
        given = given.replace("use std.tactics\n", PRICED).replace(f"{job} net using", f"{job} net on pod using")
        both[job] = Source("net.par", given)
    infer, train = (parc.api.cost(both[job]) for job in ("infer", "train"))
    assert infer.timeline.flops_model == pytest.approx(train.timeline.flops_model / 3, rel=0.1)
    assert 0 < infer.timeline.step_seconds < train.timeline.step_seconds
    assert infer.needed < train.needed and infer.timeline.update_seconds == 0
    assert all(set(m.program.roles) <= {"weight", "activation", "message", "input", "output"} for m in infer.memory)
    assert infer.memory[0].program.roles["weight"] > 0
    page = parc.api.report(infer)
    assert "<html" in page and parc.api.trace(infer.compiled).as_json()["traceEvents"]
    assert parc.api.explain_tensor(both["infer"], "logits").changes is not None


@pytest.mark.parametrize("name", ["dp", "zero bubble"])
def test_the_difference_of_two_strategies(name: str) -> None:
    one, other = (parc.compile(source(s)).program for s in ("serial", name))
    assert str(parc.api.diff(one, other))


def test_a_proof_tells_a_wrong_output() -> None:
    found = lowered(source("tp"))
    text = show(found.program)
    wrong = parse_program(text.replace("accumulate %tokens into tokens", "accumulate %label into tokens"))
    assert wrong != found.program and verify(wrong) == ()
    proof = prove_evaluation(found.training, wrong, 1)
    assert [r.name for r in proof.rows if not r.ok] == ["tokens"]


def test_memory_is_less_than_that_of_evaluation() -> None:
    job = evaluate(training("all"))
    one, other = (memory_use(compile_job(job, entry).program) for entry in (INFER, "evaluate"))
    assert all(one[g]["hbm"].bytes <= other[g]["hbm"].bytes for g in one)
