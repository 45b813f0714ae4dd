"""Numbers in memory in as few bytes as hold them: columns of tables, tokens of texts."""

from __future__ import annotations

import numpy as np

from runtime.inputs import Array

CELLS = 1 << 16
"""Numbers in a block."""

_WHOLE = tuple(np.dtype(t) for t in ("i1", "u1", "i2", "u2", "i4", "u4"))


class Column:
    """Rows of numbers, block by block: each block in the narrowest type that has all of its numbers.

    width: numbers in a row; single: rounded to f32, which is all that is asked for. least, most, whole: of all numbers.
    """

    def __init__(self, width: int = 1, single: bool = False) -> None:
        self.width, self.single = width, single
        self.rows = max(1, CELLS // width)
        self.blocks: list[Array] = []
        self.length = 0
        self.least, self.most, self.whole = np.inf, -np.inf, True
        self._rest: list[Array] = []
        self._waiting = 0

    def append(self, values: Array) -> None:
        """Further rows: [n, width], or [n] where the width is 1."""
        if not values.size:
            return
        values = values.reshape(-1, self.width)
        self.length += len(values)
        self.least, self.most = min(self.least, values.min()), max(self.most, values.max())
        self._rest.append(values)
        self._waiting += len(values)
        if self._waiting >= self.rows:
            joined = np.concatenate(self._rest) if len(self._rest) > 1 else values
            full = len(joined) - len(joined) % self.rows
            for start in range(0, full, self.rows):
                self._push(joined[start : start + self.rows])
            self._rest = [joined[full:].copy()] if full < len(joined) else []
            self._waiting = len(joined) - full

    def close(self) -> Column:
        """No more rows come."""
        if self._rest:
            self._push(np.concatenate(self._rest))
            self._rest = []
        return self

    def _push(self, block: Array) -> None:
        found = narrowed(block, self.single)
        self.whole &= found.dtype.kind != "f" or bool((found == np.floor(found)).all())
        self.blocks.append(found)

    def map(self, table: Array) -> None:
        """Put `table[n]` in the place of each number n (whole ones, from 0)."""
        for i, block in enumerate(self.blocks):
            self.blocks[i] = narrowed(table[block], self.single)

    def take(self, rows: Array) -> Array:
        """Those rows, in the widest type of what they have: [n, width]."""
        which, within = np.divmod(rows, self.rows)
        order = np.argsort(which, kind="stable")
        ends = np.flatnonzero(np.diff(which[order])) + 1
        parts = [(int(which[part[0]]), part) for part in np.split(order, ends)] if len(rows) else []
        found = np.empty((len(rows), self.width), np.result_type(np.int8, *{self.blocks[b].dtype for b, _ in parts}))
        for block, part in parts:
            found[part] = self.blocks[block][within[part]]
        return found


def narrowed(values: Array, single: bool = False) -> Array:
    """The numbers in the narrowest type that has all of them; f32 at most, if that is all that is asked for."""
    if values.dtype.kind != "f" or (_is_whole(values)):
        least, most = values.min(), values.max()
        for dtype in _WHOLE:
            info = np.iinfo(dtype)
            if info.min <= least and most <= info.max:
                return values.astype(dtype)
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    return short if single or np.array_equal(short, values) else values.astype(np.float64)


def _is_whole(values: Array) -> bool:
    """Whether integers tell all of them: no fractions, no -0."""
    return bool((values == np.floor(values)).all()) and not bool((np.signbit(values) & (values == 0)).any())
