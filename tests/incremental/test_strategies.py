"""Decoding under strategies: what is kept has layouts, and positions by themselves give what all give at once."""

from __future__ import annotations

from functools import cache

import pytest

from compiler.driver import Compiled, compile_job, joined
from compiler.evaluate import evaluate
from compiler.memory.peak import memory_use
from compiler.model import DECODING, INFER
from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove_evaluation
from runtime.prove.decoding import Course, prove_decoding
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.incremental.test_derive import CROSS, ENCODER
from tests.memory.measured import exact

MODEL = """\
use std.layers (attention, embedding, grouped_attention, layer_norm, linear, mlp, rms_norm, softmax)
use std.tactics (data_parallel, megatron, tensor_parallel)

fn recurrent(x[b,s,d]) {
  dim f = d
  weight w[d,f], decay[f] ~ normal(0.5)
  given[b,s,f] = x @ w
  h = zeros(b, f)
  y = given
  scan over s as cell {
    h = sigmoid(decay) * h + given
    y = tanh(h)
  }
  return rename(y, f -> d)
}

model net(batch, seq) {
  dim b = batch, s = seq, d = 8, v = 12
  input tokens : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 4 as block {
    x = x + attention(layer_norm(x), 2)
    x = x + grouped_attention(rms_norm(x), 4, 2)
    x = x + recurrent(x + shift(x, s, by = 1))
    x = x + mlp(layer_norm(x), 16)
  }
  logits = linear(layer_norm(x), over v, bias = false) as head
  output logits
}

strategy plan for net {
STRATEGY}

job serve {
  infer net(4, 8) using plan
  precision f64
  decode over s, prefill 4
}
"""

STRATEGIES = {
    "serial": "  mesh (dp = 1)\n",
    "data": "  mesh (dp = 2)\n  data_parallel(dp)\n",
    "tensor": "  mesh (tp = 2)\n  tensor_parallel(tp)\n",
    "megatron": "  mesh (tp = 2)\n  megatron(tp)\n",
    "positions": "  mesh (cp = 2)\n  split t on cp\n",
    "pipeline": "  mesh (pp = 2)\n  pipeline block on pp, schedule gpipe(microbatches = 2, over = b)\n",
    "all": (
        "  mesh (pp = 2, dp = 2, cp = 2, tp = 2)\n  data_parallel(dp)\n  tensor_parallel(tp)\n  split t on cp\n"
        "  pipeline block on pp, schedule gpipe(microbatches = 2, over = b)\n"
    ),
}


@cache
def lowered(strategy: str) -> tuple[Compiled, Compiled, Compiled]:
    job = evaluate(Source("net.par", MODEL.replace("STRATEGY", STRATEGIES[strategy])))
    whole, first, one = (compile_job(job, entry) for entry in (INFER, *DECODING))
    for c in (whole, first, one):
        assert verify(c.program) == () and parse_program(show(c.program)) == c.program
    return whole, first, one


def both(strategy: str) -> Program:
    _, first, one = lowered(strategy)
    program = joined([first.program, one.program])
    assert verify(program) == () and parse_program(show(program)) == program
    return program


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_proved(strategy: str) -> None:
    whole = lowered(strategy)[0]
    decoding = whole.job.decoding
    assert decoding is not None
    for executor in (Emulator, RankExecutor):
        (row,) = prove_decoding(whole.training, both(strategy), decoding, Course(1, 4), executor=executor)
        assert row.ok and row.name == "logits" and row.elements == 4 * 8 * 12 and row.error < 1e-9
    (row,) = prove_decoding(whole.training, both(strategy), decoding, Course(0, 8))
    assert row.ok and row.error < 1e-9


@pytest.mark.parametrize("strategy", ["serial", "pipeline"])
def test_each_entry_is_its_serial_program(strategy: str) -> None:
    for c in lowered(strategy)[1:]:
        assert prove_evaluation(c.training, c.program, 2, executor=RankExecutor).ok
        assert exact(c.program)


