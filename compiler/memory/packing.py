"""Blocks of memory at fixed offsets: those that are there at once lie apart."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from compiler.memory.times import Times, length

ALIGNMENT = 512
"""Bytes: what devices want addresses of tensors to be multiples of."""

Block = tuple[int, Times]
"""Bytes, and when they are needed."""


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """The size rounded up."""
    return -(-size // to) * to


def pack(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Returns the offsets of blocks and the bytes of the arena.

    Greedy by size: the largest first, each into the smallest gap between those that are placed and there with it, else
    behind them (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020, section 5.2). As
    the order is a rule of thumb, that of lifetimes is tried too, and the smaller arena taken. Sizes are rounded up to
    512 bytes. Time grows with the number of blocks, and with the gaps that are left between them.
    """
    sizes = [aligned(size) for size, _ in blocks]
    by_size = sorted(range(len(blocks)), key=lambda i: -sizes[i])
    by_life = sorted(by_size, key=lambda i: -length(blocks[i][1]))
    moments = {t: k for k, t in enumerate(sorted({t for _, times in blocks for run in times for t in run}))}
    runs = [[(moments[a], moments[b]) for a, b in times] for _, times in blocks]
    return min((_place(order, sizes, runs, len(moments)) for order in (by_size, by_life)), key=lambda found: found[1])


def bound(blocks: Sequence[Block]) -> int:
    """No arena can be smaller: the most bytes that are there at once."""
    changes = [(t, sign * size) for size, times in blocks for run in times for t, sign in zip(run, (1, -1))]
    return max(accumulate(size for _, size in sorted(changes)), default=0)


def _place(
    order: Sequence[int], sizes: Sequence[int], runs: Sequence[Sequence[tuple[int, int]]], moments: int
) -> tuple[list[int], int]:
    taken = _Taken(moments)
    offsets = [0] * len(sizes)
    arena = 0
    for i in order:
        size = sizes[i]
        if not size or not runs[i]:
            continue
        nodes = taken.nodes(runs[i])
        at = offsets[i] = taken.gap(nodes, size)
        taken.take(nodes, at, at + size)
        arena = max(arena, at + size)
    return offsets, arena


Nodes = tuple[list[int], set[int]]
"""Of the tree over time: those that times consist of, and all above them."""


class _Taken:
    """Which bytes are taken when: a tree of halves of the time. Of each node it has the bytes that are taken during all
    of it (`all`) and during any part of it (`any`), as the ends of ranges in ascending order: start, stop, start, …"""

    def __init__(self, moments: int) -> None:
        self.leaves = 1 << max(moments - 1, 0).bit_length()
        self.all: dict[int, list[int]] = {}
        self.any: dict[int, list[int]] = {}

    def nodes(self, runs: Sequence[tuple[int, int]]) -> Nodes:
        """The largest nodes of which the runs consist."""
        found: list[int] = []
        for start, stop in runs:
            low, high = start + self.leaves, stop + self.leaves
            while low < high:
                if low & 1:
                    found.append(low)
                    low += 1
                if high & 1:
                    high -= 1
                    found.append(high)
                low >>= 1
                high >>= 1
        above: set[int] = set()
        for node in found:
            node >>= 1
            while node and node not in above:
                above.add(node)
                node >>= 1
        return found, above

    def take(self, nodes: Nodes, start: int, stop: int) -> None:
        """Bytes from `start` up to `stop` are taken then."""
        here, above = nodes
        for node in here:
            _add(self.all.setdefault(node, []), start, stop)
            _add(self.any.setdefault(node, []), start, stop)
        for node in above:
            _add(self.any.setdefault(node, []), start, stop)

    def gap(self, nodes: Nodes, size: int) -> int:
        """Where the smallest gap begins that has so many bytes: the first of several; else behind all that is taken."""
        here, above = nodes
        rows = [row for node in here if (row := self.any.get(node))]
        rows += [row for node in above if (row := self.all.get(node))]
        ranges = sorted([pair for row in rows for pair in zip(row[::2], row[1::2])])
        end, best, smallest = 0, -1, 0
        for start, stop in ranges:
            gap = start - end
            if gap >= size and (best < 0 or gap < smallest):
                best, smallest = end, gap
            if stop > end:
                end = stop
        return best if best >= 0 else end


def _add(row: list[int], start: int, stop: int) -> None:
    """Join a range to ranges; those that touch become one."""
    first, last = bisect_left(row, start), bisect_right(row, stop)
    new = [] if first % 2 else [start]
    if not last % 2:
        new.append(stop)
    row[first:last] = new
