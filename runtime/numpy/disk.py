"""Arrays that lie in a file: what rests in a memory of `compiler.memory.tiers.FILES` is read and written by parts.

They are not mapped, so that they take none of the process's address space. All of a process lie in one file without a
name, in the directory for temporary files: when the process ends, however it does, nothing of it is left.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np

from dsl.diagnostics import fail
from runtime.numpy.base import Array

CHUNK = 1 << 22
"""Bytes that are written at once where one number is everywhere."""


class FileBlock:
    """Bytes of the file from `start` on that belong to an array, and to all views of it."""

    __slots__ = ("__weakref__", "file", "start")

    def __init__(self, file: DiskFile, start: int) -> None:
        self.file, self.start = file, start


class DiskFile:
    """A file without a name; what nobody refers to any more is handed out again."""

    def __init__(self) -> None:
        try:
            self.file = TemporaryFile(prefix="parc-")  # noqa: SIM115 (as long as the process)
        except OSError as error:
            raise _unusable(error) from None
        self.end = 0
        self.free: dict[int, list[int]] = {}  # bytes -> where so many lie

    def block(self, size: int) -> FileBlock:
        """So many bytes, with any contents."""
        room = self.free.get(size)
        if room:
            start = room.pop()
        else:
            start, self.end = self.end, self.end + size
        found = FileBlock(self, start)
        weakref.finalize(found, self.free.setdefault(size, []).append, start)
        return found

    def read(self, into: memoryview, at: int) -> None:
        """Fill a buffer from a position on."""
        done = 0
        while done < len(into):
            n = os.preadv(self.file.fileno(), [into[done:]], at + done)
            if not n:  # behind what was ever written
                into[done:] = bytes(len(into) - done)
                return
            done += n

    def write(self, data: memoryview, at: int) -> None:
        """Write all of a buffer to a position. Raises ParcError (E0910)."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self.file.fileno(), data[done:], at + done)
        except OSError as error:
            raise _unusable(error) from None


def _unusable(error: OSError) -> Exception:
    message = f"what rests on the servers' disks cannot be written in {gettempdir()}: {error.strerror}"
    return fail("E0910", message, help="set TMPDIR to a directory with room for what rests there")


_files: dict[int, DiskFile] = {}


def _file() -> DiskFile:
    """That of this process: one that was forked has another."""
    if os.getpid() not in _files:
        _files[os.getpid()] = DiskFile()
    return _files[os.getpid()]


class PartsArray:
    """An array that does not lie in memory as one of numpy does: parts of it are read and written, by number."""

    __slots__ = ()
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ndim: int

    def __getitem__(self, index: Any) -> PartsArray:
        """A view."""
        raise NotImplementedError

    def transpose(self, order: Sequence[int]) -> PartsArray:
        """A view with its axes in another order."""
        raise NotImplementedError

    def read(self) -> Array:
        """Its contents."""
        raise NotImplementedError

    def picked(self, numbers: Array, axes: int) -> Array:
        """Its parts by number, counted through the first `axes` axes."""
        raise NotImplementedError

    def to_renew(self, numbers: Array) -> Array:
        """Its parts along the first axis, by number, none twice: those that an update is about to replace."""
        return self.picked(numbers, 1)

    def put(self, numbers: Array, parts: Array) -> None:
        """Replace parts along the first axis, by number, none twice."""
        raise NotImplementedError


