"""Mutants of the files that jobs read their batches from. What is read of them is what independent code reads, too."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.fuzz.bundles import Scene, Scenes
from tests.fuzz.cell import Cell
from tests.fuzz.par import ROOT

Tables = Mapping[str, np.ndarray[Any, Any]]
"""Of each input all its examples, as they stand in the file."""

_HEAD = "use std.layers (cross_entropy)\nuse std.optimizers (sgd)\n"
_JOB = """
job fit {
  train m()
  optimizer sgd(lr = 0.01)
  seed 3
  data READER
}
"""
_TOKENS = """
model m() {
  dim b = 3, s = 5, v = 60, d = 2
  input tokens, targets : int32[b,s] in 0..v
  weight table[v,d]
  x[b,s,d] = take(table, tokens, over v)
  logits[b,s,v] = x @ table
  loss cross_entropy(logits, targets, over v)
}
"""
_LINE = """
model m() {
  dim b = 4, n = 2
  input x : f32[b,n]
  input y : int32[b] in 0..10
  weight w[n]
  p[b] = x @ w - cast(y, f32)
  loss mean(p * p)
}
"""
_IMAGES = """
model m() {
  dim b = 3, y = 4, x = 4, c = 1, k = 10
  input image : f32[b,y,x,c]
  input label : int32[b] in 0..k
  weight w[y,x,c,k]
  logits[b,k] = image @ w
  loss cross_entropy(logits, label, over k)
}
"""
_CORPUS = (ROOT / "examples" / "data" / "corpus.txt").read_bytes()[:900]


def scenes() -> Scenes:
    """Each reader, with each kind of file that it takes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(11, 2)).astype(np.float32), rng.integers(0, 10, 11).astype(np.int64)
    tokens = rng.integers(0, 60, 77).astype(np.uint16)
    table = b"a,b,y\n" + b"".join(b"%.3f,%.2f,%d\n" % (*row, n) for row, n in zip(x.tolist(), y.tolist()))
    pixels = rng.integers(0, 17, (9, 4)).tolist()
    images = "".join(",".join(map(str, [*row, i])) + "\n" for i, row in enumerate(pixels)).encode()
    record = np.zeros(11, [("y", "<u1"), ("x", "<f4", 2)])
    record["y"], record["x"] = y, x
    kept = "shuffle = false"
    return Scenes([
        _scene("text", _TOKENS, 'text("f.txt")', {"f.txt": _CORPUS}, _windows),
        _scene("stream", _TOKENS, 'text("f.txt.gz", stream = true)', {"f.txt.gz": _gz(_CORPUS)}, _windows),
        _scene("words", _TOKENS, 'text("f.txt.gz", level = "word")', {"f.txt.gz": _gz(_CORPUS)}, _ranges),
        _scene("csv", _LINE, 'csv("f.csv", x = "a, b")', {"f.csv": table}, _rows),
        _scene("csv.gz", _LINE, 'csv("f.csv.gz", x = "a, b", limit = 2 KB)', {"f.csv.gz": _gz(table)}, _rows),
        _scene("images", _IMAGES, 'images("f.csv.gz")', {"f.csv.gz": _gz(images)}, _ranges),
        _scene("npy", _LINE, f'arrays(x = "x.npy", y = "y.npy", {kept})',
               {"x.npy": _npy(x), "y.npy": _npy(y.astype(np.float32))}, _arrays),
        _scene("safetensors", _LINE, f'arrays("f.safetensors", x = "the x", {kept})',
               {"f.safetensors": _safetensors({"the x": x.astype(np.float16), "y": y})}, _arrays),
        _scene("raw", _LINE, f'raw("f.bin", y = "uint8", x = "f32[2]", offset = 3, {kept})',
               {"f.bin": b"abc" + record.tobytes()}, _arrays),
        _scene("tokens", _TOKENS, f'tokens("f.bin", {kept})', {"f.bin": tokens.tobytes()}, _arrays),
        _scene("tokens.npy", _TOKENS, f'tokens("f.npy", {kept})', {"f.npy": _npy(tokens)}, _arrays),
        _scene("tokens.safetensors", _TOKENS, f'tokens("f.safetensors", tensor = "it", {kept})',
               {"f.safetensors": _safetensors({"it": tokens})}, _arrays),
    ])  # fmt: skip


def _scene(
    name: str, model: str, reader: str, files: Mapping[str, bytes], judge: Callable[[Cell, str, list[Tables]], None]
) -> Scene:
    """A job that reads these files. judge: is given the file that is another, and some batches."""

    def run(cell: Cell, scene: Scene, file: str) -> None:
        from dsl.files import load
        from parc import api

        code, _ = cell.command("run", "job.par", "--steps", "2", "--json")
        if len(scene.name) + len(file) % 4 == 0:  # as people see it
            cell.command("run", "job.par", "--steps", "1")
        if code:
            return
        cell.stage("batches")
        judge(cell, file, list(api.batches(load("job.par"), 2)))

    job = (_HEAD + model + _JOB.replace("READER", reader)).encode()
    return Scene(name, {"job.par": job, **files}, dict.fromkeys(files, 1.0), run)


