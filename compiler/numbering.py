"""The numbers of devices: which of them are a device group, an axis' neighbours, each other's counterparts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from math import prod

from compiler.program import Axis, Program

Runs = tuple[tuple[int, int], ...]
"""Ranks, as (first, how many in a row)."""


class Ranks:
    """A rank counts the coordinates of mesh and place axes, major to minor. The place axes alone, counted likewise,
    give the device group; they need not be the major axes, and then a group's ranks are not in a row."""

    def __init__(self, axes: Iterable[Axis]) -> None:
        self.axes = tuple(a for a in axes if a.kind != "time")
        self.sizes = {a.name: a.size for a in self.axes}
        self.strides = {a.name: prod(b.size for b in self.axes[i + 1 :]) for i, a in enumerate(self.axes)}
        self.places = tuple(a.name for a in self.axes if a.kind == "place")
        self.devices = prod(self.sizes.values())
        self.groups = prod(self.sizes[a] for a in self.places)

    @property
    def size(self) -> int:
        """Devices of a group."""
        return self.devices // self.groups

    @staticmethod
    def of(program: Program) -> Ranks:
        """Of the program's mesh."""
        return _ranks(program.axes)

    def group(self, rank: int) -> int:
        """The device group of a rank."""
        found = 0
        for axis in self.places:
            found = found * self.sizes[axis] + rank // self.strides[axis] % self.sizes[axis]
        return found

    def base(self, group: int) -> int:
        """The lowest rank of a device group."""
        found = 0
        for axis in reversed(self.places):
            group, here = divmod(group, max(self.sizes[axis], 1))
            found += here * self.strides[axis]
        return found

    @cached_property
    def bases(self) -> tuple[int, ...]:
        """The lowest ranks of all device groups, for what looks at all of them."""
        return tuple(map(self.base, range(self.groups)))

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """The device groups of all ranks, for what looks at all of them."""
        return tuple(map(self.group, range(self.devices)))

    @cached_property
    def runs(self) -> Runs:
        """The ranks of group 0; those of another are as many higher as its base."""
        starts, length = [0], 1
        for axis in reversed(self.axes):
            if axis.kind == "place":
                continue
            stride = self.strides[axis.name]
            if stride == length and len(starts) == 1:
                length *= axis.size
            else:
                starts = [i * stride + s for i in range(axis.size) for s in starts]
        return tuple((s, length) for s in starts)

    def members(self, groups: Iterable[int]) -> Runs:
        """The ranks of device groups."""
        return joined((self.base(g) + first, n) for g in groups for first, n in self.runs)

    def along(self, rank: int, axes: Iterable[str]) -> list[int]:
        """All ranks that differ from this one on the axes only, itself among them."""
        found = [rank]
        for axis in axes:
            stride, n = self.strides[axis], self.sizes[axis]
            found = [r + (i - r // stride % n) * stride for r in found for i in range(n)]
        return found

    def peer(self, rank: int, group: int) -> int:
        """The device with the same coordinates of another group."""
        return rank - self.base(self.group(rank)) + self.base(group)

    def level(self, a: int, b: int, domains: Sequence[int]) -> int:
        """The lowest level of which all devices of group a share a domain with their counterparts in group b; domains:
        how many devices one of each level has."""
        return _level(self, a, b, tuple(domains))


@lru_cache(maxsize=64)
def _ranks(axes: tuple[Axis, ...]) -> Ranks:
    return Ranks(axes)


@lru_cache(maxsize=4096)
def _level(ranks: Ranks, a: int, b: int, domains: tuple[int, ...]) -> int:
    start = ranks.base(a)
    to = ranks.base(b) - start
    for level, domain in enumerate(domains[:-1]):
        if all(
            r % domain + to in range(domain)
            for first, n in ranks.runs
            for r in range(start + first, start + first + min(n, domain))  # then all repeats
        ):
            return level
    return max(0, len(domains) - 1)


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """Runs that touch are one."""
    found: list[tuple[int, int]] = []
    for first, n in sorted(runs):
        if found and sum(found[-1]) == first:
            found[-1] = (found[-1][0], found[-1][1] + n)
        else:
            found.append((first, n))
    return tuple(found)


SHOWN = 4
"""Runs that are written out at most."""


def show_ranks(ranks: Runs) -> str:
    """`devices 128..255`, `device 3`, `devices 0..2, 4..7`, `devices 0, 2, 4 and 13 others`."""
    count = sum(n for _, n in ranks)
    shown = ranks if len(ranks) <= SHOWN else ranks[: SHOWN - 1]
    told = ", ".join(f"{first}..{first + n - 1}" if n > 1 else f"{first}" for first, n in shown)
    others = count - sum(n for _, n in shown)
    more = f" and {others:,} {'others' if others > 1 else 'other'}" if others else ""
    return f"{'devices' if count > 1 else 'device'} {told}{more}"
