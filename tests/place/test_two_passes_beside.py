"""`two passes` and places beside a pipeline: both have weights, states and what is made of them where rules say."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job, joined
from compiler.model import EVALUATE
from compiler.verify import verify
from tests.place.test_read_with_totals import file
from tests.stages.build import judged

BENT = """\
fn bent(x[..., d]) {
  weight v[d] ~ normal(0.5)
  return x + tanh(x * v)
}

model m"""
LOOP = "  y = x * a\n  repeat 4 as block {\n    weight w[d] ~ normal(0.7)\n    y = y + tanh(y * w)\n  }"
SHARDED = "split b on z\n  shard optimizer, gradients, weights on z"
CENTRED = "mean((y - mean(y, over b)) * z)"


def told(body: str, loss: str, axes: str, rules: str, places: dict[str, int]) -> None:
    """Proved, and entries that have everything in the same places: weights of scopes in these."""
    rules = "\n  ".join([rules, *(f"place {scope} on pp[{at}]" for scope, at in places.items())])
    compiled = judged(file(body, loss, axes, rules).replace("model m", NORM + BENT, 1))
    for scope, at in places.items():
        groups = {
            g
            for c in compiled.program.classes
            for s in c.states
            if s.logical == f"{scope}.v" and s.role == "weight"
            for g in c.groups
        }
        assert groups == {at}
    assert not verify(joined([compiled.program, compile_job(compiled.job, EVALUATE).program]))


@pytest.mark.parametrize(
    ("before", "behind", "stages", "loss"),
    [
        (None, 1, 3, CENTRED),
        (2, 2, 3, "max(y) * mean(y * y)"),
    ],
)
def test_gathered_weights_are_where_they_are_read(before: int | None, behind: int, stages: int, loss: str) -> None:
    body = LOOP + "\n  y = bent(y) as last"
    places = {"last": behind}
    if before is not None:
        body, places = body.replace("y = x * a", "y = x * a\n  y = bent(y) as first"), places | {"first": before}
    rules = f"pipeline block on pp, schedule gpipe\n  {SHARDED}"
    told(body, loss, f"pp = {stages}, z = 2", rules, places)


ROW = """\
  y = x * a
  repeat 2 as left {
    weight w[d] ~ normal(0.7)
    y = y + tanh(y * w)
  }
  y = bent(y) as near
  there = bent(y + z) as far
  y = y + there
  repeat 4 as right {
    weight w[d] ~ normal(0.7)
    y = y + tanh(y * w)
  }"""


def test_what_the_second_pass_reads_as_totals_stands_between_the_halves_of_a_stage() -> None:
    """All that the layers read of the places between them comes from totals: the order is that of the first pass."""
    loss = "mean(y * cumsum(there, over b)) + mean(there * y)"
    told(ROW, loss, "pp = 2", "pipeline left, right on pp, schedule one_f_one_b", {"near": 0, "far": 1})


@pytest.mark.parametrize(
    ("before", "loss", "places"),
    [
        ("there = bent(y - z) as far\n  y = bent(y) as near", "max(there) * mean(y * y)", {"far": 0, "near": 1}),
        (
            "part = bent(y + z) as part\n  y = y + part\n  there = bent(y - z) as far",
            "mean((y - mean(y, over b)) * there)",
            {"far": 1},
        ),
    ],
)
def test_what_stages_share_is_made_where_training_makes_it(before: str, loss: str, places: dict[str, int]) -> None:
    """Of an evaluation the second pass does not read all that the first one does."""
    body = LOOP.replace("y = x * a", f"y = x * a\n  {before}") + "\n  metric largest = max(abs(y))"
    told(body, loss, "pp = 2", "pipeline block on pp, schedule one_f_one_b", places)


NORM = """\
fn normed(x[b,d]) {
  weight g[d] ~ ones
  state mean_of[d] ~ zeros
  if training {
    mu = mean(x, over b)
    mean_of = 0.9 * mean_of + 0.1 * cast(mu, master)
    n = tanh(x - mu) * g
  } else {
    n = tanh(x - cast(mean_of, compute)) * g
  }
  return n
}

"""


@pytest.mark.parametrize(
    ("axes", "rules", "places"),
    [
        ("pp = 2", "pipeline block on pp, schedule one_f_one_b", {"first": 1}),
        ("pp = 2", "pipeline block on pp, schedule interleaved(chunks = 2)\n  recompute", {}),
        ("pp = 2", "place block on pp[1]\n  recompute", {"first": 1}),
        ("pp = 3", "pipeline block on pp, schedule gpipe, cuts [0, 4]", {"first": 2}),
    ],
)
def test_states_of_totals_are_where_an_evaluation_reads_them(axes: str, rules: str, places: dict[str, int]) -> None:
    body = LOOP.replace("y = x * a", "y = x * a\n  y = bent(y) as first") + "\n  n = normed(y) as norm"
    told(body, "mean(n * n * n) + 0.1 * mean(n * z)", axes, rules, places)
