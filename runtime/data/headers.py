"""What files say of the arrays that they hold: `.npy`, safetensors. Nothing in them is trusted, and nothing is run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from math import prod
from typing import Any, NoReturn

import numpy as np

from compiler.readers import STORED
from dsl.data import dataclass
from dsl.diagnostics import did_you_mean, fail
from runtime.data.stored import DataFile, Stored

_NPY_HEADER = 64 * 2**10
_SAFETENSORS_HEADER = 8 * 2**20
"""Bytes that a header may have: of `.npy` numpy itself takes no more than 10,000."""

_DESCR = re.compile(r"[<>|=]?([biuf])(1|2|4|8)")
_SAFETENSORS = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "bf16", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
NUMPY = dict(zip(STORED, ("?", "<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "bf16", "<f4", "<f8")))
"""Numpy's names of the numbers in raw files."""


def npy(file: DataFile) -> Stored:
    """The array of a `.npy` file (numpy.lib.format, versions 1 to 3). Raises E0761 where it is not one."""
    start = file.head(12)
    if start[:6] != b"\x93NUMPY" or len(start) < 12:
        file.wrong("is no `.npy` file", "`np.save` writes one")
    version = start[6]
    if version not in (1, 2, 3):
        file.wrong(f"is a `.npy` file of version {version}, there are 1 to 3")
    wide = 2 if version == 1 else 4
    length, begin = int.from_bytes(start[8 : 8 + wide], "little"), 8 + wide
    if length > _NPY_HEADER:
        file.wrong(f"has a header of {length} bytes, the most are {_NPY_HEADER}")
    text = file.head(length, begin)
    if len(text) < length:
        file.wrong(f"ends within its header of {length} bytes")
    descr, fortran, shape = _npy_fields(file, text, "latin-1" if version < 3 else "utf-8")
    dtype = _npy_dtype(file, descr)
    if fortran and len(shape) > 1:
        file.wrong(
            "has its numbers in Fortran order", "`np.save(path, np.ascontiguousarray(x))`: rows must lie together"
        )
    return _sized(file, Stored.whole(file, file.path, begin + length, dtype, shape))


def _npy_fields(file: DataFile, text: bytes, encoding: str) -> tuple[Any, bool, tuple[int, ...]]:
    try:
        found = ast.literal_eval(text.decode(encoding))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, dict) or set(found) != {"descr", "fortran_order", "shape"}:
        file.wrong("has a header that is none of numpy's")
    shape = found["shape"]
    if not isinstance(found["fortran_order"], bool) or not isinstance(shape, tuple) or not _sizes(shape):
        file.wrong("has a header that is none of numpy's")
    return found["descr"], found["fortran_order"], shape


def _npy_dtype(file: DataFile, descr: Any) -> str:
    if isinstance(descr, str) and _DESCR.fullmatch(descr):
        try:
            return np.dtype(descr).str
        except TypeError:
            pass
    if isinstance(descr, str) and descr.strip("<>|=").startswith("O"):
        file.wrong("holds pickled objects, which can run anything and are never read", "save an array of numbers")
    help = "save it as f32, or as safetensors, which know bf16" if descr in ("<V2", "|V2") else None
    shown = descr if isinstance(descr, str) else "several fields"
    file.wrong(f"holds no numbers that are read here: {shown!r:.60}", help or f"there are {', '.join(STORED)}")


