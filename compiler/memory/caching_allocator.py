"""A caching allocator of device memory: it reserves more than is in use, for it rounds sizes and keeps what is freed.

The rules are PyTorch's (`c10/cuda/CUDACachingAllocator.cpp`, defaults); other frameworks have similar ones. Sizes are
multiples of 512 B. Up to 1 MiB come from segments of 2 MiB, below 10 MiB from segments of 20 MiB, more from segments of
their own in multiples of 2 MiB. The smallest free block that fits is taken, and split if enough is left; freed
neighbours join; segments are kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import field

from compiler.memory.held import Buffer
from compiler.memory.lifetimes import Bundle, Lives, Skipped, TracedMemory, Variant, bundle_of
from compiler.memory.tiers import FIRST
from dsl.data import dataclass

MiB = 2**20
BLOCK = 512
SMALL, LARGE = MiB, 10 * MiB
"""Sizes up to SMALL share segments of 2 MiB, sizes below LARGE of 20 MiB."""


@dataclass(eq=False, slots=True)
class Block:
    """A part of a segment, between its neighbours there."""

    size: int
    small: bool
    number: int
    free: bool = False
    before: Block | None = None
    after: Block | None = None


class CachingAllocator:
    """`reserved`: bytes of all segments; `allocated`: of what is in use, rounded; `peak`: the most that was in use."""

    def __init__(self) -> None:
        self.reserved = self.allocated = self.peak = 0
        self._made = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {False: [], True: []}

    def allocate(self, size: int) -> Block:
        """Memory for that many bytes."""
        wanted = max(BLOCK, -(-size // BLOCK) * BLOCK)
        small = wanted <= SMALL
        free = self._free[small]
        at = bisect_left(free, (wanted, 0))
        if at < len(free):
            block = free.pop(at)[2]
            block.free = False
        else:
            segment = 2 * MiB if small else 20 * MiB if wanted < LARGE else -(-wanted // (2 * MiB)) * 2 * MiB
            self.reserved += segment
            block = self._block(segment, small)
        rest = block.size - wanted
        if rest >= BLOCK if small else rest > SMALL:
            other = self._block(rest, small)
            other.before, other.after = block, block.after
            if block.after is not None:
                block.after.before = other
            block.size, block.after = wanted, other
            self._keep(other)
        self.allocated += block.size
        self.peak = max(self.peak, self.allocated)
        return block

    def release(self, block: Block) -> None:
        """Keeps it for later, together with free neighbours."""
        self.allocated -= block.size
        before, after = block.before, block.after
        if before is not None and before.free:
            self._forget(before)
            before.size += block.size
            before.after = after
            if after is not None:
                after.before = before
            block = before
        if after is not None and after.free:
            self._forget(after)
            block.size += after.size
            block.after = after.after
            if after.after is not None:
                after.after.before = block
        self._keep(block)

    def _block(self, size: int, small: bool) -> Block:
        self._made += 1
        return Block(size, small, self._made)

    def _keep(self, block: Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size, block.number, block))

    def _forget(self, block: Block) -> None:
        block.free = False
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.number))]


# --- a step of a device -----------------------------------------------------------------------------------------------

ENTRIES = 32
"""Of the micro-batches that a loop leaves out, several are taken as one, so that no more than these are played."""

STEPS = 2
"""The second step finds what the first has left."""


@dataclass(slots=True)
class _Entry:
    """A saved buffer of `count` micro-batches."""

    count: int
    block: Block


@dataclass(slots=True)
class _Player:
    """`queues`: of each bundle the micro-batches in flight, the oldest first, which is the next to be let go of."""

    memory: TracedMemory
    group: int
    allocator: CachingAllocator
    queues: dict[Bundle, deque[_Entry]] = field(default_factory=dict)
    kept: dict[str, Block] = field(default_factory=dict)

    def step(self) -> None:
        bundles = [b for b in self.memory.bundles(self.group) if b.memory == FIRST]
        self.queues = {b: deque() for b in bundles}
        of: dict[Variant, dict[Buffer, Bundle]] = {}
        for variant, skipped in self.memory.timeline(self.group):
            for b in bundles if skipped.rounds else ():
                self._skip(b, skipped)
            lives = self.memory.lives(variant)
            if variant not in of:
                of[variant] = bundle_of(bundles, lives)
            self._play(lives, of[variant])
        for block in self.kept.values():
            self.allocator.release(block)
        self.kept = {}

    def _play(self, lives: Lives, bundles: dict[Buffer, Bundle]) -> None:
        blocks: dict[Buffer, Block] = {}
        for b, made in lives.events:
            if b.memory != FIRST:
                continue
            bundle = bundles.get(b)
            if made:
                block = self.allocator.allocate(b.bytes)
                if bundle is not None:
                    self.queues[bundle].append(_Entry(1, block))
                elif b.accumulator:
                    self.kept[b.name] = block
                else:
                    blocks[b] = block
            elif bundle is not None:
                self._drop(bundle)
            elif b in blocks:
                self.allocator.release(blocks.pop(b))

    def _skip(self, bundle: Bundle, actions: Skipped) -> None:
        more = actions.calls((bundle.origin,)) - actions.calls((bundle.death,))
        count = -(-more // ENTRIES)
        while more > 0:
            together = min(count, more)
            self.queues[bundle].append(_Entry(together, self.allocator.allocate(together * bundle.bytes)))
            more -= together
        self._drop(bundle, -more)

    def _drop(self, bundle: Bundle, microbatches: int = 1) -> None:
        queue = self.queues[bundle]
        while microbatches > 0:
            together = min(queue[0].count, microbatches)
            queue[0].count -= together
            microbatches -= together
            if not queue[0].count:
                self.allocator.release(queue.popleft().block)


def reserved(memory: TracedMemory, group: int) -> int:
    """Bytes of device memory that the devices of a group reserve. Weights and the like come first, then two steps."""
    allocator = CachingAllocator()
    for (kind, _), items in memory.static.items():
        for _, size in items if kind == FIRST else ():
            allocator.allocate(size)
    player = _Player(memory, group, allocator)
    for _ in range(STEPS):
        player.step()
    return allocator.reserved
