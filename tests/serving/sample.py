"""A small model that writes, on two devices, and what it writes by itself."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from dsl.source import Source
from parc import api

ROOT = Path(__file__).parents[2]

TEXT = """\
use std.layers (attention, layer_norm, mlp)
use std.tactics (tensor_parallel)

model writer(batch, places) {
  dim b = batch, s = places, d = 32, v = 80
  input tokens : int32[b,s] in 0..v
  weight table[v,d], position[s,d] ~ normal(0.3)
  x[b,s,d] = take(table, tokens, over v) + position
  repeat 2 as block {
    x = x + attention(layer_norm(x), 4)
    x = x + mlp(layer_norm(x), 64)
  }
  logits[b,s,v] = layer_norm(x) @ table
  output logits
}

strategy two for writer {
  mesh (tp = 2)
  tensor_parallel(tp)
  split t on tp
}

job write {
  infer writer(4, 256) using two
  data text("corpus.txt")
  decode over s, prefill 8
}
"""

TRAINED = (
    TEXT.replace("(attention, layer_norm", "(attention, cross_entropy, layer_norm")
    .replace("(tensor_parallel)\n", "(tensor_parallel)\nuse std.optimizers (sgd)\n")
    .replace("tokens :", "tokens, targets :")
    .replace(
        "  output logits\n",
        "  if not training {\n    output logits\n  }\n  loss cross_entropy(logits, targets, over v)\n",
    )
    .replace("writer(4, 256)", "writer(2, 96)")
    + """
job fit {
  train writer(2, 96)
  optimizer sgd(lr = 1.0)
  data text("corpus.txt")
}
"""
)
"""The same with fewer positions, and a job that trains it."""


def written(folder: Path, text: str = TEXT) -> Path:
    """The file, with the data that it speaks of beside it."""
    shutil.copy(ROOT / "examples" / "data" / "corpus.txt", folder)
    path = folder / "writer.par"
    path.write_text(text)
    return path


@cache
def alone(path: Path, prompt: str, steps: int, temperature: float = 0.0, seed: int = 0, n: int = 1) -> tuple[str, ...]:
    """What `generate` makes of the prompt, by itself."""
    source = Source(str(path), path.read_text(), str(path))
    found = api.generate(source, [prompt] * n, steps, temperature=temperature, seed=seed)
    return tuple(t.text for t in found.texts)
