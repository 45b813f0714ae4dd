"""What goes into a pipelined loop can be read behind it and inside it as well, on every stage."""

from __future__ import annotations

import pytest

import parc
from dsl.source import Source

FILE = """\
use std.optimizers (sgd)

model m {{
  dim b = 8, d = 4
  input x : compute[b,d]
  {before}
  repeat 4 as block {{
    weight w[d]
    {body}
  }}
  loss mean({loss})
}}

strategy s for m {{
  mesh (pp = 2)
  pipeline block on pp, schedule {schedule}
}}

job j {{
  train m using s
  optimizer sgd(lr = 1e-3)
}}
"""


@pytest.mark.parametrize("schedule", ["gpipe(microbatches = 1)", "one_f_one_b(microbatches = 4)"])
@pytest.mark.parametrize(
    ("before", "body", "loss"),
    [
        ("h = x", "h = h * w", "x * h"),
        ("h = x", "h = x + tanh(h * w)", "h * h"),
        ("h = x\n  g = x", "h = h * w + g\n    g = tanh(g * h)", "h * g - x"),
        ("weight v[d]\n  y = x * v\n  h = y", "h = tanh(h * w) + y", "h * y"),
    ],
)
def test_equal(before: str, body: str, loss: str, schedule: str) -> None:
    text = FILE.format(before=before, body=body, loss=loss, schedule=schedule)
    assert parc.verify(Source("t", text), double=True, steps=1).ok
