"""`where` of two numbers: which type they have, where no operand says it."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import check_file, evaluate
from compiler.ops.elementwise import Map
from dsl.source import Source
from runtime.prove import prove

FILE = """\
use std.optimizers (sgd)

optimizer own(lr) {{
  w = w - lr * g{of_update}
}}

model m {{
  dim b = 8, d = 4
  input x : compute[b,d]
  input n : int32[b] in 0..4
  weight w[d] ~ uniform(0.5, 1.5)
  h = x * w
{body}  loss cast(mean(h * h), master)
}}

strategy pieces for m {{
  mesh (dp = 2, tp = 2)
  split b on dp
  split d on tp
  microbatches 2 over b
}}

job fit {{
  train m using pieces
  optimizer own(lr = {lr})
  precision {precision}
}}
"""


def file(body: str = "", of_update: str = "", lr: str = "0.1", precision: str = "bf16, master f32") -> Source:
    return Source("main.par", FILE.format(body=body, of_update=of_update, lr=lr, precision=precision))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("where(n > 1, 1.0, 0.3)", "bf16"),  # as `full` of them
        ("where(n > 1, 2, 0.5)", "bf16"),
        ("where(n > 1, 1, 0)", "int32"),
        ("where(sum(n) > 9, 1.0, 0.3)", "f32"),  # as losses and metrics are
        ("where(sum(n) > 9, 1, 2)", "int32"),
    ],
)
def test_of_a_model(value: str, dtype: str) -> None:
    job = evaluate(file(f"  chosen = {value}\n  metric shown = sum(chosen)\n"))
    (found,) = (n.output for n in job.model.graph.nodes if isinstance(n.op, Map) and n.op.fn == "where")
    assert found.name == "chosen" and found.type.dtype == dtype


@pytest.mark.parametrize("precision", ("f32", "f64", "bf16, master f32"))
def test_it_goes_on_with_its_neighbours(precision: str) -> None:
    body = """\
  h = h * where(n > 1, 1.0, 0.3)
  metric q = where(sum(n) > 9, 1.0, 0.3) * cast(mean(h), master)
"""
    update = " * where(step > 1, 1.0, 0.3) * where(g > 0.0, 1, 2) * where(sum(g * g) > 0.01, 1.0, 0.5)"
    made = compile_job(evaluate(file(body, update, "where(step > 2, 0.1, 0.01)", precision)))
    assert prove(made.training, made.program, steps=3).equal


def test_of_the_step_alone_it_is_computed_as_such_is() -> None:
    job = evaluate(file(lr="where(step > 1, 0.1, 0.01) / 3.0"))
    (update, *_) = job.updates
    (found,) = (n.output for n in update.graph.nodes if isinstance(n.op, Map) and n.op.fn == "where")
    assert found.type.dtype == "f64"


def test_conditions_are_none() -> None:
    (found,) = check_file(file("  k = where(n > 1, true, false)\n  h = where(k, h, 0.0)\n"))
    assert found.code == "E0202" and "is `c`" in (found.help or "")
    assert not check_file(file("  k = n > 1\n  h = where(k, h, 0.0)\n"))
    compile_job(evaluate(file("  k = not n > 1\n  h = where(k, h, 0.0)\n")))
