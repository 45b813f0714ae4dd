"""Small jobs for tests of the runtime, as `.par` texts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.model import Precision
from dsl.source import Source

ROOT = Path(__file__).resolve().parents[2]

GPT = (ROOT / "examples" / "gpt.par").as_posix()


@cache
def gpt(*options: str, precision: Precision | None = None) -> Compiled:
    """The example with a small model: `gpt("dp=2", "zero=3")`."""
    small = {"layers": "2", "hidden": "16", "heads": "4", "vocab": "24", "seq": "8", "batch": "8"}
    job = evaluate_file(GPT, small | dict(o.split("=", 1) for o in options), precision=precision).job
    return compile_job(job)


def double_gpt(*options: str) -> Compiled:
    """`gpt` in float64, where rounding hides nothing."""
    return gpt(*options, precision=Precision("f64", "f64"))


LINEAR = """\
use std.optimizers (sgd)
model regression() {{
  dim b = 8, i = 6, o = 4
  input x : {dtype}[b, i]
  input y : {dtype}[b, o]
  weight w1[i, o], w2[i, o]
  z[b, o] = x @ w1 + x @ w2
  loss sum(z * y)
}}
strategy plan for regression {{
  mesh ({mesh})
{rules}}}
job fit {{
  train regression() using plan
  optimizer sgd(lr = 0.5)
  precision {dtype}
}}
"""


@cache
def linear(mesh: str, *rules: str, dtype: str = "f32") -> Compiled:
    """A linear model whose gradients are whole numbers if data and weights are."""
    lines = "".join(f"  {r}\n" for r in rules)
    return compile_job(evaluate(Source("linear.par", LINEAR.format(mesh=mesh, rules=lines, dtype=dtype))))


DROPOUT = """\
use std.layers (dropout)
use std.optimizers (adamw)
model net(layers) {{
  dim b = 8, d = 6
  input x : f64[b, d]
  y[b, d] = x
  repeat layers as block {{
    dim e = 6
    weight w[d, e] ~ normal(0.5)
    h[b, e] = y @ w
    y[b, d] = y + dropout(rename(tanh(h), e -> d), 0.25)
  }}
  loss mean(y * y)
}}
strategy plan for net {{
  mesh ({mesh})
{rules}}}
job fit {{
  train net(4) using plan
  optimizer adamw(lr = 0.01)
  precision f64
}}
"""


@cache
def dropout(mesh: str, *rules: str) -> Compiled:
    """Random numbers keyed by step, layer and logical position."""
    lines = "".join(f"  {r}\n" for r in rules)
    return compile_job(evaluate(Source("dropout.par", DROPOUT.format(mesh=mesh, rules=lines))))
