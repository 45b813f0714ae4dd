"""Functions that drawn models call, written out."""

from __future__ import annotations

import re

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


def functions(model: str) -> list[str]:
    """The texts of those that a model calls."""
    return [text for name, text in FUNCTIONS.items() if re.search(rf"\b{name}\(", model)]
