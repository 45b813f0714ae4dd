"""Arrays in files, of which one reads pieces: no more than what a device needs, wherever it lies.

Files are read at a position (`pread`), through the pages that the system keeps of them, rather than mapped: a mapped
file that somebody cuts off ends the process by a signal, while a read says how much there was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from math import prod
from typing import NoReturn

import numpy as np

from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from dsl.files import data_file
from dsl.source import Span
from runtime.inputs import Array

_NEAR = 4096
"""Parts that are no further apart than a page are read as one: the system reads pages."""
_LARGE = 4 * 2**20
"""Bytes that are read at once for the sake of what lies between."""


class Reads:
    """Bytes that this process has read from arrays in files."""

    def __init__(self) -> None:
        self.bytes = 0


READS = Reads()


class _Handle:
    """An open file, closed when nobody has it any more."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.number = os.open(path, flags)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(64)
def _handle(path: str, opening: int) -> _Handle:
    return _Handle(path)


_OPENINGS = count(1)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of which pieces are read, by any process of a run.

    path: as the job writes it; real: where it is, for all processes; size: in bytes; opening: which of those of the
    process that found it: a file that has taken its place since is another.
    """

    path: str
    real: str
    size: int
    opening: int
    span: Span | None

    @staticmethod
    def find(path: str, folder: str, span: Span | None) -> DataFile:
        """The file at `path` from `folder`; E0704 where there is no ordinary one inside the project."""
        return DataFile.at(path, os.fspath(data_file(path, folder, span)), span)

    @staticmethod
    def at(path: str, real: str, span: Span | None = None) -> DataFile:
        """The file at `real`, wherever that is; E0704 where it is no ordinary one."""
        opening = next(_OPENINGS)
        try:
            found = os.fstat(_handle(real, opening).number)
        except OSError as error:
            raise fail("E0704", f"cannot read the data file `{path}`: {error.strerror}", span) from None
        if not stat.S_ISREG(found.st_mode):
            raise fail("E0704", f"the data file `{path}` is no ordinary file", span)
        return DataFile(path, real, found.st_size, opening, span)

    def opened(self) -> int:
        """Its handle; E0761 unless it is an ordinary file of the size that it had."""
        try:
            handle = _handle(self.real, self.opening).number
            found = os.fstat(handle)
        except OSError as error:
            raise self.changed(error.strerror or str(error)) from None
        if not stat.S_ISREG(found.st_mode):
            raise self.changed("it is no ordinary file")
        if found.st_size != self.size:
            raise self.changed(f"it had {self.size} bytes, and has {found.st_size}")
        return handle

    def head(self, count: int, at: int = 0) -> bytes:
        """As many bytes from there as there are, `count` at most."""
        try:
            return os.pread(self.opened(), count, at)
        except OSError as error:
            raise fail("E0704", f"cannot read the data file `{self.path}`: {error.strerror}", self.span) from None

    def changed(self, how: str) -> ParcError:
        """E0761: it is not what it was when its reader was opened."""
        message = f"the data file `{self.path}` has changed since it was opened: {how}"
        return fail("E0761", message, self.span, help="write data to another file, and rename it when it is complete")

    def wrong(self, what: str, help: str | None = None) -> NoReturn:
        """Raise E0761."""
        raise fail("E0761", f"`{self.path}` {what}", self.span, help=help)


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file.

    shown: how messages call it; offset: where it begins; dtype: numpy's name of its numbers, or `bf16`; shape: rows
    first; stride: bytes from row to row, within which each lies in one piece.
    """

    file: DataFile
    shown: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    stride: int

    @staticmethod
    def whole(file: DataFile, shown: str, offset: int, dtype: str, shape: tuple[int, ...]) -> Stored:
        """One whose rows follow each other."""
        return Stored(file, shown, offset, dtype, shape, prod(shape[1:]) * _numpy(dtype).itemsize)

    def read(self, rows: Array, inner: Sequence[slice]) -> Array:
        """Those rows (int64, in any order), and of each what lies in the slices (one per further dim, with both ends).

        Raises ParcError: E0761 where the file is not what it was.
        """
        dtype, handle = _numpy(self.dtype), self.file.opened()
        lens = [s.stop - s.start for s in inner]
        out = np.empty((len(rows), *lens), dtype)
        if not out.size:
            return _plain(out, self.dtype)
        strides = [prod(self.shape[i + 1 :]) * dtype.itemsize for i in range(1, len(self.shape))]
        start = self.offset + sum(s.start * stride for s, stride in zip(inner, strides, strict=True))
        for first, n, at in _runs(rows):
            self._box(handle, start + first * self.stride, [n, *lens], [self.stride, *strides], out[at : at + n])
        return _plain(out, self.dtype)

    def _box(self, handle: int, start: int, lens: list[int], strides: list[int], out: Array) -> None:
        """Read a box of the array, in as few parts as that is worth it."""
        level, span = len(lens), out.dtype.itemsize
        while level:
            gap, wider = strides[level - 1] - span, span + (lens[level - 1] - 1) * strides[level - 1]
            if lens[level - 1] > 1 and gap and (gap > _NEAR or wider > _LARGE):
                break
            level, span = level - 1, wider
        for outer in np.ndindex(*lens[:level]):
            at = start + sum(i * stride for i, stride in zip(outer, strides, strict=False))
            part = self._bytes(handle, at, span)
            out[outer] = np.ndarray(tuple(lens[level:]), out.dtype, part, 0, tuple(strides[level:]))

    def _bytes(self, handle: int, at: int, size: int) -> bytearray:
        """So many bytes of the file."""
        found = bytearray(size)
        done, view = 0, memoryview(found)
        while done < size:
            got = os.preadv(handle, [view[done:]], at + done)
            if not got:
                raise self.file.changed(f"it ends at byte {at + done}")
            done += got
        READS.bytes += size
        return found


def _numpy(dtype: str) -> np.dtype[np.generic]:
    return np.dtype("<u2" if dtype == "bf16" else dtype)


def _plain(array: Array, dtype: str) -> Array:
    """Numbers in this machine's order of bytes, bf16 as f32."""
    if dtype == "bf16":
        wide: Array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _runs(rows: Array) -> Iterator[tuple[int, int, int]]:
    """Rows that follow each other: the first one, how many, and where they stand among all."""
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = [0, *ends.tolist()]
    for at, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield int(rows[at]), end - at, at
