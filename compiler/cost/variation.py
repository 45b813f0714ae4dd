"""Devices and links that are slower than the others, and the classes of devices that behave alike with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Variation:
    """devices: rank -> how many times longer its kernels take; links: level -> how many times slower its links are."""

    devices: Mapping[int, float] = field(default_factory=dict)
    links: Mapping[str, float] = field(default_factory=dict)


NOMINAL = Variation()


class Ranks:
    """Which devices are together: rank = group * size + position in the group's mesh (axes major to minor)."""

    def __init__(self, devices: int, size: int, strides: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        self.devices, self.size = devices, size
        self.strides, self.sizes = strides, sizes

    def along(self, rank: int, axes: Iterable[str]) -> list[int]:
        """All ranks that differ from this one on the axes only, itself among them."""
        found = [rank]
        for axis in axes:
            stride, n = self.strides[axis], self.sizes[axis]
            found = [r + (i - r // stride % n) * stride for r in found for i in range(n)]
        return found

    def peer(self, rank: int, group: int) -> int:
        """The device with the same coordinates of another group."""
        return group * self.size + rank % self.size


def colours(
    ranks: Ranks, slow: Mapping[int, float], axes: Sequence[tuple[str, ...]], groups: Sequence[Iterable[int]]
) -> list[int]:
    """A class per rank such that members of a class have peers in the same classes (an equitable partition).

    Starts from (device group, how slow) and is refined by what stands along each of `axes`, and in each group that the
    own one talks with (`groups[own]`), until nothing changes. Then members of a class finish at the same instant: by
    induction over the dependency graph, since times are maxima over sets of classes. Source: shared/costs.md.
    """
    now = _numbered([(r // ranks.size, slow.get(r, 1.0)) for r in range(ranks.devices)])
    count = -1
    while count != max(now):
        count = max(now)
        keys: list[tuple[object, ...]] = [(c,) for c in now]
        for group_axes in axes:
            done: set[int] = set()
            for r in range(ranks.devices):
                if r in done:
                    continue
                members = ranks.along(r, group_axes)
                done.update(members)
                seen = frozenset(now[m] for m in members)
                for m in members:
                    keys[m] = (*keys[m], seen)
        for r in range(ranks.devices):
            keys[r] = (*keys[r], *(now[ranks.peer(r, g)] for g in groups[r // ranks.size]))
        now = _numbered(keys)
    return now


def _numbered(keys: Sequence[object]) -> list[int]:
    numbers: dict[object, int] = {}
    return [numbers.setdefault(k, len(numbers)) for k in keys]
