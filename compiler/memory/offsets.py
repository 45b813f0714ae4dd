"""A static allocation: where in memory every buffer of a step lies on the devices of a group, decided beforehand.

What is there all the time lies in front. The rest is packed on two levels, so that neither layers nor micro-batches
count: the buffers that an action makes for itself are packed once per function and state (a *workspace*); workspaces,
accumulators and the places of saved values are packed along the schedule. Values that one function saves for another
lie together in a place of their micro-batch; there are as many places as micro-batches are ever in flight, and they are
used in turn.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import field

from compiler.memory.lifetimes import Bundle, Lives, RingKey, Site, TracedMemory, Variant, bundle_of
from compiler.program import FunctionPhase
from dsl.data import dataclass

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


NOTHING: Mapping[Bundle, int] = {}

PoolKey = tuple[FunctionPhase, FunctionPhase, int]
"""The function that saves, the one that loads for the last time, their chunk."""


@dataclass(slots=True)
class Workspace:
    """Where an action's own buffers lie: offsets by site; of rings (offset, bytes of a place, number of places)."""

    block: int
    turning: Mapping[Site, RingKey]
    fixed: dict[Site, int] = field(default_factory=dict)
    rings: dict[RingKey, tuple[int, int, int]] = field(default_factory=dict)

    def move(self, by: int) -> None:
        """From offsets in the block to those in memory."""
        self.fixed = {site: by + at for site, at in self.fixed.items()}
        self.rings = {key: (by + at, stride, n) for key, (at, stride, n) in self.rings.items()}


@dataclass(slots=True)
class Pool:
    """`count` places of `stride` bytes from `offset` on, for what functions save (`within`: offsets by slot)."""

    block: int
    stride: int
    count: int
    within: dict[str, int] = field(default_factory=dict)
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Allocation:
    """One memory of a device: `size` bytes in all, of which `peak` are alive at the fullest moment.

    static: bytes in front for what is always there.
    """

    size: int
    peak: int
    static: int
    accumulators: Mapping[str, int]
    pools: Mapping[PoolKey, Pool]
    workspaces: Mapping[Variant, Workspace]

    @property
    def fragmentation(self) -> float:
        """How much larger it is than any allocation must be: 0.02 = 2%."""
        return self.size / self.peak - 1 if self.peak else 0.0


def allocation(memory: TracedMemory, group: int) -> dict[str, Allocation]:
    """Memory kind -> the allocation of the devices of a group of the class."""
    return {kind: _Plan(memory, group, kind).made(peak.bytes) for kind, peak in memory.use(group).items()}


