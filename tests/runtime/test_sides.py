"""Which sides of choices between whole tensors the steps of a proof took."""

from __future__ import annotations

import parc
from dsl.source import Source
from tests.runtime.test_proof_says import broken, never

CHOSEN = """
use std.optimizers (sgd)
model m {
  dim b = 8, d = 4
  input x : f32[b,d]
  weight w[d] ~ normal(0.5)
  y = x
  repeat 3 as block {
    y = where(y > 0.1, y, BELOW)
  }
  z = where(w < 100, y * w, 3.0 * y)
  free = where(x < 100, z, 2.0 * z)
  loss mean(free * free * w)
}
job fit {
  train m
  optimizer sgd(lr = 0.1)
}
"""


def test_sides_of_whole_tensors_that_no_element_took_are_named() -> None:
    """If weights have a part in it: that no number of the data is above 100 is known of the data."""
    found = parc.verify(Source("t", CHOSEN.replace("BELOW", "0.2 + y * 0.0 * sum(w)")))
    assert found.ok and {(u.never, u.name, u.whole) for u in found.unreached} == {
        ("block.y <= 0.1 in iteration 2, 3", "block.y_1", True),
        ("w >= 100", "z", True),
    }
    assert never(parc.verify(Source("t", CHOSEN.replace("BELOW", "y - 0.01 * sum(w)")))) == {"w >= 100"}


def test_such_a_side_may_be_wrong() -> None:
    """As all that is not reached, which is why it is told."""
    text = CHOSEN.replace("BELOW", "0.2 + y * 0.0 * sum(w)")
    assert broken(text, lambda p: p.replace("mul 3.0, %y", "mul 4.0, %y")).ok