class DiskArray(PartsArray):
    """An array in a file, or a view of one: strides in bytes, as numpy has them."""

    __slots__ = ("__weakref__", "block", "dtype", "offset", "shape", "strides")

    def __init__(
        self, block: FileBlock, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.block, self.offset, self.shape, self.strides, self.dtype = block, offset, shape, strides, dtype

    @staticmethod
    def empty(shape: Sequence[int], dtype: Any, first: int = 0, like: Sequence[int] = ()) -> DiskArray:
        """A new one with any contents; first: the axis along which slices lie in one piece; like: strides, in whose
        order the other axes lie, so that sums go through what is read in the order of what was written."""
        kind = np.dtype(dtype)
        strides = _strides(shape, kind.itemsize, first, like)
        return DiskArray(_file().block(prod(shape) * kind.itemsize), 0, tuple(shape), strides, kind)

    @staticmethod
    def of(x: Array | DiskArray, first: int = 0) -> DiskArray:
        """A new one with these contents."""
        found = DiskArray.empty(x.shape, x.dtype, first, x.strides)
        found.write(x)
        return found

    def over(self, x: Array, first: int = 0, like: Sequence[int] = ()) -> DiskArray:
        """These contents in the place of what nobody needs any more: as they lie in memory (or as strides say), if it
        is in one piece."""
        found = self
        if not self._order()[1] and x.shape == self.shape:
            strides = _strides(x.shape, self.dtype.itemsize, first, like or x.strides)
            found = DiskArray(self.block, self.offset, self.shape, strides, self.dtype)
        found.write(x)
        return found

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def ndim(self) -> int:  # type: ignore[override]
        return len(self.shape)

    def __getitem__(self, index: Any) -> DiskArray:
        """A view: of integers, slices without steps and dots."""
        given = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in given:
            at = given.index(Ellipsis)
            given[at : at + 1] = [slice(None)] * (len(self.shape) - len(given) + 1)
        given += [slice(None)] * (len(self.shape) - len(given))
        offset, kept = self.offset, []
        for i, size, stride in zip(given, self.shape, self.strides, strict=True):
            if isinstance(i, slice):
                start, stop, step = i.indices(size)
                assert step == 1
                offset += start * stride
                kept.append((max(0, stop - start), stride))
            else:
                offset += range(size)[i] * stride
        return DiskArray(self.block, offset, tuple(n for n, _ in kept), tuple(s for _, s in kept), self.dtype)

    def __setitem__(self, index: Any, x: Array | DiskArray) -> None:
        self[index].write(x)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self.read()
        return found if dtype is None else found.astype(dtype)

    def same(self, other: object) -> bool:
        """Whether both are the same bytes of the file."""
        return (
            isinstance(other, DiskArray)
            and self.block is other.block
            and (self.offset, self.shape, self.strides) == (other.offset, other.shape, other.strides)
        )

    def read(self) -> Array:
        """Its contents."""
        order, outer = self._order()
        found = np.empty([self.shape[i] for i in order], self.dtype)
        for at_index, at in self._runs(order[:outer]) if found.size else ():
            key: tuple[Any, ...] = (*at_index, ...)  # with the dots, a view even where no axis is left
            self.block.file.read(memoryview(found[key].reshape(-1)).cast("B"), at)
        return found.transpose(np.argsort(order)) if order else found

    def write(self, x: Array | DiskArray) -> None:
        """Give it contents, of its shape but for dims of size 1 in front."""
        if self.same(x):
            return
        order, outer = self._order()
        whole = np.broadcast_to(np.asarray(x, self.dtype), self.shape)
        data = np.ascontiguousarray(whole.transpose(order)) if order else whole.copy()
        for at_index, at in self._runs(order[:outer]) if data.size else ():
            key: tuple[Any, ...] = (*at_index, ...)
            self.block.file.write(memoryview(data[key].reshape(-1)).cast("B"), at)

    def transpose(self, order: Sequence[int]) -> DiskArray:
        """A view with its axes in another order."""
        shape, strides = (tuple(of[i] for i in order) for of in (self.shape, self.strides))
        return DiskArray(self.block, self.offset, shape, strides, self.dtype)

    def picked(self, numbers: Array, axes: int) -> Array:
        """Its parts by number, counted through the first `axes` axes: those alone are read, each once."""
        each, inverse = np.unique(numbers, return_inverse=True)
        found = np.empty((len(each), *self.shape[axes:]), self.dtype)
        for k, at in enumerate(zip(*np.unravel_index(each, self.shape[:axes]), strict=True)):
            found[k] = self[tuple(map(int, at))].read()
        return found[inverse.reshape(numbers.shape)]

    def put(self, numbers: Array, parts: Array) -> None:
        """Replace parts along the first axis, by number."""
        for i, part in zip(numbers, parts, strict=True):
            self[int(i)].write(part)

    def fill(self, value: float) -> None:
        """Give it one number everywhere."""
        if self.shape and self.nbytes > CHUNK:
            for i in range(self.shape[0]):
                self[i].fill(value)
        else:
            self.write(np.full(self.shape, value, self.dtype))

    def within(self, other: DiskArray) -> bool:
        """Whether it is a part of the same array's bytes."""
        return self.block is other.block

    def _order(self) -> tuple[list[int], int]:
        """The axes from the longest way in the file to the shortest, and how many of them do not lie in one piece."""
        order = sorted(range(len(self.shape)), key=lambda i: (-self.strides[i], i))
        outer, step = len(order), self.dtype.itemsize
        while outer and (self.strides[order[outer - 1]] == step or self.shape[order[outer - 1]] == 1):
            outer -= 1
            step *= self.shape[order[outer]]
        return order, outer

    def _runs(self, axes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Of what lies in one piece: where in the array (along these axes) and where in the file."""
        base = self.block.start + self.offset
        for index in product(*(range(self.shape[i]) for i in axes)):
            yield index, base + sum(k * self.strides[i] for k, i in zip(index, axes, strict=True))


def _strides(shape: Sequence[int], itemsize: int, first: int, like: Sequence[int]) -> tuple[int, ...]:
    """Of an array in one piece: one axis before all others, which lie in the order of some strides."""
    order = sorted(range(len(shape)), key=lambda i: (i != first, -like[i] if like else i))
    found, step = [0] * len(shape), itemsize
    for axis in reversed(order):
        found[axis] = step
        step *= shape[axis]
    return tuple(found)
