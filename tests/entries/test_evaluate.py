"""`evaluate` with every kind of strategy: proved, by both executors, and its loss is a step's at learning rate 0."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import parc
from compiler.driver import Compiled, compile_job, joined
from compiler.evaluate import evaluate
from compiler.memory.peak import memory_use
from compiler.model import DECODING, ENTRIES, EVALUATE
from compiler.program import FunctionPhase, Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove_evaluation, random_batch
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact

MODEL = """\
use std.layers
use std.optimizers
use std.tactics

model net {
  dim b = 16, s = 4, d = 8, v = 12
  input tokens, label : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x[b,s,d] = take(table, tokens, over v)
  balance = zeros(dtype = master)
  repeat 4 as block {
    x = x + attention(layer_norm(x), 2)
    FEED
  }
  logits[b,s,v] = layer_norm(x) @ table
  top[b,s] = max(logits, over v)
  used[v] = sum(one_hot(label, v), over (b, s))
  size = sum(table * table)
  right[b,s] = argmax_is(logits, label, v)
  output logits, top, used, size, right
  output tokens
  metric largest = max(top)
  metric spread = sqrt(mean(top * top)) / max(abs(top))
  kept = cast(label != 0, master)
  picked = take(log_softmax(logits, over v), label, over v)
  loss LOSS + 0.01 * balance
}

fn argmax_is(logits, label, v) {
  return take(logits, label, over v) >= max(logits, over v)
}

STRATEGY

