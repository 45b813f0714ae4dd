"""What is taken over the whole batch, with micro-batches: losses divided by what counts, statistics of data, metrics
that are maxima or ratios. Drawn, and proved equal to the serial program, which has the whole batch before it."""

from __future__ import annotations

from random import Random

import pytest

import parc
from compiler.ops.comm import AllReduce
from compiler.ops.effects import Input
from dsl.diagnostics import ParcError
from dsl.source import Source

COUNTED = """\
use std.optimizers (sgd)

param dp = 1 in {1, 2, 4}
param n = 2 in {1, 2, 4}

model m {
  dim b = 16, s = 4, d = 4
  input x : f32[b,s,d]
  input counted : int32[b,s] in 0..2
  weight w[d] ~ ones
  each[b,s] = x @ w
  m = cast(counted, f32)
  loss sum(each * each * m) / sum(m)
}

strategy pieces for m {
  mesh (dp = dp)
  split b on dp
  microbatches n over b
}

job fit {
  train m using pieces
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize("dp", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_loss_of_counted_positions(n: int, dp: int, executor: parc.api.Executor) -> None:
    source = Source("counted.par", COUNTED)
    parc.check(source, params={"dp": dp, "n": n})
    assert parc.verify(source, double=True, params={"dp": dp, "n": n}, executor=executor).ok


def test_the_number_is_had_once_for_all_micro_batches() -> None:
    """P for each, S once: what the devices must agree on is one number, however many micro-batches there are."""
    program = parc.compile(Source("counted.par", COUNTED), params={"dp": 2, "n": 4}).program
    (cls,) = program.classes
    functions = {f.name: f.body for f in cls.functions}
    assert list(functions) == ["P", "S", "F", "B", "U"]
    assert not any(isinstance(i.op, AllReduce) for i in functions["P"].instrs)
    assert sum(isinstance(i.op, AllReduce) for i in functions["S"].instrs) == 1
    assert not any(isinstance(i.op, Input) and i.op.name == "x" for i in functions["P"].instrs)
    assert [s.name for s in cls.states if s.role == "saved"] == ["each"]


def test_without_micro_batches_there_is_no_such_thing() -> None:
    program = parc.compile(Source("counted.par", COUNTED), params={"dp": 2, "n": 1}).program
    assert {f.name for c in program.classes for f in c.functions} == {"F", "B", "U"}


@pytest.mark.parametrize(
    "loss", ["1.0 - RATIO", "0.0 - RATIO", "RATIO - 2.0", "3.0 + 0.5 * RATIO", "2.0 * (1.0 - RATIO) + RATIO"]
)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_number_beside_a_sum_over_the_batch_counts_once(loss: str, n: int) -> None:
    """As in the loss of Dice: a number that is added is no sum over micro-batches."""
    lines = [line for line in COUNTED.splitlines() if line.strip().startswith("loss ")]
    (line,) = lines
    text = COUNTED.replace(line, f"  loss {loss.replace('RATIO', '(' + line.strip().removeprefix('loss ') + ')')}")
    source = Source("counted.par", text)
    for dp in (1, 2):
        assert parc.verify(source, double=True, params={"dp": dp, "n": n}).ok


# --- drawn ---------------------------------------------------------------------------------------------------------

MODEL = """\
use std.layers
use std.optimizers
use std.tactics

model tuned {
  dim b = 8, s = 4, d = 4, v = 6
  input tokens, label : int32[b,s] in 0..v
  input counted : int32[b,s] in 0..2
  input x : compute[b,s,d]
  m = cast(counted, compute)
  weight table[v,d] ~ normal(0.5)
  h[b,s,d] = take(table, tokens, over v)
  aux = zeros()
  START
  repeat 4 as block {
    weight w[d], r[d] ~ normal(0.5)
    h = h + tanh(h * w) * r
    LOOP
  }
  logits[b,s,v] = h @ table
  lp = log_softmax(logits, v)
  hit[b,s,v] = iota(v) == label
  each = -sum(where(hit, lp, 0.0), over v)
  METRICS
  loss LOSS
}

strategy plan for tuned {
  RULES
}

