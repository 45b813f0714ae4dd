"""Devices and links that are slower than the others, and the classes of devices that behave alike with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

from compiler.numbering import Ranks
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Variation:
    """devices: rank -> how many times longer its kernels take; links: level -> how many times slower its links are."""

    devices: Mapping[int, float] = field(default_factory=dict)
    links: Mapping[str, float] = field(default_factory=dict)


NOMINAL = Variation()


def colours(
    ranks: Ranks, slow: Mapping[int, float], axes: Sequence[tuple[str, ...]], groups: Sequence[Iterable[int]]
) -> list[int]:
    """A class per rank such that members of a class have peers in the same classes (an equitable partition).

    Starts from (device group, how slow) and is refined by what stands along each of `axes`, and in each group that the
    own one talks with (`groups[own]`), until nothing changes. Then members of a class finish at the same instant: by
    induction over the dependency graph, since times are maxima over sets of classes (tests/cost/time/test_every_rank.py
    plays all ranks). Source: B. McKay, "Practical graph isomorphism", 1981.
    """
    of, bases = ranks.group_of, ranks.bases
    now = _numbered([(of[r], slow.get(r, 1.0)) for r in range(ranks.devices)])
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
            keys[r] = (*keys[r], *(now[r - bases[of[r]] + bases[g]] for g in groups[of[r]]))
        now = _numbered(keys)
    return now


def _numbered(keys: Sequence[object]) -> list[int]:
    numbers: dict[object, int] = {}
    return [numbers.setdefault(k, len(numbers)) for k in keys]


class Classes:
    """The classes of each device group, in the order of their first ranks: `of[group]`, `first[class]`."""

    def __init__(self, ranks: Ranks, partition: Sequence[int]) -> None:
        self.ranks, self.partition = ranks, partition
        self.first: dict[int, int] = {}
        self.of: list[list[int]] = [[] for _ in range(ranks.groups)]
        for rank, colour in enumerate(partition):
            if colour not in self.first:
                self.first[colour] = rank
                self.of[ranks.group(rank)].append(colour)
        self.place = {c: i for found in self.of for i, c in enumerate(found)}
        self._peers: dict[tuple[int, int], tuple[int, ...]] = {}

    def peers(self, group: int, other: int) -> tuple[int, ...]:
        """Per class of a group, the class of another (as an index) that has its coordinates."""
        found = self._peers.get((group, other))
        if found is None:
            peers = (self.ranks.peer(self.first[c], other) for c in self.of[group])
            found = self._peers[group, other] = tuple(self.place[self.partition[r]] for r in peers)
        return found

    def along(self, group: int, axes: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Per class of a group, the classes that a collective over these axes brings together."""
        found = []
        for c in self.of[group]:
            members = {self.place[self.partition[r]] for r in self.ranks.along(self.first[c], axes)}
            found.append(tuple(sorted(members)))
        return tuple(found)
