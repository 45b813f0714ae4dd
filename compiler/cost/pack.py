"""Offsets for blocks that are not all alive at once."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

ALIGNMENT = 512
"""Bytes: what devices want addresses of tensors to be multiples of."""


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """The size rounded up."""
    return -(-size // to) * to


def pack(blocks: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Blocks are (bytes, alive: bit t is set at time t). Returns their offsets and the bytes of the arena.

    Greedy by size: the largest first, each into the smallest gap between those that are placed and alive with it, else
    behind them (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020, section 5.2). As
    the order is a rule of thumb, that of lifetimes is tried too, and the smaller arena taken. Sizes are rounded up to
    512 bytes. Time grows with the square of the number of blocks.
    """
    sizes = [aligned(size) for size, _ in blocks]
    by_size = sorted(range(len(blocks)), key=lambda i: -sizes[i])
    by_life = sorted(by_size, key=lambda i: -blocks[i][1].bit_count())
    return min((_place(order, sizes, blocks) for order in (by_size, by_life)), key=lambda found: found[1])


def bound(blocks: Sequence[tuple[int, int]]) -> int:
    """No arena can be smaller: the most bytes that are alive at once."""
    last = max((alive.bit_length() for _, alive in blocks), default=0)
    return max((sum(size for size, alive in blocks if alive >> t & 1) for t in range(last)), default=0)


def _place(order: Sequence[int], sizes: Sequence[int], blocks: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    placed: list[tuple[int, int, int]] = []  # (offset, end, alive) by offset
    offsets = [0] * len(blocks)
    arena = 0
    for i in order:
        size, alive = sizes[i], blocks[i][1]
        end, best, smallest = 0, -1, 0
        for start, stop, others in placed:
            if others & alive:
                gap = start - end
                if gap >= size and (best < 0 or gap < smallest):
                    best, smallest = end, gap
                if stop > end:
                    end = stop
        offsets[i] = at = best if best >= 0 else end
        insort(placed, (at, at + size, alive))
        arena = max(arena, at + size)
    return offsets, arena
