"""Memory of large arrays that is used again.

Fresh memory costs as much as a pass over it: the system hands out its pages one by one, zeroed. A step's arrays are the
next step's, so they are kept.
"""

from __future__ import annotations

from math import prod
from sys import getrefcount
from typing import Any

import numpy as np

from runtime.distribute import Array

SMALLEST = 1 << 18
"""Bytes from which on memory is kept; below, numpy's own ways are fast."""


def _references(blocks: list[list[Any]]) -> int:
    return min(getrefcount(block[0]) for block in blocks)


_IDLE = _references([[np.empty(1, np.uint8), 0]])
"""What `getrefcount` says of a block that nothing but the pool refers to."""


class ArrayPool:
    """Arrays whose memory is used again as soon as neither they nor views of them are referred to."""

    def __init__(self) -> None:
        self.round = 0
        self.blocks: dict[int, list[list[Any]]] = {}  # bytes -> [memory, the round in which it was last used]

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Like `np.empty`."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        step = 1 << (size.bit_length() - 4)  # sizes differ by an eighth at most, so that arrays of like sizes share
        size = -(-size // step) * step
        blocks = self.blocks.setdefault(size, [])
        for block in blocks:
            if getrefcount(block[0]) == _IDLE:
                block[1] = self.round
                return np.ndarray(shape, dtype, block[0])
        memory = np.empty(size, np.uint8)
        blocks.append([memory, self.round])
        return np.ndarray(shape, dtype, memory)

    def next_round(self) -> None:
        """Let go of what was not used since the last call."""
        for size, blocks in list(self.blocks.items()):
            self.blocks[size] = [b for b in blocks if b[1] == self.round]
            if not self.blocks[size]:
                del self.blocks[size]
        self.round += 1
