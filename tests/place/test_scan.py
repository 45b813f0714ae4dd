"""`scan over s`: a recurrence, proved equal to the serial program under the strategies that it may be combined with."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.ops.repeat import Repeat
from compiler.text import show
from compiler.traffic import collectives
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.serial import serial_gradients

LSTM = """use std.optimizers (sgd)

model lstm(layers = 4) {{
  dim b = 8, s = 6, d = 4, v = 8
  input words, next : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat layers as block {{
    dim g = 4
    weight wi[d,g], wf[d,g], wo[d,g], wc[d,g] ~ normal(0.6)
    weight ui[d,g], uf[d,g], uo[d,g], uc[d,g] ~ normal(0.6)
    h = zeros(b, d)
    c = zeros(b, g)
    scan over s as cell {{
      i = sigmoid(x @ wi + h @ ui)
      f = sigmoid(x @ wf + h @ uf)
      o = sigmoid(x @ wo + h @ uo)
      c = f * c + i * tanh(x @ wc + h @ uc)
      h = rename(o * tanh(c), g -> d)
      x = h
    }}
  }}
  logits = x @ table
  loss mean(log(sum(exp(logits), over v)) - take(logits, next, over v))
}}

strategy plan for lstm {{
  mesh (p = 2, q = 2)
  {rules}
}}

job fit {{
  train lstm using plan
  optimizer sgd(lr = 0.5)
  precision {precision}
}}
"""
PIPELINE = "pipeline block on p, schedule {}(microbatches = {}, over = b)"
RULES = {
    "batch": "split b on p\n  split b on q",
    "gates": "split g on p\n  split b on q",
    "width": "split g on p\n  split d on q",
    "positions": "split s on p\n  split b on q",
    "micro": "split b on p\n  split g on q\n  microbatches 2 over b",
    "sharded": "split b on p\n  split b on q\n  shard weights, gradients, optimizer on p",
    "recompute layer": "split b on p\n  split g on q\n  recompute block",
    "recompute cell": "split b on p\n  split g on q\n  recompute block.cell",
    "recompute all": "split b on p\n  split b on q\n  recompute",
    "one_f_one_b": "split b on q\n  " + PIPELINE.format("one_f_one_b", 2),
    "zero_bubble": "split g on q\n  " + PIPELINE.format("zero_bubble", 4),
    "interleaved": "split b on q\n  pipeline block on p, schedule interleaved(microbatches = 2, over = b, chunks = 2)",
    "positions in stages": "split s on q\n  " + PIPELINE.format("gpipe", 2),
}


def _compile(rules: str, precision: str = "f64", text: str = LSTM) -> Compiled:
    return compile_job(evaluate(Source("scan.par", text.format(rules=rules, precision=precision))))


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_recurrence_is_equal_to_the_serial_program(rules: str) -> None:
    compiled = _compile(rules)
    assert prove(compiled.training, compiled.program).ok


def test_mixed_precision() -> None:
    compiled = _compile(RULES["gates"], "bf16, master f32")
    assert prove(compiled.training, compiled.program, steps=1).ok


def test_gradients_of_shared_weights_are_added_up_once_a_step() -> None:
    """They are pending sums in the loop over positions, and leave it as such: not one message per position."""
    found = collectives(_compile(RULES["batch"]).program)
    assert sum(c.count for c in found if c.op == "all_reduce" and c.bytes > 100) == 9


def test_sums_given_at_each_position_are_reduced_once_a_layer() -> None:
    """Of cotangents what is carried is reduced at each of 4 * 6 positions, that of the layer's input once."""
    found = collectives(_compile(RULES["gates"]).program)
    assert sum(c.count for c in found if c.op == "all_reduce" and c.function == "B") == 4 * 6 + 4


def test_sharded_weights_are_gathered_once_a_layer() -> None:
    found = collectives(_compile(RULES["sharded"]).program)
    assert {c.count for c in found if c.op == "all_gather" and c.function == "F"} == {1, 4 * 8}


def test_it_stays_rolled() -> None:
    """The program of 1,000 positions is as long as that of 10."""
    found = []
    for s in (10, 1000):
        program = _compile(RULES["batch"], text=LSTM.replace("s = 6", f"s = {s}")).program
        found.append(len(show(program).splitlines()))
    assert found[0] == found[1]


def test_values_are_those_of_the_formula() -> None:
    """h' = 0.5 h + x, by hand: carried, one value per position, and the same variable at each position."""
    text = """model m {
  dim b = 2, s = 5
  input x : f64[b,s]
  weight w[b] ~ ones
  h = zeros(b)
  y = zeros(b, s)
  at = iota(s)
  scan over s as cell {
    h = 0.5 * h + w * x
    y = h * cast(at + 1, f64)
  }
  metric last = sum(h)
  loss sum(y * y)
}

job fit {
  train m
  optimizer plain(lr = 0.1)
  precision f64
}

optimizer plain(lr) {
  w = w - lr * g
}
"""
    training = compile_job(evaluate(Source("formula.par", text))).training
    (declared,) = training.model.inputs
    x = np.random.default_rng(1).standard_normal(declared.value.type.shape)
    h, loss, slope, dh = np.zeros(2), 0.0, np.zeros(2), np.zeros(2)
    for t in range(5):
        h, dh = 0.5 * h + x[:, t], 0.5 * dh + x[:, t]
        loss += float((h * h).sum()) * (t + 1) ** 2
        slope += 2 * h * dh * (t + 1) ** 2
    found = serial_gradients(training, {"w": np.ones(2)}, {}, {declared.value.name: x})
    assert found.loss == pytest.approx(loss) and found.metrics["last"] == pytest.approx(h.sum())
    np.testing.assert_allclose(found.gradients["w"], slope)


