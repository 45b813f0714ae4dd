"""Files of arrays, written by hand; declarations of inputs; jobs that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from compiler.graph import Dim, Type
from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.source import Source

KINDS = {"f4": "F32", "f8": "F64", "f2": "F16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16", "b1": "BOOL"}


def spec(reader: str, *args: Any, folder: Path, **options: Any) -> DataSpec:
    return DataSpec(reader, args, tuple(options.items()), str(folder))


def declared(name: str, dtype: str, *sizes: int, high: int | None = None) -> InputDecl:
    dims = tuple(Dim(n, s) for n, s in zip("byxc", sizes, strict=False))
    return InputDecl(name, Type(dtype, dims), None if high is None else 0, high)


def header(entries: dict[str, Any]) -> bytes:
    """Of a safetensors file, without the padding that is usual."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def write_safetensors(path: Path, **arrays: np.ndarray[Any, Any]) -> None:
    entries: dict[str, Any] = {"__metadata__": {"format": "np"}}
    at = 0
    for name, x in arrays.items():
        kind = KINDS[x.dtype.str[1:]]
        entries[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    path.write_bytes(header(entries) + b"".join(x.tobytes() for x in arrays.values()))


def job(folder: Path, data: str, strategy: str, microbatches: str = "") -> Source:
    """A file beside the data: images and labels, of which any dim can be split."""
    text = f"""use std.layers
use std.optimizers
model m {{
  dim b = 8, y = 8, x = 4, c = 3, k = 10
  input image : f32[b,y,x,c]
  input label : int32[b] in 0..k
  weight w[y,x,c,k]
  h = conv(image, 3)
  z = mean(h, over (y, x))
  weight v[c,k]
  logits[b,k] = image @ w + z @ v
  loss cross_entropy(logits, label, over k)
}}
strategy st for m {{
  {strategy}
{microbatches}}}
job fit {{
  train m using st
  optimizer sgd(lr = 0.1)
  data {data}
  seed 3
}}
"""
    (folder / "m.par").write_text(text)
    return Source("m.par", text, str(folder / "m.par"))
