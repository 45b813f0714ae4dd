"""A static allocation: where in memory every buffer of a step lies on the devices of a group, decided beforehand.

What is there all the time lies in front. The rest is packed on two levels, so that neither layers nor micro-batches
count: the buffers that an action makes for itself are packed once per function and state (a *workspace*); workspaces,
accumulators and the places of saved values are packed along the schedule. Values that one function saves for another
lie together in a place of their micro-batch; there are as many places as micro-batches are ever in flight, and they are
used in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from compiler.memory.lifetimes import Bundle, Lives, RingKey, Site, TracedMemory, Variant, bundle_of
from compiler.memory.packing import Block, aligned, pack
from compiler.memory.times import Times, later, union
from compiler.program import FunctionPhase
from dsl.data import dataclass

NOTHING: Mapping[Bundle, Times] = {}

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
        runs: dict[Variant, list[tuple[int, int]]] = {}
        for t, (variant, _) in enumerate(self.timeline):
            runs.setdefault(variant, []).append((t, t + 1))
        self.alive: dict[Variant, Times] = {variant: union(found) for variant, found in runs.items()}
        self.bundles = memory.bundles(group)

    def made(self, peak: int) -> Allocation:
        """Packs both levels."""
        blocks: list[Block] = []
        pools = self._pools()
        if pools and all(pool.count == 1 for pool, _ in pools.values()):
            workspaces = self._together(pools, blocks)
        else:
            workspaces = self._apart(pools, blocks)
        accumulators: dict[str, int] = {}
        last = len(self.timeline)
        for name, start in self._set().items():
            accumulators[name] = len(blocks)
            blocks.append((self.memory.declared(name), ((start, last),)))
        static = sum(aligned(n) for (m, _), items in self.memory.static.items() if m == self.kind for _, n in items)
        offsets, size = pack(blocks)
        for workspace in workspaces.values():
            workspace.move(static + offsets[workspace.block])
        for pool, _ in pools.values():
            pool.offset = static + offsets[pool.block]
        at = {name: static + offsets[i] for name, i in accumulators.items()}
        return Allocation(static + size, peak, static, at, {k: pool for k, (pool, _) in pools.items()}, workspaces)

    def _apart(self, pools: Mapping[PoolKey, tuple[Pool, Times]], blocks: list[Block]) -> dict[Variant, Workspace]:
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

    def _together(self, pools: Mapping[PoolKey, tuple[Pool, Times]], blocks: list[Block]) -> dict[Variant, Workspace]:
        """Of one micro-batch at a time: saved values lie among the buffers of the actions, from where one is made in a
        forward pass to where it is let go in a backward pass. The update has a block of its own."""
        members: list[tuple[Workspace, Variant, int]] = []
        saved: dict[Bundle, Times] = {}
        length, alive = 0, Times()
        block = len(blocks)
        blocks.append((0, ()))
        workspaces = {}
        for variant, times in self.alive.items():
            lives = self.memory.lives(variant)
            if variant[0] == FunctionPhase.UPDATE:
                workspaces[variant] = Workspace(len(blocks), lives.turning)
                blocks.append((self._fill([(workspaces[variant], variant, 0)])[0], times))
                continue
            workspaces[variant] = Workspace(block, lives.turning)
            members.append((workspaces[variant], variant, length))
            alive = union(alive, times)
            for bundle, here in _presence(self.bundles, lives).items():
                if bundle.memory == self.kind:
                    saved[bundle] = union(saved.get(bundle, ()), later(here, length))
            length += lives.length
        size, offsets = self._fill(members, saved)
        within = {name: at for bundle, at in zip(saved, offsets, strict=True) for name in bundle.names}
        for pool, times in pools.values():
            pool.block, pool.stride = block, size
            pool.within = {name: within[name] for name in pool.within}
            alive = union(alive, times)
        blocks[block] = size, alive
        return workspaces

    def _fill(
        self, members: list[tuple[Workspace, Variant, int]], saved: Mapping[Bundle, Times] = NOTHING
    ) -> tuple[int, list[int]]:
        """Packs the buffers of some actions, each so many instructions later, and saved ones with when they are there.
        The bytes of the block, and the offsets of the saved ones in it."""
        blocks: list[Block] = []
        for workspace, variant, shift in members:
            lives = self.memory.lives(variant)
            for site, f in lives.fixed.items():
                if f.memory == self.kind:
                    blocks.append((f.bytes, later(f.alive, shift)))
                    workspace.fixed[site] = len(blocks) - 1
            for key, r in lives.rings.items():
                if r.memory == self.kind:
                    workspace.rings[key] = len(blocks), aligned(r.bytes), r.count
                    blocks.append((aligned(r.bytes) * r.count, later(r.alive, shift)))
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

    def _pools(self) -> dict[PoolKey, tuple[Pool, Times]]:
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
        found: dict[PoolKey, tuple[Pool, Times]] = {}
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

    def _in_flight(self, pools: Sequence[PoolKey]) -> tuple[int, Times]:
        """The most micro-batches between (the beginning of) the first function and (the end of) the second, and when
        there are any."""
        origins = {(origin, chunk) for origin, _, chunk in pools}
        deaths = {(death, chunk) for _, death, chunk in pools}
        now = most = 0
        alive: list[tuple[int, int]] = []
        for t, (variant, skipped) in enumerate(self.timeline):
            now += skipped.calls(origins) - skipped.calls(deaths)
            now += variant[:2] in origins
            if now > 0:
                alive.append((t, t + 1))
            most = max(most, now)
            now -= variant[:2] in deaths
        return most, union(alive)


def _presence(bundles: list[Bundle], lives: Lives) -> dict[Bundle, Times]:
    """When the buffers of bundles are there in an action."""
    return {bundle: lives.alive.get(b, ((0, lives.length),)) for b, bundle in bundle_of(bundles, lives).items()}