job fit {
  train net using plan
  optimizer OPTIMIZER
  FROZEN
}
"""

DENSE = "x = x + mlp(layer_norm(x), 16)"
EXPERTS = "fed, unbalanced = moe(layer_norm(x), 4, 16)\n    x = x + fed\n    balance = balance + unbalanced"
MEAN, COUNTED = "0.0 - mean(picked)", "0.0 - sum(picked * kept) / maximum(sum(kept), 1.0)"

STRATEGIES = {
    "serial": ("", ""),
    "micro-batches": ("", "microbatches 4 over b"),
    "dp": ("dp = 2", "data_parallel(dp)"),
    "zero 1": ("dp = 2", "data_parallel(dp)\noptimizer_parallel(dp, 1)"),
    "zero 2": ("dp = 2", "data_parallel(dp)\noptimizer_parallel(dp, 2)\nmicrobatches 2 over b"),
    "zero 3": ("dp = 2", "fsdp(dp)"),
    "tp": ("tp = 2", "megatron(tp)"),
    "uneven": ("tp = 5", "split v on tp pad"),
    "sp": ("cp = 2", "context_parallel(cp)"),
    "ulysses": ("cp = 2", "ulysses(cp)"),
    "gpipe": ("pp = 2", "pipeline block on pp, schedule gpipe(microbatches = 4)"),
    "1f1b": ("pp = 4", "pipeline block on pp, schedule one_f_one_b(microbatches = 4)"),
    "zero bubble": ("pp = 2", "pipeline block on pp, schedule zero_bubble(microbatches = 4)"),
    "interleaved": ("pp = 2", "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)"),
    "recompute": ("dp = 2", "data_parallel(dp)\nrecompute block"),
    "all": (
        "pp = 2, dp = 2, tp = 2",
        "data_parallel(dp)\nfsdp(dp)\nsplit h, f, v on tp\nrecompute block\n"
        "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)",
    ),
}


def source(
    strategy: str, feed: str = DENSE, loss: str = MEAN, frozen: str = "", optimizer: str = "sgd(lr = 0.0)"
) -> Source:
    mesh, rules = STRATEGIES[strategy]
    body = "".join(f"  {line}\n" for line in (f"mesh ({mesh})" if mesh else "", *rules.split("\n")) if line)
    text = MODEL.replace("FEED", feed).replace("LOSS", loss).replace("OPTIMIZER", optimizer)
    text = text.replace("FROZEN", frozen).replace("STRATEGY", f"strategy plan for net {{\n{body}}}")
    return Source("net.par", text)


@cache
def lowered(source: Source) -> tuple[Compiled, Program]:
    """What `evaluate` is compiled to, and the program of both entries."""
    job = evaluate(source)
    alone = compile_job(job, EVALUATE)
    both = joined([compile_job(job).program, alone.program])
    assert verify(both) == ()
    assert parse_program(show(both)) == both
    return alone, both


SOME = {
    "dense": set(STRATEGIES),
    "experts": {"zero 3", "ulysses", "interleaved"},
    "frozen": {"zero 2", "1f1b", "zero bubble"},
    "counted": {"micro-batches", "uneven", "sp", "gpipe", "all"},
}
"""Kinds of models, and the strategies with which each is taken; the others with `-m nightly`."""
EACH = [
    pytest.param(strategy, kind, id=f"{strategy}-{kind}", marks=() if strategy in some else pytest.mark.nightly)
    for kind, some in SOME.items()
    for strategy in STRATEGIES
]


@pytest.mark.parametrize(("strategy", "kind"), EACH)
def test_it_is_proved_and_its_loss_is_that_of_a_step(strategy: str, kind: str) -> None:
    feed = EXPERTS if kind == "experts" else DENSE
    frozen = "frozen block.attention" if kind == "frozen" else ""
    given = source(strategy, feed, COUNTED if kind == "counted" else MEAN, frozen)
    alone, both = lowered(given)
    assert prove_evaluation(alone.training, alone.program, 2).ok
    batch = random_batch(both.inputs, 0, 0)
    for executor in (Emulator, RankExecutor) if kind == "dense" else (Emulator,):
        run = executor(both)
        step, found = run.step(batch), run.call(EVALUATE, batch)
        assert run.steps == 1
        assert step.loss.tobytes() == found.loss.tobytes()
        assert step.metrics.keys() == found.metrics.keys() == {"largest", "spread"}
        assert all(step.metrics[n].tobytes() == x.tobytes() for n, x in found.metrics.items())
        assert step.outputs.keys() == found.outputs.keys()
        assert all(np.array_equal(step.outputs[n], x) for n, x in found.outputs.items())
    whole = {"logits": (16, 4, 12), "top": (16, 4), "used": (12,), "size": (), "right": (16, 4), "tokens": (16, 4)}
    assert {n: x.shape for n, x in found.outputs.items()} == whole
    assert np.array_equal(found.outputs["tokens"], batch["tokens"])


@pytest.mark.parametrize("strategy", ["serial", "zero 3", "interleaved", "all"])
def test_it_sees_what_a_step_has_changed(strategy: str) -> None:
    _, both = lowered(source(strategy, optimizer="adamw(lr = 0.01)"))
    batch = random_batch(both.inputs, 0, 0)
    stacked, ranks = Emulator(both), RankExecutor(both)
    before = [run.call(EVALUATE, batch).loss for run in (stacked, ranks)]
    for run in (stacked, ranks):
        run.step(batch)
    held = stacked.weights()
    after = [run.call(EVALUATE, batch).loss for run in (stacked, ranks)]
    assert abs(before[0] - after[0]) > 1e-3
    assert np.allclose(before[0], before[1], rtol=1e-5) and np.allclose(after[0], after[1], rtol=1e-5)
    assert all(np.array_equal(held[n], x) for n, x in stacked.weights().items())
    fresh = Emulator(both.only(EVALUATE), initial=held).step(batch)
    assert fresh.loss.tobytes() == after[0].tobytes()


@pytest.mark.parametrize("strategy", ["serial", "dp", "zero 3", "tp", "interleaved", "all"])
def test_memory_is_exact(strategy: str) -> None:
    """Of a step too, which keeps what it puts out to its end."""
    alone, both = lowered(source(strategy))
    assert exact(alone.program) and exact(both.only("train_step"))


def test_nothing_is_kept_nor_renewed() -> None:
    for strategy in ("zero 3", "zero bubble", "recompute", "all"):
        alone, _ = lowered(source(strategy))
        for cls in alone.program.classes:
            assert {s.role for s in cls.states} <= {"weight", "loss", "metric", "output", "statistic"}
            for f in cls.functions:
                assert f.phase not in (FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS, FunctionPhase.UPDATE)
                assert not f.writes & {s.name for s in cls.states if s.role == "weight"}


@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_the_command_proves_the_examples(executor: parc.api.Executor) -> None:
    root = Path(__file__).resolve().parents[2] / "examples"
    for name in ("towers", "lora", "recsys"):
        proof = parc.verify(root / f"{name}.par", 1, executor=executor, entry=EVALUATE)
        assert proof.ok and {r.kind for r in proof.rows} <= {"loss", "metric", "output"}


def test_a_proof_tells_a_wrong_output() -> None:
    alone, _ = lowered(source("tp"))
    text = show(alone.program)
    wrong = parse_program(text.replace("accumulate %tokens into tokens", "accumulate %label into tokens"))
    assert wrong != alone.program and verify(wrong) == ()
    proof = prove_evaluation(alone.training, wrong, 1)
    assert [r.name for r in proof.rows if not r.ok] == ["tokens"]


def test_an_entry_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "net.npu"
    file.write_text(parc.emit(source("dp")))
    with pytest.raises(ParcError, match="no entry `evaluate`"):
        parc.run(file, 1, entry=EVALUATE)
    file.write_text(parc.emit(source("dp"), entries=("train_step", "evaluate")))
    found = parc.run(file, 2, entry=EVALUATE)
    assert found.entry == EVALUATE and len(found.losses) == 2 and found.outputs["logits"].shape == (16, 4, 12)
    assert parc.run(file, 1).entry == "train_step"


def test_statistics_and_finished_metrics_are_there_as_in_a_step() -> None:
    alone, _ = lowered(source("1f1b", loss=COUNTED))
    phases = {f.phase for cls in alone.program.classes for f in cls.functions}
    wanted = {FunctionPhase.STATISTICS, FunctionPhase.TOTALS, FunctionPhase.FORWARD, FunctionPhase.METRICS}
    assert phases == wanted


def test_commands_offer_every_entry() -> None:
    assert (*ENTRIES, *DECODING) == parc.api.ENTRIES


LARGER_ALONE = """\
use std.optimizers (sgd)

