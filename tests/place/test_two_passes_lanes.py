"""`two passes` where a pipeline is on each of two places; what `explain` says of totals; scopes of which nothing is
computed."""

from __future__ import annotations

import pytest

import parc
from compiler.driver import compile_job, joined
from compiler.model import EVALUATE
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.place.test_read_with_totals import file
from tests.stages.build import judged

TOWER = """\
fn tower(x[b,d]) {
  repeat 2 as deep {
    weight w[d] ~ normal(0.7)
    x = x + tanh(x * w)
  }
  return x
}

model m"""
BODY = """\
  y = tower(x) as student
  repeat 4 as block {
    weight w[d] ~ normal(0.7)
    y = y + tanh(y * w)
  }"""
RULES = """pipeline student.deep on pp, schedule gpipe
  pipeline block on pp
  place student on at[0]
  place block on at[1]"""


def test_evaluation_has_its_loops_in_the_first_pass_alone() -> None:
    """Where they are is said of these."""
    text = file(BODY, "max(y) * mean(y * y) + 0.1 * mean(e * e)", "pp = 2, at = 2", RULES)
    compiled = judged(text.replace("model m", TOWER, 1))
    assert not verify(joined([compiled.program, compile_job(compiled.job, EVALUATE).program]))


def test_results_that_wait_are_no_metrics() -> None:
    """Those of totals alone, and metrics that are finished, are told apart."""
    loss = "sqrt(0.1 + mean(e * e)) * sum(a)\n  metric root = sqrt(mean(e * e))"
    text = file("", loss, "dp = 2", "split b on dp")
    for name in ("a", "e", "root"):
        assert str(parc.explain_tensor(Source("t", text), name))


def test_a_scope_of_which_nothing_is_needed_is_told() -> None:
    text = file("  none = bent(e) as side", "max(e) * mean(e * e)", "at = 2", "place side on at[0]")
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("t", text.replace("model m", "fn bent(x[b,d]) {\n  return tanh(x)\n}\n\nmodel m", 1)))
    (found,) = caught.value.diagnostics
    assert found.code == "E0410" and "neither the loss nor an output needs it" in found.message