job fit {
  train tuned using plan
  optimizer OPTIMIZER
  precision PRECISION
}
"""
LOSSES = (
    "sum(each * m) / sum(m)",
    "sum(each * m) / maximum(sum(m), 1.0)",
    "sum(each * each * m) / sum(m)",
    "mean(sum(each * m, over b) / (1.0 + sum(m, over b)))",  # of each position: a tensor of counts
    "sum(each * m / sum(m))",
    "mean(each * exp(-max(x)))",
    "mean(each) * mean(uniform(b, s)) * sqrt(sum(m))",
    "sum(each * dropout(m, 0.3)) / (1.0 + sum(dropout(m, 0.3)))",
)
STARTS = (
    "",
    "mu = mean(x, over b)\n  h = h + 0.1 * (x - mu)",
    "mu = mean(x, over (b, s))\n  sd = sqrt(mean((x - mu) * (x - mu), over (b, s)) + 0.1)\n  h = h + (x - mu) / sd",
    "h = h + x / max(abs(x))",
    "h = h + 0.1 * x * cast(sum(counted), compute)",
)
LOOPS = ("", "aux = aux + sum(h * h * 0.1) / sum(m)", "h = h * (1.0 + 0.1 / sum(m))")
METRICS = (
    "metric a = sum(each * m) / sum(m)",
    "metric b = max(each)",
    "metric c = exp(mean(each))",
    "metric d = sum(cast(each < 1.7, compute) * m) / sum(m)",
    "metric e = max(each) - mean(each) / max(m)",
    "metric f = sqrt(mean(h * h)) / mean(abs(logits))",
    "metric g = sum(m)",
    "metric i = mean(each) / mean(table * table)",
    "metric j = max(max(h, over (b, s)) - mean(h, over (b, s)))",
    "metric k = -max(-each)",
)


def draw(seed: int) -> Source:
    """A model with statistics in several places, under a drawn strategy."""
    rng = Random(seed)
    loop = rng.choice(LOOPS) if rng.random() < 0.4 else ""
    loss = rng.choice(LOSSES) + (" + aux" if "aux" in loop else "")
    metrics = rng.sample(METRICS, rng.choice([0, 1, 2, 4]))
    order = rng.choice(["pipeline", "pipeline", "places", "micro", "micro"])
    axes, rules = [], []
    micro = rng.choice([2, 4])
    if order == "pipeline":
        stages = rng.choice([2, 2, 4])
        schedule = rng.choice(["gpipe", "one_f_one_b", "interleaved", "zero_bubble"])
        chunks = f", chunks = {4 // stages}" if schedule == "interleaved" else ""
        micro = 4 if stages == 4 else 2
        axes.append(f"pp = {stages}")
        rules.append(f"pipeline block on pp, schedule {schedule}(microbatches = {micro}, over = b{chunks})")
    elif order == "places":
        axes.append("at = 2")
        rules += [f"place block on at[{rng.randrange(2)}]", f"microbatches {micro} over b"]
    else:
        rules.append(f"microbatches {micro} over b")
    if rng.random() < 0.6:
        axes.append("dp = 2")
        rules.append(rng.choice(["split b on dp", "split b on dp", "fsdp(dp)"]))
    if rng.random() < 0.4:
        axes.append("cp = 2")
        rules.append(rng.choice(["split s on cp", "split v on cp", "split d on cp for activations"]))
    if rng.random() < 0.3:
        rules.append(rng.choice(["recompute block", "recompute"]))
    if not axes:
        axes.append("dp = 2")
        rules.append("split b on dp")
    text = MODEL.replace("START", rng.choice(STARTS)).replace("LOOP", loop).replace("LOSS", loss)
    text = text.replace("METRICS", "\n  ".join(metrics)).replace(
        "RULES", "\n  ".join([f"mesh ({', '.join(axes)})", *rules])
    )
    text = text.replace("OPTIMIZER", rng.choice(["sgd(lr = 0.1)", "adam(lr = 1e-3, eps = 1e-6, clip = 1.0)"]))
    return Source("drawn.par", text.replace("PRECISION", rng.choice(["f32", "f32, loss_scale dynamic"])))


def proved(seed: int) -> None:
    """Fails unless the draw is legal and equal to the serial program."""
    source = draw(seed)
    try:
        parc.check(source, double=True)
        proof = parc.verify(source, double=True, executor="private" if seed % 4 == 0 else "stacked")
    except ParcError as e:
        pytest.fail(f"{seed}: {e}\n{source.text}")
    assert proof.ok, (seed, proof.worst, source.text)


def test_drawn() -> None:
    for seed in range(60):
        proved(seed)


@pytest.mark.nightly
def test_many_drawn() -> None:
    for seed in range(1000, 3000):
        proved(seed)
