"""A caching allocator of device memory: it reserves more than is in use, for it rounds sizes and keeps what is freed.

The rules are PyTorch's (`c10/cuda/CUDACachingAllocator.cpp`, defaults); other frameworks have similar ones. Sizes are
multiples of 512 B. Up to 1 MiB come from segments of 2 MiB, below 10 MiB from segments of 20 MiB, more from segments of
their own in multiples of 2 MiB. The smallest free block that fits is taken, and split if enough is left; freed
neighbours join; segments are kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

MiB = 2**20
BLOCK = 512
SMALL, LARGE = MiB, 10 * MiB
"""Sizes up to SMALL share segments of 2 MiB, sizes below LARGE of 20 MiB."""


@dataclass(eq=False, slots=True)
class Piece:
    """A part of a segment, between its neighbours there."""

    size: int
    small: bool
    number: int
    free: bool = False
    before: Piece | None = None
    after: Piece | None = None


class CachingAllocator:
    """`reserved`: bytes of all segments; `allocated`: of what is in use, rounded; `peak`: the most that was in use."""

    def __init__(self) -> None:
        self.reserved = self.allocated = self.peak = 0
        self._made = 0
        self._free: dict[bool, list[tuple[int, int, Piece]]] = {False: [], True: []}

    def allocate(self, size: int) -> Piece:
        """Memory for that many bytes."""
        wanted = max(BLOCK, -(-size // BLOCK) * BLOCK)
        small = wanted <= SMALL
        free = self._free[small]
        at = bisect_left(free, (wanted, 0))
        if at < len(free):
            piece = free.pop(at)[2]
            piece.free = False
        else:
            segment = 2 * MiB if small else 20 * MiB if wanted < LARGE else -(-wanted // (2 * MiB)) * 2 * MiB
            self.reserved += segment
            piece = self._piece(segment, small)
        rest = piece.size - wanted
        if rest >= BLOCK if small else rest > SMALL:
            other = self._piece(rest, small)
            other.before, other.after = piece, piece.after
            if piece.after is not None:
                piece.after.before = other
            piece.size, piece.after = wanted, other
            self._keep(other)
        self.allocated += piece.size
        self.peak = max(self.peak, self.allocated)
        return piece

    def release(self, piece: Piece) -> None:
        """Keeps it for later, together with free neighbours."""
        self.allocated -= piece.size
        before, after = piece.before, piece.after
        if before is not None and before.free:
            self._forget(before)
            before.size += piece.size
            before.after = after
            if after is not None:
                after.before = before
            piece = before
        if after is not None and after.free:
            self._forget(after)
            piece.size += after.size
            piece.after = after.after
            if after.after is not None:
                after.after.before = piece
        self._keep(piece)

    def _piece(self, size: int, small: bool) -> Piece:
        self._made += 1
        return Piece(size, small, self._made)

    def _keep(self, piece: Piece) -> None:
        piece.free = True
        insort(self._free[piece.small], (piece.size, piece.number, piece))

    def _forget(self, piece: Piece) -> None:
        piece.free = False
        free = self._free[piece.small]
        del free[bisect_left(free, (piece.size, piece.number))]
