"""States of a loop that is cut, where a stage of the row has none of its iterations: in all entries where these are."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job, joined
from compiler.model import EVALUATE
from compiler.verify import verify
from tests.stages.build import judged

FILE = """\
use std.optimizers (sgd)

model m {
  dim b = 8, d = 4
  input x : f32[b,d]
  y = x
FRONT
  repeat 2 as loop {
    weight w[d] ~ normal(0.5)
    y = y + tanh(y * w)
    state mu[d]
    if training {
      mu = 0.9 * mu + 0.1 * cast(mean(y, over b), master)
    }READ
  }
BEHIND
  loss LOSS
}

strategy plan for m {
  mesh (pp = 2)
  pipeline ROW on pp, schedule gpipe, CUTS
  microbatches 2 over b
}

job j {
  train m using plan
  optimizer sgd(lr = 0.1)
}
"""
OTHER = """\
  repeat 2 as other {
    weight w[d] ~ normal(0.5)
    y = y + tanh(y * w)
  }"""
READ = " else {\n      y = y - cast(mu, compute)\n    }"
WHOLE = "max(y) * mean(y * y)"


@pytest.mark.parametrize(
    ("read", "row", "cuts", "loss"),
    [
        ("", "other, loop", "cuts [2]", "mean(y * y)"),
        (READ, "loop, other", "cuts [2]", WHOLE),
        (READ, "other, loop", "chunks [0, 1, 1, 0]", WHOLE),
    ],
)
def test_they_are_where_the_iterations_are(read: str, row: str, cuts: str, loss: str) -> None:
    front, behind = (OTHER, "") if row.startswith("other") else ("", OTHER)
    text = FILE.replace("FRONT", front).replace("BEHIND", behind).replace("READ", read).replace("LOSS", loss)
    text = text.replace("ROW", row).replace("CUTS", cuts)
    compiled = judged(text.replace("over b\n", "over b, two passes\n") if loss == WHOLE else text)
    alone = compile_job(compiled.job, EVALUATE).program
    assert not verify(joined([compiled.program, alone]))
    for program in (compiled.program, alone):
        held = {c.groups: {s.type.names for s in c.states if s.logical == "loop.mu"} for c in program.classes}
        assert any(held.values()) and all(names <= {("loop", "d")} for names in held.values())
