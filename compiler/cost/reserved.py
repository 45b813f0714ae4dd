"""What a caching allocator reserves on a device that makes and lets go of the buffers of a step in its order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from compiler.cost.caching import CachingAllocator, Piece
from compiler.cost.lifetimes import Lives
from compiler.cost.replay import FIRST, Buffer
from compiler.cost.traced import Bundle, Skipped, TracedMemory, Variant, bundle_of

ENTRIES = 32
"""Of the micro-batches that a loop leaves out, several are taken as one, so that no more than these are played."""

STEPS = 2
"""The second step finds what the first has left."""


@dataclass(slots=True)
class _Entry:
    """A saved buffer of `count` micro-batches."""

    count: int
    piece: Piece


@dataclass(slots=True)
class _Player:
    """`queues`: of each bundle the micro-batches in flight, the oldest first, which is the next to be let go of."""

    memory: TracedMemory
    group: int
    allocator: CachingAllocator
    queues: dict[Bundle, deque[_Entry]] = field(default_factory=dict)
    kept: dict[str, Piece] = field(default_factory=dict)

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
        for piece in self.kept.values():
            self.allocator.release(piece)
        self.kept = {}

    def _play(self, lives: Lives, bundles: dict[Buffer, Bundle]) -> None:
        pieces: dict[Buffer, Piece] = {}
        for b, made in lives.events:
            if b.memory != FIRST:
                continue
            bundle = bundles.get(b)
            if made:
                piece = self.allocator.allocate(b.bytes)
                if bundle is not None:
                    self.queues[bundle].append(_Entry(1, piece))
                elif b.accumulator:
                    self.kept[b.name] = piece
                else:
                    pieces[b] = piece
            elif bundle is not None:
                self._drop(bundle)
            elif b in pieces:
                self.allocator.release(pieces.pop(b))

    def _skip(self, bundle: Bundle, actions: Skipped) -> None:
        more = actions.calls((bundle.origin,)) - actions.calls((bundle.death,))
        count = -(-more // ENTRIES)
        while more > 0:
            together = min(count, more)
            self.queues[bundle].append(_Entry(together, self.allocator.allocate(together * bundle.bytes)))
            more -= together
        for _ in range(-more):
            self._drop(bundle)

    def _drop(self, bundle: Bundle) -> None:
        first = self.queues[bundle][0]
        first.count -= 1
        if not first.count:
            self.allocator.release(self.queues[bundle].popleft().piece)


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