@pytest.mark.parametrize("strategy", ["megatron", "pipeline", "positions"])
def test_an_encoder_runs_once(strategy: str) -> None:
    """What it gives is kept where it is read; a decode step takes tokens alone."""
    head, _, rest = MODEL.partition("fn recurrent")
    encoder = ENCODER.replace("f64", "compute")
    body = f"  x = embedding(tokens, over v, over d)\n{CROSS}\n  output y\n}}\n"
    model = "model net(batch, seq) {\n  dim b = batch, s = seq, d = 8, v = 12\n  input tokens : int32[b,s] in 0..v\n"
    plan = rest[rest.index("strategy plan") :].replace("STRATEGY", STRATEGIES[strategy])
    job = evaluate(Source("net.par", f"{head}{model}{encoder}{body}{plan}"))
    whole, first, one = (compile_job(job, entry) for entry in (INFER, *DECODING))
    assert [i.name for i in one.program.inputs] == ["tokens.next"] and job.decoding is not None
    program = joined([first.program, one.program])
    assert verify(program) == ()
    (row,) = prove_decoding(whole.training, program, job.decoding, Course(1, 4), executor=RankExecutor)
    assert row.ok and row.error < 1e-9


def test_positions_are_split_and_the_last_sum_is_not() -> None:
    head, _, rest = MODEL.partition("model net")
    body = "  x = cumsum(embedding(tokens, over v, over d), over s)\n  output x\n"
    split = "  mesh (tp = 2)\n  split s on tp for activations\n"
    data = rest[: rest.index("  x =")]
    plan = rest[rest.index("strategy plan") :].replace("STRATEGY", split)
    job = evaluate(Source("net.par", f"{head}model net{data}{body}}}\n\n{plan}"))
    whole, first, one = (compile_job(job, entry) for entry in (INFER, *DECODING))
    program = joined([first.program, one.program])
    assert verify(program) == () and job.decoding is not None and "s=2/tp" in show(first.program)
    (row,) = prove_decoding(whole.training, program, job.decoding, Course(1, 4), executor=RankExecutor)
    assert row.ok and row.error < 1e-9


def test_what_is_kept_has_layouts() -> None:
    cut = {name: show(lowered(name)[2].program) for name in STRATEGIES}
    line = "state block.attention.key.cache: f64[{}] = zeros"
    assert line.format("block=4, b=4, t=8, h=2, k=4") in cut["serial"]
    assert line.format("block=4, b=2/dp, t=8, h=2, k=4") in cut["data"]
    assert line.format("block=4, b=4, t=8, h=1/tp, k=4") in cut["tensor"]
    assert line.format("block=4, b=4, t=4/cp, h=2, k=4") in cut["positions"]
    assert line.format("block=2, b=2/mb, t=8, h=2, k=4") in cut["pipeline"]
    assert line.format("block=2, b=1/mb/dp, t=4/cp, h=1/tp, k=4") in cut["all"]


def test_memory_tells_of_them() -> None:
    """Of keys and values of two attentions in four layers, and of what scans and shifts carry."""
    for strategy, devices in (("serial", 1), ("data", 2), ("pipeline", 2)):
        program = lowered(strategy)[2].program
        caches = 4 * 4 * 8 * 8 * 8 * 2 + 4 * 4 * 8 * 8 * 2 * 2 * 2
        carried = 4 * 4 * 8 * 8 * 2
        for kinds in memory_use(program).values():
            assert abs(kinds["hbm"].roles["state"] - (caches + carried) / devices) <= 8


def test_new_positions_of_a_prefill_follow_rules() -> None:
    """One position at a time is of a dim that no rule splits; several are of `s`."""
    text = show(lowered("megatron")[1].program), show(lowered("megatron")[2].program)
    assert "s=2/tp" in text[0] and "/tp" in text[1] and "next=1/" not in text[1] and "s=" not in text[1]


def test_other_entries_are_refused() -> None:
    source = MODEL.replace("STRATEGY", STRATEGIES["serial"]).replace("  decode over s, prefill 4\n", "")
    with pytest.raises(ParcError) as error:
        compile_job(evaluate(Source("net.par", source)), "decode")
    assert error.value.diagnostics[0].code == "E0101" and "decode over s" in str(error.value.diagnostics[0].help)
