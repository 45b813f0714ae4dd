"""Ops of the language whose dims are split, proved equal to the serial program, forward and backward."""

from __future__ import annotations

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.ops.neighbours import ShiftAcross
from compiler.traffic import collectives
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove

JOB = """model m() {{
  dim b = 8, s = 8, d = 8, k = 3
  input x : f64[b,s,d]
  input rows : int32[b,k] in 0..8
  weight w[d] ~ normal(0.5)
  y = x * w
  {body}
}}

strategy plan for m {{
  mesh (p = 2, q = 2)
  {rules}
}}

job fit {{
  train m using plan
  optimizer (sgd)
  precision f64
}}
"""

OPS = {
    "log1p": "loss mean(log1p(y * y))",
    "erfc": "loss mean(erfc(y))",
    "argmax": "best = argmax(y, over d)\n  loss mean(take(y, best, over d))",
    "normal": "loss mean(y * normal(b, s, d))",
    "step": "z = slice(y, s -> t, 1..8, step = 3)\n  loss mean(z * z * z)",
    "dilation": "z = window(y, s -> (o, k), pad = 2, dilation = 2)\n  u = sum(z * z, over k)\n  loss mean(u * u)",
    "scatter": "z = scatter(y, 2.0 * slice(y, s -> k, 0..3), rows, over s)\n  loss mean(z * z)",
    "shift": "z = shift(y, s, by = 1) * y + shift(y, s, by = -3)\n  loss mean(z * z)",
    "around": "z = shift(y, s, by = 3, around = true) * y + shift(y, s, by = -1, around = true)\n  loss mean(z * z)",
    "far": "z = shift(y, s, by = 5, fill = 0.5)\n  loss mean(z * z * z)",
}
RULES = {
    "batch": "split b on p\n  split b on q",
    "both": "split b on p\n  split s on q",
    "sequence": "split s on p\n  split s on q",
    "width": "split d on p\n  split s on q",
    "micro": "split s on p\n  split d on q\n  microbatches 2 over b",
}


def _compile(body: str, rules: str) -> Compiled:
    text = JOB.format(body=body, rules=rules).replace("optimizer (sgd)", "optimizer sgd(lr = 0.1)")
    return compile_job(evaluate(Source("ops.par", "use std.optimizers (sgd)\n\n" + text)))


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("body", OPS.values(), ids=OPS)
def test_split_ops_are_equal_to_the_serial_program(body: str, rules: str) -> None:
    compiled = _compile(body, rules)
    assert prove(compiled.training, compiled.program).ok


LARGEST = {
    "one": "loss max(y)",
    "ties": "z = 1.0 + w * w + 0.0 * y\n  loss max(z)",
    "last": "z = (1.0 + w * w + 0.0 * y) * where(iota(b) >= 5, 1.0, 0.5)\n  loss max(z)",
}
"""What is largest is on one device; on all, as often; on some, and not as often."""


@pytest.mark.parametrize("rules", [RULES[name] for name in RULES if name != "micro"])
@pytest.mark.parametrize("body", LARGEST.values(), ids=LARGEST)
def test_the_gradient_of_a_largest_element_is_shared_by_those_of_all_devices(body: str, rules: str) -> None:
    compiled = _compile(body, rules)
    assert prove(compiled.training, compiled.program).ok


def test_a_shift_along_a_split_dim_sends_what_leaves_a_piece() -> None:
    """Pieces of 2 rows of s: one row a device where elements move by 1, both where they move by 5."""
    for by, rows in ((1, 1), (5, 2)):
        compiled = _compile(f"z = shift(y, s, by = {by})\n  loss mean(z * z)", RULES["sequence"])
        found = [c for c in collectives(compiled.program) if c.op == ShiftAcross.mnemonic]
        assert [(c.axes, c.dim, c.count, c.bytes) for c in found] == 2 * [(("p", "q"), "s", 1, rows * 8 * 8 * 8.0)]


def test_no_shift_over_the_whole_batch_of_micro_batches() -> None:
    with pytest.raises(ParcError) as error:
        _compile("z = shift(y, b)\n  loss mean(z * z)", "split s on p\n  split s on q\n  microbatches 2 over b")
    assert error.value.diagnostics[0].code == "E0502"
