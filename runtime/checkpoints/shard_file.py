"""One file of a checkpoint: parts of tensors as safetensors, hashed while they are written and checked before they are
read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from compiler.graph import ITEMSIZE
from compiler.shards import Spans, elements
from runtime.checkpoints.manifest import SavedFile, SavedTensor, damaged

Array = NDArray[Any]

DTYPES = {"f64": "F64", "f32": "F32", "bf16": "BF16", "f16": "F16", "int32": "I32", "uint32": "U32", "bool": "BOOL"}
"""What safetensors calls a dtype."""

_IN_FILES = {dtype: (word, ITEMSIZE[dtype]) for dtype, word in DTYPES.items()} | {"int64": ("I64", 8)}
"""The word and the bytes of a number of each dtype; programs have no int64, files of others do."""

STORED: dict[str, Any] = {
    "f64": np.dtype("<f8"), "f32": np.dtype("<f4"), "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype("<f2"),
    "int32": np.dtype("<i4"), "uint32": np.dtype("<u4"), "bool": np.dtype("?"),
}  # fmt: skip
"""What numbers of a dtype are in a file, bit by bit; in memory f16 and bf16 are f32 (`runtime.numpy.STORAGE`)."""

CHUNK = 4 * 2**20
"""Bytes that are written, or read, at once."""

Watch = Callable[[str], None]
"""Hears where in writing it is, for tests that end it there."""


def part_key(name: str, spans: Spans, whole: Sequence[int]) -> str:
    """What a part of a tensor is called in its file: the tensor's name, and which part if it is not all."""
    if all(low == 0 and high == n for (low, high), n in zip(spans, whole, strict=True)):
        return name
    return f"{name}[{', '.join(f'{low}:{high}' for low, high in spans)}]"


def header(parts: Sequence[tuple[str, Spans]], tensors: dict[str, SavedTensor]) -> bytes:
    """The beginning of a file of these parts."""
    shapes = [(name, spans, [high - low for low, high in spans]) for name, spans in parts]
    return safetensors_header(
        "parc", [(part_key(n, spans, tensors[n].shape), tensors[n].dtype, shape) for n, spans, shape in shapes]
    )


def file_bytes(dtype: str) -> int:
    """Of a number in a file."""
    return _IN_FILES[dtype][1]


