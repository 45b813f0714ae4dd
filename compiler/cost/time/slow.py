"""Devices and links that are slower than the others, and the classes of devices that behave alike with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.numbering import Ranks


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