device chip {
  compute f32 1 TFLOP/s
  memory MEMORY B, 1 GB/s
}

cluster one {
  device npu = chip
  level server = 1 npu over 1 GB/s, 1 us
}

model line {
  dim b = 8, d = 8, e = 32
  input x : f32[b,d]
  weight w[d], c[e]
  y = x * w
  if not training {
    wide = y * stop_gradient(c)
    output wide
  }
  loss mean(y * y) + mean(c * c)
}

job fit {
  train line on one
  optimizer sgd(lr = 0.1)
}
"""


def test_each_entry_must_fit() -> None:
    """Also one that is not the first of the program, and one that is run or proved by itself."""
    source = Source("line.par", LARGER_ALONE.replace("MEMORY", "100000"))
    alone, both = lowered(source)
    train, other = (memory_use(both.only(e.name))[0]["hbm"].bytes for e in both.entries)
    assert train < other
    Emulator(both, {"hbm": other})
    for program in (both, alone.program):
        with pytest.raises(ParcError, match="E0701.* in `evaluate`"):
            Emulator(program, {"hbm": other - 1})
    small = Source("line.par", LARGER_ALONE.replace("MEMORY", str(other - 1)))
    assert parc.run(small, 1).losses and parc.verify(small, 1).ok
    for use in (parc.run, parc.verify):
        with pytest.raises(ParcError, match="E0701.* in `evaluate`"):
            use(small, 1, entry=EVALUATE)


IDLE = """\
use std.devices (h100)
use std.layers (linear)
use std.optimizers (sgd)

cluster pod() {
  device gpu = h100
  level server = 2 gpu over 100 GB/s, 2 us
}

model net {
  dim b = 4, d = 6, f = 6
  input x : f32[b,d]
  y = linear(x, over f) as left
  loss mean(y * y)
}

strategy plan for net {
  mesh (at = 2)
  place left on at[AT]
}

job fit {
  train net on pod using plan
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("at", [0, 1])
def test_a_device_with_nothing_to_do_holds_nothing(at: int) -> None:
    """A step counts on it; an evaluation has nothing for it, and fits."""
    source = Source("net.par", IDLE.replace("AT", str(at)))
    assert parc.verify(source, 1).ok
    assert parc.verify(source, 1, entry="evaluate").ok
    assert parc.run(source, 1, entry="evaluate").losses
