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
from tests.memory.measured import exact

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
    functions = {f.phase: f.body for f in cls.functions}
    assert list(functions) == ["P", "S", "F", "B", "E", "U"]
    assert not any(isinstance(i.op, AllReduce) for i in functions["P"].nodes)
    assert sum(isinstance(i.op, AllReduce) for i in functions["S"].nodes) == 1
    assert not any(isinstance(i.op, Input) and i.op.name == "x" for i in functions["P"].nodes)
    assert [s.name for s in cls.states if s.role == "saved"] == ["each"]


def test_without_micro_batches_there_is_no_such_thing() -> None:
    program = parc.compile(Source("counted.par", COUNTED), params={"dp": 2, "n": 1}).program
    assert {f.phase for c in program.classes for f in c.functions} == {"F", "B", "U"}


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
    for seed in range(30):
        proved(seed)


@pytest.mark.nightly
def test_many_drawn() -> None:
    for seed in range(1000, 3000):
        proved(seed)


# --- what cannot be had --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        "max(each)",
        "sqrt(mean(each * each))",
        "mean(each) * mean(each * m)",
        "sum(each * m) / (1.0 + sum(each))",
        "mean((each - mean(each)) * (each - mean(each)))",  # two passes
        "mean(each * cumsum(m, over b))",  # no sum: it needs the other micro-batches' positions
    ],
)
def test_a_loss_that_needs_the_weights_on_the_whole_batch_is_refused(loss: str) -> None:
    text = COUNTED.replace("sum(each * each * m) / sum(m)", loss)
    parc.check(Source("one.par", text), params={"n": 1, "dp": 2})
    with pytest.raises(ParcError) as caught:
        parc.check(Source("two.par", text), params={"n": 2, "dp": 2})
    (found,) = caught.value.diagnostics
    assert found.code == "E0502" and found.span is not None and "data alone" in (found.help or "")


OF_DATA = {
    "sum(x, over b)": True,
    "mean(x * x, over b)": True,
    "max(x, over b)": True,
    "min(x, over b)": True,
    "norm(x)": True,
    "max(x - mean(x, over b)) - min(x)": True,
    "cumsum(x, over b)": False,
    "sum(cumsum(x, over b), over b)": False,
    "flip(x, over b)": False,
    "best(x)": False,
    "sum(x @ rename(x, b -> c), over c)": False,
}


@pytest.mark.parametrize("made", OF_DATA)
def test_what_a_loss_may_be_made_of_data_over_the_batch(made: str) -> None:
    """As the help of E0502 and the description of the language say."""
    text = (
        "use std.optimizers (sgd)\n"
        "fn best(x[b, d]) {\n  dim j = 2\n  v, i = top_k(x, over b -> j)\n  return sum(v, over j)\n}\n"
        "param n = 2\n"
        "model m {\n  dim b = 8, d = 4\n  input x : compute[b,d]\n  weight w[d]\n"
        f"  r = {made}\n  h = x * w\n  loss mean(h * h * (1.0 + r))\n}}\n"
        "strategy s for m {\n  mesh (dp = 2)\n  split b on dp\n  microbatches n over b\n}\n"
        "job fit {\n  train m using s\n  optimizer sgd(lr = 0.1)\n}\n"
    )
    parc.check(Source("one.par", text), params={"n": 1})
    if OF_DATA[made]:
        assert parc.verify(Source("two.par", text), double=True).ok
        return
    with pytest.raises(ParcError) as caught:
        parc.check(Source("two.par", text))
    (found,) = caught.value.diagnostics
    assert found.code == "E0502" and "sums, means, maxima and minima over the batch of what" in (found.help or "")


def test_a_metric_that_takes_two_passes_is_refused() -> None:
    text = COUNTED.replace("  loss", "  metric far = max(each - mean(each))\n  loss")
    with pytest.raises(ParcError) as caught:
        parc.check(Source("two.par", text))
    (found,) = caught.value.diagnostics
    assert found.code == "E0502" and "needs the whole batch" in found.message


def test_what_a_metric_alone_needs_is_not_computed_before() -> None:
    """It is added up beside the rest, and put together at the end."""
    text = COUNTED.replace("sum(each * each * m) / sum(m)", "mean(each * each)\n  metric part = sum(each * m) / sum(m)")
    (cls,) = parc.compile(Source("one.par", text), params={"dp": 2}).program.classes
    assert [f.phase for f in cls.functions] == ["F", "B", "E", "U"]
    assert parc.verify(Source("one.par", text), double=True, params={"dp": 2}).ok


def test_metrics_keep_their_order() -> None:
    more = "\n  ".join(m.replace("h * h", "x * x").replace("logits", "x").replace("table", "w") for m in METRICS[:7])
    run = parc.run(Source("one.par", COUNTED.replace("  loss", f"  {more}\n  loss")), steps=1)
    assert list(run.metrics) == [m.split()[1] for m in METRICS[:7]]


@pytest.mark.parametrize("schedule", ["gpipe", "one_f_one_b", "zero_bubble", "interleaved"])
def test_memory_is_told_to_the_byte_and_every_rank_agrees(schedule: str) -> None:
    """The executor's buffers have the sizes that are predicted."""
    for seed in range(200):
        source = draw(seed)
        if schedule in source.text and "sum(" in source.text:
            break
    exact(parc.compile(source).program, 2)


def test_stages_compute_what_they_read() -> None:
    """What counts is known where the loss is; a mean of data that the first stage reads, there."""
    text = (
        MODEL.replace("START", STARTS[1]).replace("LOOP", "").replace("LOSS", LOSSES[0]).replace("METRICS", METRICS[2])
    )
    text = text.replace("RULES", "mesh (pp = 2)\n  pipeline block on pp, schedule gpipe(microbatches = 2, over = b)")
    text = text.replace("OPTIMIZER", "sgd(lr = 0.1)").replace("PRECISION", "f32")
    classes = parc.compile(Source("two.par", text)).program.classes
    totals = [[s.name for s in c.states if s.role == "statistic"] for c in classes]
    assert totals == [["mu.total.parts", "mu.total"], ["sum_4.total.parts", "sum_4.total", "mean.total"]]
    assert [[f.phase for f in c.functions] for c in classes] == [
        ["P", "S", "F", "B", "U"],
        ["P", "S", "F", "B", "E", "U"],
    ]


def test_many_micro_batches_take_no_longer_text() -> None:
    texts = [
        parc.emit(Source("n.par", COUNTED.replace("in {1, 2, 4}", "").replace("b = 16", "b = 4096")), params={"n": n})
        for n in (2, 512)
    ]
    assert texts[0].count("\n") == texts[1].count("\n")


def test_rules_may_speak_of_what_is_set_apart() -> None:
    """With one micro-batch or more: a scope of data alone, one of a metric."""
    text = COUNTED.replace(
        "model m {",
        "fn share(x, m) {\n  return sum(x * m) / sum(m)\n}\n\nfn number(m) {\n  return sum(m)\n}\n\nmodel m {",
    )
    text = text.replace(
        "sum(each * each * m) / sum(m)",
        "sum(each * each * m) / (number(m) as count)\n  metric part = share(each, m) as ratio",
    )
    text = text.replace(
        "mesh (dp = dp)", "mesh (dp = dp, t = 2)\n  recompute count\n  place count on t[1]\n  place ratio on t[1]"
    )
    for n in (1, 2):
        parc.check(Source("apart.par", text), params={"n": n, "dp": 2})
        assert parc.verify(Source("apart.par", text), double=True, params={"n": n, "dp": 2}).ok