def safetensors(file: DataFile, name: str) -> Stored:
    """The tensor of that name. Raises E0761 where the file's header is not right, E0706 where it has no such tensor."""
    found = tensors(file)
    if name not in found:
        known = sorted(found)
        help = did_you_mean(name, known) or f"there are {', '.join(known[:10]) or 'none'}"
        raise fail("E0706", f"`{file.path}` has no tensor `{name}`", file.span, help=help)
    return found[name].stored(file)


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """What a safetensors file says of a tensor: its name, dtype (in its own words), shape, and where it begins."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: int

    def stored(self, file: DataFile) -> Stored:
        """It, to be read. Raises E0761 where its numbers are of a kind that is not read."""
        if self.dtype not in _SAFETENSORS:
            what = f"has the tensor `{self.name}` in {self.dtype:.20}, which is not read here"
            file.wrong(what, f"there are {', '.join(_SAFETENSORS)}")
        return Stored.whole(file, f"{self.name}` of `{file.path}", self.at, _SAFETENSORS[self.dtype], self.shape)


def tensors(file: DataFile) -> dict[str, HeldTensor]:
    """All tensors of a file, by name. Raises E0761 where its header is not right."""
    start = file.head(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > file.size - 8:
        file.wrong("is no safetensors file, or is cut off: its header would be longer than it")
    if length > _SAFETENSORS_HEADER:
        file.wrong(f"has a header of {length} bytes, the most are {_SAFETENSORS_HEADER}", "write fewer tensors")
    found = _entries(file, file.head(length, 8))
    space = file.size - 8 - length
    at = 0
    for shown, (_, _, begin, end) in sorted(found.items(), key=lambda item: item[1][2:]):
        if begin != at:
            what = "overlaps with another" if begin < at else f"leaves a hole of {begin - at} bytes before it"
            file.wrong(f"is no safetensors file: the tensor `{shown:.60}` {what}")
        at = end
    if at != space:
        file.wrong(f"has tensors of {at} bytes in all, and {space} bytes behind its header: is it cut off?")
    return {name: HeldTensor(name, t, shape, 8 + length + begin) for name, (t, shape, begin, _) in found.items()}


def _entries(file: DataFile, text: bytes) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """dtype, shape, begin and end of each tensor."""
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        file.wrong("is no safetensors file: its header is no JSON object of distinct names")
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for name, entry in found.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            file.wrong(f"is no safetensors file: `{name:.60}` needs dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        right = isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)
        if not right or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            file.wrong(f"is no safetensors file: dtype, shape or data_offsets of `{name:.60}` are wrong")
        begin, end = offsets
        if dtype in _SAFETENSORS:
            size = 2 if dtype == "BF16" else np.dtype(_SAFETENSORS[dtype]).itemsize
            if prod(shape) * size != end - begin:
                needed = f"{prod(shape) * size} bytes" if prod(shape) < 2**64 else "more than there can be"
                file.wrong(f"is no safetensors file: `{name:.60}` needs {needed}, its offsets say {end - begin}")
        tensors[name] = dtype, tuple(shape), begin, end
    return tensors


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _sizes(values: Sequence[Any]) -> bool:
    return len(values) <= 64 and all(type(v) is int and 0 <= v < 2**63 for v in values)


def raw(file: DataFile, offset: int, fields: Sequence[tuple[str, tuple[int, ...]]]) -> list[Stored]:
    """The fields (numbers, shape) of records that follow each other from `offset` to the end. Raises E0761 where they
    do not fit the file."""
    sizes = [prod(shape) * STORED[dtype] for dtype, shape in fields]
    record, space = sum(sizes), file.size - offset
    count = max(0, space) // record
    if space < 0 or count * record != space:
        parts = f"{file.size} bytes, which are no {offset} and a number of {record}"
        file.wrong(f"has {parts}", "see to `offset`, the types of numbers, and the sizes of the inputs")
    found, at = [], offset
    for (dtype, shape), size in zip(fields, sizes, strict=True):
        found.append(Stored(file, file.path, at, NUMPY[dtype], (count, *shape), record))
        at += size
    return found


def _sized(file: DataFile, stored: Stored) -> Stored:
    """The array, if the file has exactly its bytes behind the header."""
    needed = stored.shape[0] * stored.stride if stored.shape else stored.stride
    space = file.size - stored.offset
    if needed != space:
        much = f"needs {needed} bytes" if needed < 2**64 else "needs more bytes than there can be"
        file.wrong(f"is a `.npy` file that {much} behind its header, and has {space}: is it cut off?")
    return stored