def _gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


_KINDS = {"<f4": "F32", "<f2": "F16", "<i8": "I64", "<u2": "U16"}


def _safetensors(arrays: Tables) -> bytes:
    head: dict[str, Any] = {"__metadata__": {"format": "np"}}
    at = 0
    for name, a in arrays.items():
        head[name] = {"dtype": _KINDS[a.dtype.str], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in arrays.values())


# --- what is read, by code of its own ----------------------------------------------------------------------


def _content(file: str) -> bytes:
    with open(file, "rb") as opened:
        content = opened.read()
    return gzip.decompress(content) if file.endswith(".gz") else content


def _ranges(cell: Cell, file: str, batches: list[Tables]) -> None:
    """All numbers are finite, integers of the inputs' ranges."""
    for batch in batches:
        for name, values in batch.items():
            high = 10 if name in ("y", "label") else 60
            integer = values.dtype.kind in "iu"
            if not np.isfinite(values).all() or (integer and not ((values >= 0) & (values < high)).all()):
                cell.wrong("out of range", f"{name} of {file}", str(values))


def _windows(cell: Cell, file: str, batches: list[Tables]) -> None:
    """They stand in the text, and targets are a character further."""
    _ranges(cell, file, batches)
    text = _content(file).decode("utf-8")
    known = sorted(set(text))
    for batch in batches:
        for row, next_row in zip(batch["tokens"].tolist(), batch["targets"].tolist()):
            shown = "".join(known[t] for t in [*row, next_row[-1]])
            if shown not in text or row[1:] != next_row[:-1]:
                cell.wrong("misread", file, f"{shown!r} is not there")


def _rows(cell: Cell, file: str, batches: list[Tables]) -> None:
    """They are rows of the table."""
    _ranges(cell, file, batches)
    rows = [row for row in csv.reader(io.StringIO(_content(file).decode("utf-8"), newline="")) if row]
    head = [c.strip() for c in rows[0]]
    wanted = [head.index(c) for c in ("a", "b", "y")]
    with np.errstate(over="ignore"):
        there = {tuple(np.float32(row[i]).item() for i in wanted) for row in rows[1:]}
    for batch in batches:
        for x, y in zip(batch["x"].tolist(), batch["y"].tolist()):
            if (*x, float(y)) not in there:
                cell.wrong("misread", file, f"{x}, {y} are in no row")


def _arrays(cell: Cell, file: str, batches: list[Tables]) -> None:
    """They are the rows, one behind the other, that the file has by its format."""
    size = next(iter(batches[0].values())).shape[0]
    for name, values in batches[0].items():
        found = _independent(file, name, values.shape)
        if found is None:
            continue
        total = len(found) // values.shape[1] * values.shape[1] if name in ("tokens", "targets") else len(found)
        want = found[np.arange(size) % max(1, total)] if name not in ("tokens", "targets") else found
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.array_equal(np.asarray(want).astype(values.dtype), values, equal_nan=values.dtype.kind == "f"):
                cell.wrong("misread", f"{name} of {file}", f"{values} instead of {want}")


def _independent(file: str, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    """What of an input the file has, rows first; of tokens the windows. None where it is in another file."""
    content = _content(file)
    if file.endswith(".npy"):
        if name in ("x", "y") and file != f"{name}.npy":
            return None
        found = np.load(io.BytesIO(content), allow_pickle=False)
    elif file.endswith(".safetensors"):
        length = int.from_bytes(content[:8], "little")
        entry = json.loads(content[8 : 8 + length])[{"x": "the x", "y": "y"}.get(name, "it")]
        low, high = (8 + length + at for at in entry["data_offsets"])
        kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?", "BF16": "<u2"}.get(entry["dtype"])
        if kind is None:
            kind = f"<{entry['dtype'][0].lower()}{int(entry['dtype'][1:]) // 8}"
        found = np.frombuffer(content[low:high], kind).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
    elif name in ("x", "y"):
        found = np.frombuffer(content[3:], [("y", "<u1"), ("x", "<f4", 2)])[name]
    else:
        found = np.frombuffer(content, "<u2")
    if name not in ("tokens", "targets"):
        return found
    windows, length = (len(found) - 1) // shape[1], shape[1]
    starts = np.arange(shape[0]) % windows * length + (name == "targets")
    return np.stack([found[s : s + length] for s in starts])
