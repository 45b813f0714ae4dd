"""Loops of which evaluation leaves something out: what is cut into stages lies where it does in training."""

from __future__ import annotations

import pytest

import parc
from dsl.source import Source

TEXT = """\
use std.layers
use std.optimizers

model net {
  dim b = 8, d = 4, e = 4
  input x : compute[b,d]
  weight first[d] ~ normal(0.5)
  x = x * first
  more = x
  repeat 2 as block {
    BODY
  }
  weight head[d,e] ~ normal(0.5)
  loss LOSS
}

strategy plan {
  mesh (pp = 2)
  pipeline block on pp, schedule one_f_one_b(microbatches = 2, over = b)
}

job fit {
  train net using plan
  optimizer sgd(lr = 0.1)
  precision f64
}
"""


def text(body: str, loss: str = "mean(x @ head)") -> Source:
    return Source("left.par", TEXT.replace("BODY", body).replace("LOSS", loss))


@pytest.mark.parametrize(
    "source",
    [
        text("x = dropout(x, 0.25)"),
        text("x = dropout(x, 0.25)\n    more = tanh(more)", "mean(x @ head) + mean(more)"),
        text("x = dropout(x, 0.25)\n    weight w[d]\n    more = more * w", "mean(x @ head) + mean(more)"),
    ],
    ids=["all", "one of two", "that has no weights"],
)
def test_what_changes_in_training_alone_goes_through_the_stages_without(source: Source) -> None:
    """Nothing of such a loop is computed; what stands behind it is on the last stage all the same."""
    assert parc.verify(source).ok and parc.verify(source, entry="evaluate").ok
    assert parc.verify(source, entry="evaluate", executor="private").ok
    for order in (("train_step", "evaluate"), ("evaluate", "train_step")):
        assert "entry evaluate" in parc.emit(source, entries=order)  # type: ignore[arg-type]
    found = parc.compile(source, entry="evaluate").program
    assert [c.groups for c in found.classes for s in c.states if s.name == "head"] == [(1,)]


def test_a_loop_that_evaluation_does_not_need_is_left_out() -> None:
    """A second loss, which is added in training only."""
    source = text("more = tanh(more)", "mean(x @ head) + (mean(more) if training else 0.0)")
    assert parc.verify(source).ok and parc.verify(source, entry="evaluate").ok
