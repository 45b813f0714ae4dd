"""What updates take of a device at least: where replicas split tables, and where new weights are sent on."""

from __future__ import annotations

import pytest

from parc.planning.space import PlanChoice
from parc.price import Price
from tests.planning.brute import all_priced
from tests.planning.test_agreement import BothSides, key_of

FILE = """
use std.layers (mse)
use std.optimizers (adam)

device chip {{
  compute f32 100 TFLOP/s
  compute vector f32 100 TFLOP/s
  efficiency launch 0 us
  efficiency host 0 us
  efficiency fixed 0 us
  efficiency fusion 1
  efficiency vector 1
  memory 1 GB, 1 GB/s
}}

cluster pod {{
  device npu = chip
  level server = 2 npu over 1000000 GB/s, 0 us
}}

model net {{
  dim b = 2, d = {width}, e = 4
  {text}
}}

job fit {{
  train net on pod
  optimizer adam(lr = 1e-3)
}}
"""
"""Devices whose memory is all that counts, so that updates are most of a step."""

TABLES = """input a, c : int32[b] in 0..d
  input t : f32[b,e]
  weight first[d,e] ~ normal(0.1)
  weight second[d,e] ~ normal(0.1)
  loss mse(take(first, a, over d) + take(second, c, over d), t)"""

BIASES = """input x, t : f32[b,d]
  z = x * 1.0
  repeat 2 as block {
    weight one[d] ~ normal(0.1)
    weight two[d] ~ normal(0.1)
    weight three[d] ~ normal(0.1)
    z = relu(relu(relu(z + one) + two) * three)
  }
  loss mse(z, t)"""


@pytest.mark.parametrize("text", [TABLES, BIASES], ids=["tables", "biases"])
def test_no_bound_is_above_what_updates_take(text: str) -> None:
    sides = BothSides(FILE.format(text=text, width=512))
    theirs = sides.theirs()
    prices: dict[PlanChoice, Price] = all_priced(sides.search.pricer.job, sides.space)
    for of, price in prices.items():
        assert sides.bounds.seconds(of) <= price.seconds, of
        assert theirs[key_of(of)] <= price.seconds * (1 + 1e-9), of
    assert {of.rules.zero for of in prices} == {0, 1, 2, 3}
    assert any(of.rules.rows for of in prices) == (text == TABLES)


def test_replicas_update_all_that_they_do_not_split() -> None:
    """Of a table that is whole on each, and of pieces."""
    sides = BothSides(FILE.format(text=TABLES, width=512))
    bounds = sides.bounds
    dp = [of for of in all_priced(sides.search.pricer.job, sides.space) if [r.name for r, _ in of.axes] == ["dp"]]
    least = {(of.rules.zero, bool(of.rules.rows)): bounds.seconds(of) for of in dp if of.mesh.microbatches == 1}
    update, written = bounds.model.update, bounds.model.written
    assert 0 < written < update / 6
    assert least[0, False] - least[0, True] == pytest.approx(update / 2)
    assert least[0, True] - least[2, False] == pytest.approx(written / 2)
