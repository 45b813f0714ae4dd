"""Branches on devices of their own that meet again: no hang, and equal to the serial program, whoever has the loss."""

from __future__ import annotations

import pytest

import parc
from dsl.source import Source

TOWERS = """\
use std.layers (linear)
use std.optimizers (sgd)

fn tower(x[b,p], d) {
  return linear(x, over d)
}

fn product(x, y) {
  return mean(x * y)
}

model two(hidden = 4) {
  dim b = 4, p = 4, d = hidden
  input xs, ys : f32[b,p]
  i = tower(xs, over d) as image
  t = tower(ys, over d) as text
  loss product(i, t) as meet
}

strategy apart for two {
  mesh (tower = 2)
  place image on tower[0]
  place text on tower[1]
}

job fit {
  train two using apart
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("loss", [None, 0, 1, 2], ids=["anywhere", "first", "second", "third"])
def test_towers_that_meet_in_a_product(loss: int | None, dp: int, executor: parc.api.Executor) -> None:
    text = TOWERS.replace("mesh (tower = 2)", f"mesh (tower = {max(2, (loss or 0) + 1)}, dp = {dp})\n  split b on dp")
    if loss is not None:
        text = text.replace("  place text", f"  place meet on tower[{loss}]\n  place text")
    source = Source("towers.par", text)
    parc.check(source)
    proof = parc.verify(source, executor=executor)
    assert proof.ok and proof.devices == max(2, (loss or 0) + 1) * dp
