"""What a checkpoint says of itself: `manifest.json`, which is written last."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from compiler.graph import ITEMSIZE
from compiler.shards import Spans, elements
from compiler.weight_format import FORMATS, WeightFormat, bits
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.printable import legible

NAME = "manifest.json"
FORMAT = "parc checkpoint 1"
_FILE = re.compile(r"device-\d{5,9}(\.\d{1,9})?\.safetensors")
_SQUARES = 256
"""Of the grid of a tensor's parts, which each of them covers at most in the mean."""

_LARGEST = 256 * 2**20
"""Bytes of a manifest that are read: one of 2,048 devices has some 10 MB."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """Its role, its dtype, its whole shape, and its type as it lies on the devices, for people. format: of words, what
    numbers are packed in them; None also in what was saved before manifests said so."""

    role: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    format: WeightFormat | None = None


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file, its size, the digest of its bytes, and the parts of tensors in it, in order."""

    name: str
    bytes: int
    sha256: str
    parts: tuple[tuple[str, Spans], ...]


@dataclass(frozen=True, slots=True)
class RunPoint:
    """When a run was saved. job, program: its name, and the digest of its text. step: updates so far; data: batches
    that were read, in order; seed: of random numbers, which count on from the step."""

    job: str
    program: str
    devices: int
    step: int
    data: int
    seed: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of a checkpoint but the numbers."""

    moment: RunPoint
    tensors: dict[str, SavedTensor]
    files: tuple[SavedFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(f.bytes for f in self.files)

    def text(self) -> str:
        """As it is written: the same for the same checkpoint."""
        m = self.moment
        body = {
            "format": FORMAT,
            "job": m.job, "program": m.program, "devices": m.devices, "step": m.step, "data": m.data, "seed": m.seed,
            "tensors": {
                name: {"role": t.role, "dtype": t.dtype, "shape": list(t.shape), "layout": t.layout, **_said(t.format)}
                for name, t in self.tensors.items()
            },
            "files": [
                {"name": f.name, "bytes": f.bytes, "sha256": f.sha256,
                 "parts": [[name, [list(s) for s in spans]] for name, spans in f.parts]}
                for f in self.files
            ],
        }  # fmt: skip
        inner = _compact(body)
        return f'{{"sha256":"{sha256(inner.encode()).hexdigest()}","checkpoint":{inner}}}\n'

    @staticmethod
    def read(folder: Path) -> Manifest:
        """That of a folder. Raises ParcError: E0770 where it is not there or not one, E0771 where it is damaged."""
        path = folder / NAME
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise fail("E0770", f"`{path}` is no ordinary file")
            with path.open("rb") as file:
                content = file.read(_LARGEST + 1)
        except OSError as error:
            help = "a checkpoint is a folder with `manifest.json`, which is written last: without it, it is not whole"
            raise fail("E0770", f"`{folder}` is no checkpoint: {error.strerror}", help=help) from None
        if len(content) > _LARGEST:
            _no_manifest(path, f"it has more than {_LARGEST // 2**20} MiB")
        try:
            found = json.loads(content)
            digest, body = found["sha256"], found["checkpoint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            _damaged(path, "it is not what was written")
        if sha256(_compact(body).encode()).hexdigest() != digest:
            _damaged(path, "its digest is another than it says")
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            _no_manifest(path, f"it does not say `{FORMAT}`")
        try:
            return _parsed(body)
        except (KeyError, TypeError, ValueError, AttributeError):
            _no_manifest(path, "it lacks what a checkpoint says, or says what cannot be")


def _parsed(body: dict[str, Any]) -> Manifest:
    """Raises KeyError, TypeError or ValueError for what is no manifest."""
    numbers = [body[x] for x in ("devices", "step", "data", "seed")]
    if not all(_is_count(n) for n in numbers) or not isinstance(body["job"], str):
        raise ValueError("numbers")
    moment = RunPoint(body["job"], str(body["program"]), *numbers)
    tensors = {}
    for name, t in body["tensors"].items():
        if t["dtype"] not in ITEMSIZE or not all(map(_is_count, t["shape"])) or not legible(name):
            raise ValueError(name)
        format = _format(t["format"]) if "format" in t else None
        tensors[name] = SavedTensor(str(t["role"]), t["dtype"], tuple(t["shape"]), str(t["layout"]), format)
    files = tuple(_file(f, tensors) for f in body["files"])
    if len({f.name for f in files}) < len(files):
        raise ValueError("a file twice")
    held: dict[str, list[Spans]] = {name: [] for name in tensors}
    for file in files:
        for name, spans in file.parts:
            held[name].append(spans)
    for name, t in tensors.items():
        total = sum(map(elements, held[name]))
        if total != elements(tuple((0, n) for n in t.shape)) or not _apart(held[name]):
            raise ValueError(f"{name} is not whole")
    return Manifest(moment, tensors, files)


def _said(format: WeightFormat | None) -> dict[str, Any]:
    if format is None:
        return {}
    kind = format.code
    return {"format": {"kind": kind, "bits": bits(kind), "group": format.group, "zeros": format.zeros}}


def _format(said: dict[str, Any]) -> WeightFormat:
    kind, group, zeros = said["kind"], said["group"], said["zeros"]
    if kind not in FORMATS or said["bits"] != bits(kind) or not _is_count(group) or type(zeros) is not bool:
        raise ValueError("a format")
    return WeightFormat(kind, group, zeros)


def _apart(parts: Sequence[Spans]) -> bool:
    """Whether no two parts of a tensor have a number in common. They are marked in the grid of all their edges, of
    which parts as strategies make them cover a few squares each; others are none of ours."""
    if len(parts) < 2 or not parts[0]:
        return len(parts) < 2
    edges = [sorted({e for spans in parts for e in spans[k]}) for k in range(len(parts[0]))]
    at = [{e: i for i, e in enumerate(of)} for of in edges]
    seen: set[tuple[int, ...]] = set()
    left = _SQUARES * len(parts)
    for spans in parts:
        ranges = [range(at[k][low], at[k][high]) for k, (low, high) in enumerate(spans)]
        left -= prod(map(len, ranges))
        if left < 0:
            return False
        for square in product(*ranges):
            if square in seen:
                return False
            seen.add(square)
    return True


def _file(f: dict[str, Any], tensors: dict[str, SavedTensor]) -> SavedFile:
    if not _FILE.fullmatch(f["name"]) or not _is_count(f["bytes"]):
        raise ValueError("a file")
    parts = tuple((name, tuple((low, high) for low, high in spans)) for name, spans in f["parts"])
    for name, spans in parts:
        inside = (_is_count(a) and _is_count(b) and a < b <= n for (a, b), n in _pairs(spans, tensors[name].shape))
        if not all(inside):
            raise ValueError(name)
    return SavedFile(f["name"], f["bytes"], str(f["sha256"]), parts)


def _pairs(spans: Spans, shape: Sequence[int]) -> list[tuple[tuple[int, int], int]]:
    return list(zip(spans, shape, strict=True))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _compact(body: object) -> str:
    return json.dumps(body, ensure_ascii=True, separators=(",", ":"))


def _damaged(path: Path, why: str) -> NoReturn:
    raise damaged(path, why)


def damaged(path: Path, why: str) -> Exception:
    """E0771, of a file of a checkpoint."""
    help = "take an earlier checkpoint: each is a folder of its own, such as `--resume FOLDER/step-00000020`"
    return fail("E0771", f"`{path}` is damaged: {why}", help=help)


def _no_manifest(path: Path, why: str) -> NoReturn:
    raise fail("E0770", f"`{path}` is no manifest of a checkpoint that this parc reads: {why}")
