"""Drawn models with a loop that are causal are decoded right; each with one op that looks ahead is refused by its name.

`PARC_DRAWN` says how many; a few by default.
"""

from __future__ import annotations

import os
import random

import pytest

from compiler.incremental.derive import incremental
from dsl.diagnostics import ParcError
from dsl.source import NOWHERE
from tests.incremental.serial import apart, model_of

COUNT = int(os.environ.get("PARC_DRAWN", "16"))

CAUSAL = (
    "x = x + attention(rms_norm(x), 2)",
    "x = x + grouped_attention(rms_norm(x), 4, 2, window = {small})",
    "x = x + mlp(layer_norm(x), 6)",
    "x = tanh(x + shift(x, s, by = {small}))",
    "x = x + cumsum(tanh(x), over s) / cast(iota(s) + 1, compute)",
    "x = rename(lstm(rms_norm(x), over f), f -> d)",
    "x = x * sigmoid(shift(x, s, by = {small}, fill = 0.5))",
    "weight taps[c,d] ~ normal(0.5)\n    near[b,o,c,d] = window(x, s -> (o, c), pad = 2)\n"
    "    x = tanh(x + rename(sum(near * taps, over c), o -> s))",
    "z[b,s,t] = x @ rename(x, s -> t)\n    z = where({mask}, z, {low})\n    e = exp(z - max(z, over t))\n"
    "    x[b,s,d] = x + (e / sum(e, over t)) @ rename(x, s -> t)",
    "z[b,s,t] = tanh(x @ rename(x, s -> t))\n    x[b,s,d] = x + 0.1 * (where({mask}, z, 0.0) @ rename(x, s -> t))",
    "weight place[s,d] ~ normal(0.5)\n    x = x + 0.1 * place",
    "x = x + cast({cast_mask}, compute) * tanh(x)",
)
MASKS = (
    "iota(t) <= iota(s)",
    "iota(s) >= iota(t) and iota(s) - iota(t) < {small}",
    "not (iota(t) > iota(s))",
    "iota(t) - iota(s) < 1 and (iota(s) % 2 == iota(t) % 2 or iota(t) == iota(s))",
    "2 * iota(s) - iota(t) - iota(s) >= 0",
)
AHEAD = (
    ("x = x - mean(x, over s)", "sum"),
    ("x = x + attention(x, 2, causal = false)", "max"),
    ("x = tanh(x + shift(x, s, by = -{small}))", "shift"),
    ("x = x + flip(x, over s)", "flip"),
    ("z[b,s,t] = x @ rename(x, s -> t)\n    x[b,s,d] = x + 0.1 * (z @ rename(x, s -> t))", "@"),
    ("x = x * cast(argmax(x, over s), compute)", "argmax"),
    ("near[b,o,c,d] = window(x, s -> (o, c), pad = 1)\n    x = x + rename(sum(near, over c), o -> s)", "window"),
)


def drawn(rng: random.Random, more: str | None = None) -> str:
    """The body of a model with a loop; `more`: a statement among the others."""
    lines = rng.sample(CAUSAL, rng.randint(2, 4))
    if more is not None:
        lines.insert(rng.randrange(len(lines) + 1), more)
    inside = []
    for line in lines:
        mask = rng.choice(MASKS).replace("{small}", str(rng.randint(1, 4)))
        line = line.replace("{small}", str(rng.randint(1, 4)))
        line = line.replace("{mask}", mask).replace("{low}", rng.choice(["-30000.0", "-1e9", "-3e38"]))
        inside.append(line.replace("{cast_mask}", f"iota(s) % {rng.randint(2, 3)} == 0"))
    head = "  dim t = s, o = s, c = 3, f = d\n"
    body = "\n    ".join(inside)
    return f"{head}  repeat {rng.randint(1, 3)} as block {{\n    {body}\n  }}\n  y = rms_norm(x)"


@pytest.mark.parametrize("seed", range(COUNT))
def test_causal_models(seed: int) -> None:
    rng = random.Random(seed)
    model = model_of(drawn(rng), seq=7)
    first = rng.randint(0, 6)
    split = [*([first] if first else []), *([1] * (7 - first))]
    assert apart(model, split, seed) <= 1e-9


@pytest.mark.parametrize("seed", range(COUNT // 2))
def test_models_with_one_op_that_looks_ahead(seed: int) -> None:
    rng = random.Random(10_000 + seed)
    more, op = rng.choice(AHEAD)
    model = model_of(drawn(rng, more), seq=7)
    with pytest.raises(ParcError) as error:
        incremental(model, "s", 1, NOWHERE)
    (found,) = error.value.diagnostics
    assert found.code == "E0780" and found.message.startswith(f"`{op}` over "), found.message
