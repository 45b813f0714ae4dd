"""Batches that lie in files: of each input whoever takes a slice reads that, in whatever process it is.

batch["image"][2:4, 0:16]     # reads two examples' upper halves
np.asarray(batch["image"])    # reads all
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.program import InputDecl
from dsl.data import dataclass
from runtime.data.reader import converted
from runtime.data.stored import Stored
from runtime.inputs import Array
from runtime.numpy import STORAGE
from runtime.readable import Piecewise


class Examples(Piecewise):
    """Rows of an array."""

    def __init__(self, decl: InputDecl, stored: Stored, rows: Array) -> None:
        super().__init__(decl.type.shape, np.dtype(STORAGE[decl.type.dtype]))
        self.decl, self.stored, self.rows = decl, stored, rows

    def piece(self, within: Sequence[slice]) -> Array:
        return _fitting(self.stored.read(self.rows[within[0]], within[1:]), self.decl, self.stored)


@dataclass(slots=True)
class Windows:
    """Parts of a row of tokens, each with the one behind it, as two inputs share them: a device that has a piece of
    both reads it once, one token longer. starts: where each begins."""

    stored: Stored
    starts: Array
    last: tuple[tuple[int, ...], Array] | None = None

    def read(self, rows: slice, within: slice) -> Array:
        """Of some windows what lies within, and the token behind that."""
        key = rows.start, rows.stop, within.start, within.stop
        if self.last is None or self.last[0] != key:
            begins, length = self.starts[rows] + within.start, within.stop - within.start + 1
            found = np.empty((len(begins), length), self.stored.read(begins[:0], []).dtype)
            for i, begin in enumerate(begins.tolist()):
                found[i] = self.stored.read(np.arange(begin, begin + length), [])
            self.last = key, found
        return self.last[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Windows, (self.stored, self.starts)


class Tokens(Piecewise):
    """The tokens of windows, or (`ahead` = 1) those behind them."""

    def __init__(self, decl: InputDecl, windows: Windows, ahead: int) -> None:
        super().__init__(decl.type.shape, np.dtype(STORAGE[decl.type.dtype]))
        self.decl, self.windows, self.ahead = decl, windows, ahead

    def piece(self, within: Sequence[slice]) -> Array:
        rows, places = within
        found = self.windows.read(rows, places)[:, self.ahead : self.ahead + places.stop - places.start]
        return _fitting(found, self.decl, self.windows.stored)


def _fitting(values: Array, decl: InputDecl, stored: Stored) -> Array:
    """Numbers of a file in the input's dtype, if they are of its range (else E0706)."""
    if not values.size:
        return values.astype(STORAGE[decl.type.dtype])
    return converted(values, decl, f"`{stored.shown}`", stored.file.span)
