"""A pipeline of a loop that stands in another: groups of local layers with a global one behind each. Alone and in pairs
with all that strategies have, checkpoints of it, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.stages.build import judged

MODEL = """
use std.implementations
use std.layers
use std.optimizers
use std.tactics

model m(groups, layers) {
  dim b = 8, s = 2, d = 4, v = 6
  input words, targets : int32[b, s] in 0..v
  weight table[v, d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat groups as group {
    weight shift[d] ~ normal(0.5)
    state seen[d]
    seen = 0.9 * seen + 0.1
    x = x + shift * seen
    repeat layers as layer {
      x = x + dropout(mlp(layer_norm(x), 8), 0.2)
      repeat 2 as deep {
        weight gain[d] ~ normal(0.5)
        x = x + gain * tanh(x)
      }
    }
    x = x + dropout(mlp(layer_norm(x), 8), 0.1) as global
    repeat 2 as after {
      weight gain[d] ~ normal(0.5)
      x = x + gain * tanh(x)
    }
  }
  logits[b, s, v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}
"""


def text(mesh: str, rules: Sequence[str], optimizer: str = "adamw(lr = 0.1, clip = 0.5)", sizes: str = "3, 4") -> str:
    lines = "\n".join(f"  {r}" for r in [f"mesh ({mesh})", *rules])
    job = f"job j {{\n  train m({sizes}) using plan\n  optimizer {optimizer}\n}}\n"
    return f"{MODEL}\nstrategy plan for m {{\n{lines}\n}}\n\n{job}"


ORDERS = {
    "gpipe": "pipeline group.layer on pp, schedule gpipe(microbatches = 2)",
    "one_f_one_b": "pipeline layer on pp, schedule one_f_one_b(microbatches = 4)",
    "interleaved": "pipeline group.layer on pp, schedule interleaved(microbatches = 4, chunks = 3)",
    "zero_bubble": "pipeline group.layer on pp, schedule zero_bubble(microbatches = 4), cuts [7]",
}
WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "dp": ("dp = 2", ("split b on dp",)),
    "zero_1": ("z = 2", ("data_parallel(z)", "optimizer_parallel(z, 1)")),
    "zero_3": ("z = 2", ("fsdp(z)",)),
    "tp": ("tp = 2", ("split f on tp",)),
    "recompute": ("", ("recompute group.layer",)),
    "ranges": ("", ("recompute group[1..3].layer.mlp", "recompute group.global")),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("beside", WITH)
def test_pairs(order: str, beside: str) -> None:
    mesh, rules = WITH[beside]
    judged(text(", ".join(filter(None, ("pp = 2", mesh))), (*rules, ORDERS[order])))
