"""Codes E05xx of placing and cutting: layouts that cannot be, micro-batches that cannot be, stages that cannot be."""

from __future__ import annotations

from dsl.codes.code import Code


def _file(rules: str, *, loss: str = "mean(y * y)", batch: int = 8, x: str = "input x : f32[b, d]") -> str:
    """A file around the rules of a strategy, for a model with dims b, d, f and a loop `block` of 4."""
    lines = "".join(f"  {line}\n" for line in rules.split("\n"))
    return f"""\
use std.optimizers (sgd)

fn mlp(x[b, d], width) {{
  dim f = width
  weight w1[d, f], w2[f, d]
  u[b, f] = x @ w1
  out[b, d] = relu(u) @ w2
  return out
}}

model net() {{
  dim b = {batch}, d = 16
  {x}
  y = x
  repeat 4 as block {{
    y = y + mlp(y, 32)
  }}
  loss {loss}
}}

strategy plan for net {{
{lines}}}

job fit {{
  train net() using plan
  optimizer sgd(lr = 0.1)
}}
"""


def _image(devices: int) -> str:
    return f"""\
use std.optimizers (sgd)

model net() {{
  dim b = 2, y = 8, o = 8, k = 5
  input x : f32[b, y]
  weight w[k]
  out[b, o] = window(x, y -> (o, k), stride = 1, pad = 2) @ w
  loss mean(out * out)
}}

strategy plan for net {{
  mesh (sp = {devices})
  split y, o on sp for activations
}}

job fit {{
  train net() using plan
  optimizer sgd(lr = 0.1)
}}
"""


_STAGES = "mesh (pp = 2)\npipeline block on pp, schedule gpipe(microbatches = 2, over = b)"

CODES: tuple[Code, ...] = (
    Code(
        "E0502",
        "not separable over micro-batches",
        "A micro-batch is a part of the batch, run after the others; only sums over the batch can be made of parts.\n"
        "What needs all of the batch at once (a square of a mean, a maximum) has no meaning within one micro-batch.",
        _file("mesh (dp = 2)\nsplit b on dp\nmicrobatches 2 over b", loss="sqrt(mean(y * y))"),
        _file("mesh (dp = 2)\nsplit b on dp\nmicrobatches 2 over b"),
    ),
    Code(
        "E0540",
        "indivisible dim",
        "A rule splits a dim into more pieces than divide its size. Choose another degree, or allow uneven pieces\n"
        "with `pad`: the last ones are filled up and masked.",
        _file("mesh (tp = 5)\nsplit f on tp"),
        _file("mesh (tp = 5)\nsplit f on tp pad"),
    ),
    Code(
        "E0541",
        "window wider than a piece",
        "A window over a split dim needs elements of its neighbours; it can reach the nearest ones only.",
        _image(8),
        _image(4),
    ),
    Code(
        "E0552",
        "places that do not go together",
        "A strategy has one pipeline, or it places scopes on the coordinates of one axis.",
        _file(_STAGES.replace("pp = 2", "pp = 2, qq = 2") + "\nplace block.mlp on qq[1]"),
        _file(_STAGES),
    ),
)
