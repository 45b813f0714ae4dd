"""A state that evaluation does not touch and that a later stage renews in training: one program has both entries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import parc
from compiler.driver import compile_job, joined
from compiler.evaluate import evaluate
from compiler.program import Program
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.stacked import Emulator

TEXT = """\
use std.optimizers

model net {
  dim b = 8, d = 4
  input x : f32[b,d]
  weight a[d]
  state average[d]
  state untouched[d]
  repeat 4 as block {
    weight w[d] ~ normal(0.5)
    x = x + tanh(x * w)
  }
  y = x * a
  if training {
    average = 0.9 * average + 0.1 * cast(mean(y, over b), master)
  }
  loss mean(y * y)
}

strategy plan {
  mesh (pp = STAGES)
  RULE
}

job fit {
  train net using plan
  optimizer sgd(lr = 0.1)
}
"""
PIPELINE = "pipeline block on pp, schedule one_f_one_b(microbatches = 2, over = b)"


def both(stages: int, *order: str) -> Program:
    text = TEXT.replace("STAGES", str(stages)).replace("RULE", PIPELINE if stages > 1 else "microbatches 2 over b")
    job = evaluate(Source("strays.par", text))
    return joined([compile_job(job, entry=entry).program for entry in order])


@pytest.mark.parametrize("order", [("train_step", "evaluate"), ("evaluate", "train_step")])
def test_what_an_entry_does_not_touch_lies_where_it_is_renewed(order: tuple[str, ...]) -> None:
    pipeline, alone = both(2, *order), both(1, *order)
    assert not verify(pipeline)
    where = [(e.name, c.groups) for e in pipeline.entries for c in e.classes for s in c.states if s.name == "average"]
    assert where == [("train_step", (1,))]
    assert {e.name for e in alone.entries for c in e.classes for s in c.states if s.name == "average"} == set(order)
    mine, theirs = Emulator(pipeline), Emulator(alone)
    for batch in parc.batches(Source("strays.par", TEXT.replace("STAGES", "1").replace("RULE", "")), 3):
        assert mine.step(batch).loss == pytest.approx(theirs.step(batch).loss, rel=1e-5)
        assert mine.call("evaluate", batch).loss == pytest.approx(theirs.call("evaluate", batch).loss, rel=1e-5)
    if order[0] == "train_step":  # an emulator tells the states of the first entry
        assert mine.states()["average"] == pytest.approx(theirs.states()["average"], rel=1e-5)
        assert mine.states()["average"].any()


@pytest.mark.parametrize("order", [("train_step", "evaluate"), ("evaluate", "train_step")])
def test_what_would_go_stale_is_told_where_it_is_declared(order: tuple[parc.api.Entry, ...]) -> None:
    """A metric of a state alone is made on the first stage where nothing is trained, and the last renews the state."""
    text = TEXT.replace("STAGES", "2").replace("RULE", PIPELINE)
    text = text.replace("  loss mean", "  metric size = mean(average)\n  loss mean")
    for asked in (lambda: parc.emit(Source("stale.par", text), entries=order), lambda: export(text, order)):
        with pytest.raises(ParcError) as raised:
            asked()
        (found,) = raised.value.diagnostics
        assert found.code == "E0651" and found.span is not None
        assert text[found.span.start : found.span.end].startswith("average")


def export(text: str, entries: Sequence[parc.api.Entry]) -> str:
    return parc.api.export(Source("stale.par", text), "torch", entries=entries)