def safetensors_header(format: str, entries: Iterable[tuple[str, str, Sequence[int]]]) -> bytes:
    """The beginning of a safetensors file: its length in 8 bytes, and what follows. entries: name, dtype and shape of
    each tensor, in order; format: what the metadata calls it (transformers wants `pt`)."""
    found: dict[str, Any] = {"__metadata__": {"format": format}}
    at = 0
    for name, dtype, shape in entries:
        word, size = _IN_FILES[dtype]
        end = at + prod(shape) * size
        found[name] = {"dtype": word, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(found, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_shard(
    path: Path,
    parts: Sequence[tuple[str, Spans]],
    tensors: dict[str, SavedTensor],
    array: Callable[[str, Spans], Array],
    disk: Disk,
    watch: Watch = lambda where: None,
) -> SavedFile:
    """Write a file of these parts, whose numbers `array` gives one after the other; `disk` says when it is on it.

    Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0) as file, _Hashing() as hashing:
        size = 0
        for block in blocks(parts, tensors, array):
            watch("write")
            hashing.update(block)
            done = 0
            while done < len(block):
                done += file.write(block[done:]) or 0
            size += len(block)
        watch("fsync")
        disk.take(file.fileno())
        return SavedFile(path.name, size, hashing.digest(), tuple(parts))


def blocks(
    parts: Sequence[tuple[str, Spans]], tensors: dict[str, SavedTensor], array: Callable[[str, Spans], Array]
) -> Iterator[memoryview]:
    """The bytes of a file of these parts, as `write_shard` has them, some at a time: what is not laid out so yet is
    copied to memory that is used again, `_Hashing.AHEAD` blocks after."""
    yield memoryview(header(parts, tensors))
    ring = [np.empty(0, np.uint8) for _ in range(_Hashing.AHEAD + 2)]
    for name, spans in parts:
        stored = STORED[tensors[name].dtype]
        for piece in _pieces(np.asarray(array(name, spans)), stored.itemsize):
            if piece.flags.c_contiguous and piece.dtype == stored:
                view = piece.reshape(-1).view(np.uint8).data
                yield from (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))
                continue
            ring.append(ring.pop(0))
            size = piece.size * stored.itemsize
            if len(ring[-1]) < size:
                ring[-1] = np.empty(size, np.uint8)
            taken = ring[-1][:size]
            np.copyto(taken.view(stored).reshape(piece.shape), piece, casting="unsafe")
            yield taken.data


def _pieces(x: Array, itemsize: int) -> Iterator[Array]:
    """The array, in its order, in pieces of `CHUNK` bytes at most, or as a whole where nothing is to be copied."""
    if not x.size:
        return
    if x.size * itemsize <= CHUNK or not x.ndim or x.flags.c_contiguous and x.itemsize == itemsize:
        yield x
        return
    rows = CHUNK // (x.size // len(x) * itemsize)
    for at in range(0, len(x), max(1, rows)):
        yield from [x[at : at + rows]] if rows else _pieces(x[at], itemsize)


class Disk:
    """Files on their way to the disk, while others are made and written."""

    def __enter__(self) -> Disk:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def take(self, opened: int) -> None:
        """Send what was written to an open file to the disk. Raises OSError, also of one before."""
        self._waiting.append(self._thread.submit(_synced, os.dup(opened)))
        if len(self._waiting) > 8:
            self._waiting.pop(0).result()

    def wait(self) -> None:
        """Until all files are there. Raises OSError."""
        for each in self._waiting:
            each.result()
        self._waiting = []


def _synced(opened: int) -> None:
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _Hashing:
    """A digest that is computed on a thread of its own, beside what writes or reads the bytes."""

    AHEAD = 4
    """Blocks that may be on their way."""

    def __enter__(self) -> _Hashing:
        self._hash = sha256()
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def update(self, block: memoryview) -> None:
        """Take in some bytes, which must stay as they are until `AHEAD` more have been taken in."""
        self._waiting.append(self._thread.submit(self._hash.update, block))
        if len(self._waiting) > self.AHEAD:
            self._waiting.pop(0).result()

    def digest(self) -> str:
        """Of all bytes so far."""
        for each in self._waiting:
            each.result()
        self._waiting = []
        return self._hash.hexdigest()


def read_shard(path: Path, file: SavedFile, tensors: dict[str, SavedTensor]) -> list[Array]:
    """The parts of a file, in their order, once its digest is that of what was written.

    Raises ParcError: E0771 where a byte is another, or the file cannot be read.
    """
    _check_size(path, file)
    content = np.empty(file.bytes, np.uint8)
    view = content.data
    _through(path, file, lambda at: view[at : at + CHUNK])
    begins = _offsets(path, file, tensors, content[: _begin(content[:8].tobytes())].tobytes())
    found = []
    for (name, spans), at in zip(file.parts, begins, strict=True):
        stored = STORED[tensors[name].dtype]
        part = np.frombuffer(content, stored, elements(spans), at).reshape([high - low for low, high in spans])
        found.append(part)
    return found


def check_shard(path: Path, file: SavedFile, tensors: dict[str, SavedTensor]) -> list[int]:
    """Where each part of a file begins, once its digest is that of what was written; little of it is in memory.

    Raises ParcError: E0771 as `read_shard` does.
    """
    block = min(CHUNK, max(2**14, file.bytes // 16))
    ring = [np.empty(block, np.uint8).data for _ in range(_Hashing.AHEAD + 2)]  # one is read, those are being hashed
    head = bytearray()

    def buffer(at: int) -> memoryview:
        return ring[at // block % len(ring)][: file.bytes - at]

    def keep(block: memoryview) -> None:
        if len(head) < 8 or len(head) < _begin(bytes(head[:8])):
            head.extend(block)

    _through(path, file, buffer, keep)
    return _offsets(path, file, tensors, bytes(head[: _begin(bytes(head[:8]))]))


def _offsets(path: Path, file: SavedFile, tensors: dict[str, SavedTensor], there: bytes) -> list[int]:
    """Where each part of a file begins. there: its header. Raises ParcError: E0771 where that is another one than its
    parts have, or they need another number of bytes than it has."""
    if there != header(file.parts, tensors):
        raise damaged(path, "its header is not that of the parts that the manifest lists")
    at = len(there)
    found = []
    for name, spans in file.parts:
        found.append(at)
        at += elements(spans) * ITEMSIZE[tensors[name].dtype]
    if at != file.bytes:
        raise damaged(path, "it is longer or shorter than its parts")
    return found


def _begin(start: bytes) -> int:
    return 8 + int.from_bytes(start, "little")


def _check_size(path: Path, file: SavedFile) -> None:
    """Raise E0771 unless it is an ordinary file of the size that was written."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise damaged(path, f"it cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "it is no ordinary file")
    if found.st_size != file.bytes:
        raise damaged(path, f"it has {found.st_size:,} bytes, {file.bytes:,} were written")


def _through(
    path: Path,
    file: SavedFile,
    buffer: Callable[[int], memoryview],
    keep: Callable[[memoryview], None] = lambda block: None,
) -> None:
    """Read a file into buffers, each filled to its end, and compare its digest. Raises E0771."""
    try:
        _check_size(path, file)
        with path.open("rb", buffering=0) as opened, _Hashing() as hashing:
            at = 0
            while at < file.bytes:
                block = buffer(at)
                filled = 0
                while filled < len(block):
                    got = opened.readinto(block[filled:])
                    if not got:
                        raise damaged(path, f"it ends at byte {at + filled:,}")
                    filled += got
                hashing.update(block)
                keep(block)
                at += filled
            if hashing.digest() != file.sha256:
                raise damaged(path, "its bytes are not those that were written")
    except OSError as error:
        raise damaged(path, f"it cannot be read: {error.strerror}") from None
