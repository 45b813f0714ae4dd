"""A small decoder whose matrices rest in fewer bits, and what such bits mean, read one number at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.weight_format import PackedWeight
from dsl.source import Source

Array = np.ndarray[Any, np.dtype[Any]]

MODEL = """\
use std.layers (attention, cross_entropy, layer_norm, mlp)
use std.optimizers (sgd)
use std.tactics (data_parallel, megatron, tensor_parallel)

model net(batch, seq) {
  dim b = batch, s = seq, d = 64, v = 12
  input tokens, targets : int32[b,s] in 0..v
  weight table[v,d] ~ normal(1.0)
  weight head[d,v]
  x[b,s,d] = take(table, tokens, over v)
  repeat 2 as block {
    x = x + attention(layer_norm(x), 2)
    x = x + mlp(layer_norm(x), 128)
  }
  logits[b,s,v] = layer_norm(x) @ head
  output logits
  loss cross_entropy(logits, targets, over v)
}

strategy plan for net {
STRATEGY
}

job serve {
  infer net(2, 4) using plan
  precision PRECISION
  decode over s, prefill 2
}
"""


@cache
def lowered(rules: str, precision: str = "f64", entry: str | None = None) -> Compiled:
    """The job with these rules."""
    text = MODEL.replace("STRATEGY", rules).replace("PRECISION", precision)
    return compile_job(evaluate(Source("net.par", text)), entry)


def bits_of(column: list[int], width: int) -> list[int]:
    """The numbers of so many bits in words, least bits first: one stream."""
    stream = "".join(format(word, "032b")[::-1] for word in column)
    return [int(stream[i : i + width][::-1], 2) for i in range(0, len(stream) // width * width, width)]


def byte_of_e4m3(byte: int) -> float:
    text = format(byte, "08b")
    exponent, mantissa = int(text[1:5], 2), int(text[5:], 2)
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if text[0] == "1" else size


def meant(of: PackedWeight, parts: dict[str, Array]) -> Array:
    """The weight that parts stand for, in plain loops: by name of the part."""
    names, code = of.type.names, of.format.code
    axis = names.index(of.dim)
    words = np.moveaxis(parts["words"], axis, 0)
    out = np.zeros(of.type.shape)
    rest = np.moveaxis(out, axis, 0)
    width = {"int8": 8, "int4": 4, "int3": 3, "fp8": 8, "sparse": 1}[code]
    for at in np.ndindex(words.shape[1:]):
        numbers = bits_of([int(w) for w in words[(slice(None), *at)]], width)
        if code == "sparse":
            kept = iter(np.moveaxis(parts["kept"], axis, 0)[(slice(None), *at)])
            rest[(slice(None), *at)] = [next(kept) if bit else 0.0 for bit in numbers]
        else:
            rest[(slice(None), *at)] = [byte_of_e4m3(n) if code == "fp8" else n for n in numbers]
    if code == "sparse":
        return out
    middle = {"int8": 128, "int4": 8, "int3": 4, "fp8": 0}[code]
    for at in np.ndindex(out.shape):
        place = dict(zip(names, at))
        size = {n: out.shape[names.index(n)] // of.scale.size(n) for n in of.scale.names}
        there = tuple(place[n] // size[n] for n in of.scale.names)
        zero = parts["zero"][there] if "zero" in parts else middle
        out[at] = (out[at] - zero) * parts["scale"][there]
    return out
