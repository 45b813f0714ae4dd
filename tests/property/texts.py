"""Definitions that drawn files use: functions and optimizers, written out."""

from __future__ import annotations

import re
from collections.abc import Iterator

FUNCTIONS = {
    "adapted": """\
fn adapted(x[..., d], width) {
  dim z = d, rank = width
  weight base[d,z] ~ normal(0.3)
  weight low[d,rank] ~ normal(0.3)
  weight high[rank,z] ~ normal(0.1)
  wide[..., z] = x @ base
  narrow[..., rank] = x @ low
  more[..., z] = narrow @ high
  return rename(wide + 2.0 * more, z -> d)
}
""",
    "deep": """\
fn step(x[..., d]) {
  weight w[d] ~ normal(0.5)
  return sin(x * (1.0 + w))
}

fn deep(x[..., d], n) {
  weight scale[d] ~ normal(0.3)
  repeat n as layer {
    x = x + 0.3 * step(x)
  }
  return x * (1.0 + scale)
}
""",
}
"""Functions that pieces call, by name."""

DEFINITIONS = {
    # Of all of a weight, its iterations of loops too, or of each iteration by itself (`norm`, `over own`).
    "layerwise": "  w = w - lr * g / sqrt(sum(g * g) + 0.01)\n",
    "bounded": "  w = w - lr * g / (max(abs(g)) + 0.1)\n",
    "centred": "  state m ~ zeros\n  m = 0.9 * m + g\n  w = w - lr * (m - 0.5 * mean(m))\n",
    "trusted": (
        "  state m ~ zeros\n  m = 0.9 * m + 0.1 * g\n  low = min(m, over own)\n"
        "  w = w - lr * norm(w) * (m + 0.1 * low) / (sqrt(sum(m * m)) + norm(m) + 0.1)\n"
    ),
}
"""Bodies of the optimizers that are not the library's."""


def definitions(model: str, optimizer: str) -> Iterator[str]:
    """The texts of what a model calls and a job uses, of all that is not the library's."""
    yield from (text for name, text in FUNCTIONS.items() if re.search(rf"\b{name}\(", model))
    name = optimizer.partition("(")[0]
    if name in DEFINITIONS:
        yield f"optimizer {name}(lr) {{\n{DEFINITIONS[name]}}}\n"