def test_the_loop_is_a_repeat_over_positions() -> None:
    graph = _compile(RULES["batch"]).job.model.graph
    (block,) = [n.op for n in graph if isinstance(n.op, Repeat)]
    (cell,) = [n.op for n in block.body if isinstance(n.op, Repeat)]
    assert cell.scan and not block.scan and (cell.count, cell.carries, cell.stacks) == (6, 2, 1)


ERRORS = {
    "nothing used": ("scan over s as cell {\n    y = x * 2.0\n  }", "E0310"),
    "no such dim": ("scan over t as cell {\n    h = h + x\n  }", "E0209"),
    "the dim inside": ("scan over s as cell {\n    h = h + sum(x, over s)\n  }", "E0209"),
    "a carry that changes": ("scan over s as cell {\n    h = h * full(1.0, d, dtype = f64)\n  }", "E0301"),
    "a number": ("n = 1\n  scan over s as cell {\n    n = n + 1\n    h = h + x\n  }", "E0309"),
    "the label of a dim": ("scan over s as b {\n    h = h + x\n  }", "E0306"),
    "an input inside": ("scan over s as cell {\n    input z : f64[b]\n    h = h + x\n  }", "E0302"),
}


@pytest.mark.parametrize(("body", "code"), ERRORS.values(), ids=ERRORS)
def test_mistakes(body: str, code: str) -> None:
    text = f"model m {{\n  dim b = 4, s = 8, d = 2\n  input x : f64[b,s]\n  h = zeros(b, dtype = f64)\n  {body}\n"
    text += "  loss sum(h)\n}\n"
    with pytest.raises(ParcError) as error:
        evaluate(
            Source(
                "wrong.par",
                text + "job j {\n  train m\n  optimizer o()\n  precision f64\n}\noptimizer o() {\n  w = w - g\n}\n",
            )
        )
    assert {d.code for d in error.value.diagnostics} == {code}


def test_a_pipeline_cuts_layers_not_positions() -> None:
    with pytest.raises(ParcError) as error:
        _compile("split b on q\n  " + PIPELINE.replace("block", "block.cell").format("gpipe", 2))
    (found,) = error.value.diagnostics
    assert found.code == "E0408" and "`block.cell` is a `scan`" in found.message and "`block`" in (found.help or "")


FORMS = """use std.layers (dropout, layer_norm)
use std.optimizers (sgd)

fn cell(x[b,d], h[b,d]) {{
  dim e = 4
  weight u[d,e], v[e,d] ~ normal(0.5)
  return tanh((x + h) @ u) @ v
}}

model m() {{
  dim b = 8, s = 6, d = 4
  input x : f64[b,s,d]
  weight p[s,d] ~ normal(0.5)
  x = x * p
  h = zeros(b, d)
  {body}
  loss mean(x * x) + mean(h)
}}

strategy plan for m {{
  mesh (p = 2, q = 2)
  {rules}
}}

job fit {{
  train m using plan
  optimizer sgd(lr = 0.1)
  precision f64
}}
"""
BODIES = {
    "random numbers": "scan over s as c {\n h = dropout(tanh(x + 0.5 * h), 0.25)\n x = h\n }",
    "weights of a function, and of positions": "scan over s as c {\n h = h + cell(layer_norm(x), h)\n x = h + p\n }",
    "layers inside": (
        "scan over s as c {\n z = x\n repeat 2 as deep {\n weight w[d] ~ normal(0.5)\n z = z + tanh(z * w + h)\n }\n"
        "h = 0.5 * z\n x = z\n }"
    ),
    "one after the other": (
        "scan over s as c {\n h = tanh(h + x)\n x = h\n }\n scan over s as c {\n h = tanh(h - x)\n x = h * x\n }"
    ),
    "one inside the other": (
        "k = zeros(b)\n scan over s as c {\n k = 0.5 * k\n scan over d as r {\n k = tanh(k + x)\n x = k\n }\n }"
    ),
}
FEW = {n: RULES[n] for n in ("batch", "positions")} | {
    "width": "split d on p\n  split b on q",
    "micro": "split b on p\n  split d on q\n  microbatches 2 over b",
    "recompute": "split b on p\n  split b on q\n  recompute",
}


@pytest.mark.parametrize("rules", FEW.values(), ids=FEW)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_may_stand_in_a_scan(body: str, rules: str) -> None:
    compiled = compile_job(evaluate(Source("forms.par", FORMS.format(body=body, rules=rules))))
    assert prove(compiled.training, compiled.program).ok
