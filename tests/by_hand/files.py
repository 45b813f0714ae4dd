"""Files around implementations: a model of one layer in a loop, a strategy that replaces it, a job."""

from __future__ import annotations

import re
from pathlib import Path

STD = Path(__file__).parents[2] / "dsl" / "std" / "implementations.par"

LAYERS = {
    "mlp": ("b = 8, s = 4, d = 8", "[b, s, d]", "mlp(y, 16)", "std.layers (mlp)"),
    "attention": ("b = 4, s = 8, d = 8", "[b, s, d]", "attention(y, 4)", "std.layers (attention)"),
    "grouped_attention": (
        "b = 4, s = 8, d = 8",
        "[b, s, d]",
        "grouped_attention(y, 4, 2)",
        "std.layers (grouped_attention)",
    ),
    "routed_experts": ("b = 4, s = 8, d = 6", "[b, s, d]", "experts(y)", "std.layers (moe)"),
    "softmaxed": ("b = 8, s = 4, d = 8", "[b, s, d]", "softmaxed(y)", ""),
    "conv": ("b = 4, y = 12, x = 4, c = 4", "[b, y, x, c]", "conv(z, 4)", "std.layers (conv)"),
}
"""By name of the function that is replaced: dims, those of the input, its call, where it comes from."""

PATHS = {"routed_experts": "experts.moe.routed_experts", "softmaxed": "softmaxed.rows"}
"""Where in the block it is called, if not under its own name."""

EXPERTS = """
fn experts(y) {
  z, busy = moe(y, 4, 8, renormalise = true, scale = 1.5)
  return z * cast(busy, compute)
}
"""


def file(
    layer: str,
    by: str,
    mesh: str,
    rules: str = "",
    own: str = "",
    changed: str = "",
    uses: str = "",
    on: int = 0,
) -> str:
    """A whole file.

    by: `FN(axes…)`; own: the file's own functions; changed: the call in the place of the usual one; on: how many
    devices the job's cluster has, if it has one.
    """
    dims, of, call, std = LAYERS[layer]
    name = "z" if layer == "conv" else "y"
    lines = "".join(f"  {line}\n" for line in rules.split("\n") if line)
    library = by.split("(")[0]
    from_std = "" if f"fn {library}(" in own else f"use std.implementations ({library})\n"
    return f"""\
use std.devices (a100_80)
use std.optimizers (sgd)
{f"use {std}" if std else ""}
{from_std}{uses}
{own}{EXPERTS if layer == "routed_experts" else ""}
cluster pod(devices = 1) {{
  device gpu = a100_80
  level server = devices gpu over 300 GB/s, 2 us
  host memory 768 GiB, 200 GB/s over 32 GB/s
}}
model net() {{
  dim {dims}
  input x0 : f32{of}
  weight first{of.replace("b, ", "")} ~ normal(1.0)
  {name} = x0 * first
  repeat 2 as block {{
    {name} = {name} + 0.5 * {changed or call}
  }}
  loss mean({name} * {name} * {name})
}}
strategy plan for net {{
  mesh ({mesh})
{lines}  implement block.{PATHS.get(layer, layer)} by {by}
}}
job fit {{
  train net(){f" on pod({on})" if on else ""} using plan
  optimizer sgd(lr = 0.1)
}}
"""


PARTS = {"ring_attention": ("ring", "in_sight"), "ring_grouped_attention": ("ring", "in_sight")}
"""What is written apart of a function, and nobody else has."""


def library(name: str) -> str:
    """The text of a function of `std.implementations`."""
    texts = []
    for part in (name, *PARTS.get(name, ())):
        found = re.search(rf"^fn {part}\(.*?^}}$", STD.read_text(), re.MULTILINE | re.DOTALL)
        assert found is not None, part
        texts.append(found.group())
    return "\n".join(texts)


def changed(name: str | tuple[str, ...], *changes: tuple[str, str]) -> str:
    """Texts of functions, with changes."""
    text = "\n".join(map(library, [name] if isinstance(name, str) else name))
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text