class _Plan:
    def __init__(self, memory: TracedMemory, group: int, kind: str) -> None:
        self.memory, self.kind = memory, kind
        self.timeline = memory.timeline(group)
        self.alive: dict[Variant, int] = {}
        for t, (variant, _) in enumerate(self.timeline):
            self.alive[variant] = self.alive.get(variant, 0) | 1 << t
        self.bundles = memory.bundles(group)

    def made(self, peak: int) -> Allocation:
        """Packs both levels."""
        blocks: list[tuple[int, int]] = []
        pools = self._pools()
        if pools and all(pool.count == 1 for pool, _ in pools.values()):
            workspaces = self._together(pools, blocks)
        else:
            workspaces = self._apart(pools, blocks)
        accumulators: dict[str, int] = {}
        last = len(self.timeline)
        for name, start in self._set().items():
            accumulators[name] = len(blocks)
            blocks.append((self.memory.declared(name), (1 << last) - (1 << start)))
        static = sum(aligned(n) for (m, _), items in self.memory.static.items() if m == self.kind for _, n in items)
        offsets, size = pack(blocks)
        for workspace in workspaces.values():
            workspace.move(static + offsets[workspace.block])
        for pool, _ in pools.values():
            pool.offset = static + offsets[pool.block]
        at = {name: static + offsets[i] for name, i in accumulators.items()}
        return Allocation(static + size, peak, static, at, {k: pool for k, (pool, _) in pools.items()}, workspaces)

    def _apart(
        self, pools: Mapping[PoolKey, tuple[Pool, int]], blocks: list[tuple[int, int]]
    ) -> dict[Variant, Workspace]:
        """A block for each function in each of its states, and one for each pool."""
        workspaces = {}
        for variant, alive in self.alive.items():
            workspaces[variant] = Workspace(len(blocks), self.memory.lives(variant).turning)
            blocks.append((self._fill([(workspaces[variant], variant, 0)])[0], alive))
        shared: dict[int, int] = {}
        for pool, alive in pools.values():
            if pool.block not in shared:
                shared[pool.block] = len(blocks)
                blocks.append((pool.count * pool.stride, alive))
            pool.block = shared[pool.block]
        return workspaces

    def _together(
        self, pools: Mapping[PoolKey, tuple[Pool, int]], blocks: list[tuple[int, int]]
    ) -> dict[Variant, Workspace]:
        """Of one micro-batch at a time: saved values lie among the buffers of the actions, from where one is made in a
        forward pass to where it is let go in a backward pass. The update has a block of its own."""
        members: list[tuple[Workspace, Variant, int]] = []
        saved: dict[Bundle, int] = {}
        length = alive = 0
        block = len(blocks)
        blocks.append((0, 0))
        workspaces = {}
        for variant, times in self.alive.items():
            lives = self.memory.lives(variant)
            if variant[0] == FunctionPhase.UPDATE:
                workspaces[variant] = Workspace(len(blocks), lives.turning)
                blocks.append((self._fill([(workspaces[variant], variant, 0)])[0], times))
                continue
            workspaces[variant] = Workspace(block, lives.turning)
            members.append((workspaces[variant], variant, length))
            alive |= times
            for bundle in self.bundles:
                here = _presence(bundle, lives)
                if here and bundle.memory == self.kind:
                    saved[bundle] = saved.get(bundle, 0) | here << length
            length += lives.length
        size, offsets = self._fill(members, saved)
        within = {name: at for bundle, at in zip(saved, offsets, strict=True) for name in bundle.names}
        for pool, times in pools.values():
            pool.block, pool.stride = block, size
            pool.within = {name: within[name] for name in pool.within}
            alive |= times
        blocks[block] = size, alive
        return workspaces

    def _fill(
        self, members: list[tuple[Workspace, Variant, int]], saved: Mapping[Bundle, int] = NOTHING
    ) -> tuple[int, list[int]]:
        """Packs the buffers of some actions, each so many instructions later, and saved ones with when they are there.
        The bytes of the block, and the offsets of the saved ones in it."""
        blocks = []
        for workspace, variant, shift in members:
            lives = self.memory.lives(variant)
            for site, f in lives.fixed.items():
                if f.memory == self.kind:
                    blocks.append((f.bytes, f.alive << shift))
                    workspace.fixed[site] = len(blocks) - 1
            for key, r in lives.rings.items():
                if r.memory == self.kind:
                    workspace.rings[key] = len(blocks), aligned(r.bytes), r.count
                    blocks.append((aligned(r.bytes) * r.count, r.alive << shift))
        offsets, size = pack(blocks + [(bundle.bytes, alive) for bundle, alive in saved.items()])
        for workspace, _, _ in members:
            workspace.fixed = {site: offsets[i] for site, i in workspace.fixed.items()}
            workspace.rings = {key: (offsets[i], stride, n) for key, (i, stride, n) in workspace.rings.items()}
        return size, offsets[len(blocks) :]

    def _set(self) -> dict[str, int]:
        """Accumulators of this memory -> the index of the action that sets it first."""
        found: dict[str, int] = {}
        for t, ((_, _, first), _) in enumerate(self.timeline):
            for name in sorted(first):
                if self.memory.states[name].memory == self.kind:
                    found.setdefault(name, t)
        return found

    def _pools(self) -> dict[PoolKey, tuple[Pool, int]]:
        """The pools, and when any of their places is in use. `block` tells which of them share their places.

        Chunks share, if that is smaller than pools of their own: then the largest's bytes count for all.
        """
        pools: dict[PoolKey, Pool] = {}
        for bundle in self.bundles:
            if bundle.memory == self.kind:
                pool = pools.setdefault((bundle.origin[0], bundle.death[0], bundle.origin[1]), Pool(len(pools), 0, 0))
                pool.within.update(dict.fromkeys(bundle.names, pool.stride))
                pool.stride += aligned(bundle.bytes)
        kinds: dict[tuple[FunctionPhase, FunctionPhase], list[PoolKey]] = {}
        for key in pools:
            kinds.setdefault(key[:2], []).append(key)
        found: dict[PoolKey, tuple[Pool, int]] = {}
        for keys in kinds.values():
            each = {key: self._in_flight([key]) for key in keys}
            most, alive = self._in_flight(keys)
            stride = max(pools[key].stride for key in keys)
            share = most * stride < sum(each[key][0] * pools[key].stride for key in keys)
            for key in keys:
                pool = pools[key]
                if share:
                    pool.block, pool.stride, pool.count = pools[keys[0]].block, stride, most
                else:
                    pool.count = each[key][0]
                found[key] = pool, alive if share else each[key][1]
        return found

    def _in_flight(self, pools: Sequence[PoolKey]) -> tuple[int, int]:
        """The most micro-batches between (the beginning of) the first function and (the end of) the second, and when
        there are any."""
        origins = {(origin, chunk) for origin, _, chunk in pools}
        deaths = {(death, chunk) for _, death, chunk in pools}
        now = most = alive = 0
        for t, (variant, skipped) in enumerate(self.timeline):
            now += skipped.calls(origins) - skipped.calls(deaths)
            now += variant[:2] in origins
            alive |= (now > 0) << t
            most = max(most, now)
            now -= variant[:2] in deaths
        return most, alive


def _presence(bundle: Bundle, lives: Lives) -> int:
    """When the bundle's buffer is there in an action."""
    for b in bundle_of([bundle], lives):
        return lives.alive.get(b, (1 << lives.length) - 1)
    return 0
