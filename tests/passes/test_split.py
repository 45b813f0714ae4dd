"""Zero-bubble schedules, from the text to the proof: B has what other stages wait for, W the weights' gradients."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.memory.peak import memory_use
from compiler.model import Precision
from compiler.ops.contract import Contract
from compiler.ops.effects import Accumulate, Load, Recv, Save, Send
from compiler.program import DeviceClass, Function
from compiler.text import parse_program, show
from compiler.verify import verify
from compiler.walk import walk
from dsl.source import Source
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from tests.program.mutations import mutations

GPT = (Path(__file__).resolve().parents[2] / "examples" / "gpt.par").read_text()
SMALL = {"layers": "4", "hidden": "16", "heads": "4", "vocab": "24", "seq": "8", "batch": "8", "pp": "2"}


@cache
def gpt(*options: str, rules: str = "", schedule: str = "zero_bubble") -> Compiled:
    text = GPT.replace("schedule one_f_one_b(", f"schedule {schedule}(")
    head, mark, tail = text.partition("    pipeline block on pp")
    assert mark and schedule in text
    source = Source("gpt.par", f"{head}{rules}\n{mark}{tail}")
    given = SMALL | dict(o.split("=", 1) for o in options)
    return compile_job(evaluate_file(source, given, precision=Precision("f64", "f64")).job)


def functions(cls: DeviceClass) -> dict[str, Function]:
    return {f.phase: f for f in cls.functions}


def contractions(function: Function) -> int:
    return sum(isinstance(i.op, Contract) for i, _ in walk(function.body))


CASES = [
    (("microbatches=8",), ""),
    (("microbatches=2",), ""),
    (("pp=4", "microbatches=4"), ""),
    (("pp=4", "layers=6", "microbatches=4"), ""),
    (("pp=4", "microbatches=1"), ""),
    (("dp=2", "tp=2", "microbatches=4", "zero=1"), ""),
    (("dp=2", "cp=2", "microbatches=2", "zero=3"), ""),
    (("tp=2", "dp=2", "microbatches=4", "zero=2"), "    recompute block"),
    (("microbatches=4",), "    recompute block keep block.attention.mixed"),
]


@pytest.mark.parametrize(("options", "rules"), CASES, ids=lambda x: "-".join(x) if isinstance(x, tuple) else x.strip())
def test_zero_bubble_trains_as_the_serial_program_does(options: tuple[str, ...], rules: str) -> None:
    compiled = gpt(*options, rules=rules)
    assert all(set(functions(c)) - {"E"} == {"F", "B", "W", "U"} for c in compiled.program.classes)
    assert not verify(compiled.program)
    text = show(compiled.program)
    assert show(parse_program(text)) == text
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, proof.worst


def test_each_executor() -> None:
    compiled = gpt("pp=4", "dp=2", "microbatches=4")
    assert prove(compiled.training, compiled.program, executor=RankExecutor).ok


def test_weight_gradients_wait() -> None:
    """Of a block's 14 products of the backward pass, the six weights' are W's; B adds up no weight's gradient."""
    whole = functions(gpt("pp=4", "microbatches=4", schedule="one_f_one_b").program.classes[1])
    parts = functions(gpt("pp=4", "microbatches=4").program.classes[1])
    assert contractions(parts["B"]) + contractions(parts["W"]) == contractions(whole["B"])
    late = [i for i, _ in walk(parts["W"].body) if isinstance(i.op, Contract)]
    assert len([i for i in late if len(i.outputs[0].type.dims) > 1]) == 6
    assert not any(isinstance(i.op, Accumulate) for i in parts["B"].body.nodes)
    assert not any(isinstance(i.op, (Send, Recv)) for i in parts["W"].body.nodes)


GATED = """\
use std.optimizers (adamw)
model gated(layers) {
  dim b = 8, d = 6
  input x : f64[b, d]
  weight tied[d]
  y[b, d] = x * tied
  repeat layers as block {
    dim e = 6
    weight w[d, e] ~ normal(0.5)
    gate[b, e] = y @ w
    y[b, d] = y * tanh(rename(gate, e -> d)) + y * tied
  }
  loss mean(y * y * tied)
}
strategy plan for gated {
  mesh (pp = 3)
  pipeline block on pp, schedule zero_bubble(microbatches = 4, over = b)
}
job fit {
  train gated(6) using plan
  optimizer adamw(lr = 0.01)
  precision f64
}
"""


def test_what_both_parts_read_is_freed_by_the_later() -> None:
    """The layer's input is a factor (its gate's gradient) and an operand (the weight's gradient)."""
    compiled = compile_job(evaluate(Source("gated.par", GATED)))
    assert not verify(compiled.program) and prove(compiled.training, compiled.program).ok
    for cls in compiled.program.classes:
        parts = functions(cls)
        early = {i.op.name: i.op.last for i in parts["B"].body.nodes if isinstance(i.op, Load)}
        late = {i.op.name: i.op.last for i in parts["W"].body.nodes if isinstance(i.op, Load)}
        assert set(early) & set(late) and all(late.values())
        assert all(last == (name not in late) for name, last in early.items())
        crossing = {i.op.name for i in parts["B"].body.nodes if isinstance(i.op, Save)}
        assert crossing and crossing <= set(late)


def test_communication_is_that_of_other_schedules() -> None:
    """Splitting moves collectives between B and W; it makes none."""

    def counts(compiled: Compiled) -> list[dict[str, int]]:
        found = []
        for cls in compiled.program.classes:
            here: dict[str, int] = {}
            for f in cls.functions:
                for i, _ in walk(f.body):
                    if i.op.mnemonic in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"):
                        here[i.op.mnemonic] = here.get(i.op.mnemonic, 0) + 1
            found.append(here)
        return found

    options = ("dp=2", "tp=2", "microbatches=4", "zero=3")
    assert counts(gpt(*options)) == counts(gpt(*options, schedule="one_f_one_b"))


def test_one_stage_is_not_split() -> None:
    assert gpt("pp=1", "microbatches=4").split.placed.late is None


def test_memory_stays_near_the_fullest_stage_of_one_f_one_b() -> None:
    """ZB-H1 (Qi et al. 2023, section 2.3): no stage holds more micro-batches than the first of 1F1B.

    Each of them may be held with its gradients beside its activations, so the bound is twice that and a step's own.
    """
    options = ("pp=4", "microbatches=8", "batch=64", "seq=16")
    ours = memory_use(gpt(*options).program)
    theirs = memory_use(gpt(*options, schedule="one_f_one_b").program)
    most = max(use["hbm"].bytes for use in theirs.values())
    assert all(use["hbm"].bytes < 2 * most for use in ours.values())


def test_mutations_of_both_parts_are_caught() -> None:
    compiled = gpt("dp=2", "tp=2", "microbatches=2", "zero=1")
    seen = 0
    missed = []
    kept: dict[str, int] = {}
    for what, program in mutations(compiled.program):
        kind = what.partition(":")[0]
        kept[kind] = kept.get(kind, 0) + 1
        if kind == "swap" or kept[kind] % 23 != 1:
            continue
        seen += 1
        if verify(program):
            continue
        try:
            fine = prove(compiled.training, program).ok
        except Exception:  # a program that cannot run is refused too
            fine = False
        if fine:
            missed.append(what)
    assert seen > 5 and not missed
