"""What holds of the positions at which a value is not a constant: differences of positions, each with a bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Facts = Mapping[tuple[str, str], int] | None
"""(a, b) -> c: the position in `a` minus the position in `b` is at most c. None: there are no such positions."""

EVERYWHERE: Facts = {}


def both(left: Facts, right: Facts) -> Facts:
    """Where both hold."""
    if left is None or right is None:
        return None
    found = dict(left)
    for pair, c in right.items():
        found[pair] = min(c, found.get(pair, c))
    return found


def either(left: Facts, right: Facts) -> Facts:
    """What holds where one of them does."""
    if left is None or right is None:
        return right if left is None else left
    return {pair: max(c, right[pair]) for pair, c in left.items() if pair in right}


def without(facts: Facts, dims: Iterable[str]) -> Facts:
    """What follows for the other dims: a - b <= c and b - d <= e give a - d <= c + e."""
    if not facts:
        return facts
    found = dict(facts)
    gone = set(dims)
    for via in gone:
        for (a, b), c in list(found.items()):
            if b != via or a == via:
                continue
            for (b2, d), e in list(found.items()):
                if b2 == via and d not in (via, a):
                    found[a, d] = min(c + e, found.get((a, d), c + e))
    return {pair: c for pair, c in found.items() if gone.isdisjoint(pair)}


def renamed(facts: Facts, names: Mapping[str, str]) -> Facts:
    """The same of dims that are called otherwise."""
    if not facts:
        return facts
    return {(names.get(a, a), names.get(b, b)): c for (a, b), c in facts.items()}


def within(facts: Facts, dims: Iterable[str], gone: Iterable[str] = ()) -> frozenset[str]:
    """Dims whose latest position bounds that of all of `dims`, where the facts hold: none of `gone`, if that can be."""
    found = set(dims)
    before = [pair for pair, c in (facts or {}).items() if c <= 0 and pair[0] != pair[1]]
    gone = set(gone)
    for d in sorted(found, key=lambda d: (d not in gone, d)):
        later = [b for a, b in before if a == d and b not in gone]
        alike = d not in gone and found.isdisjoint(later)
        keep = [b for b in later if not alike or (b, d) not in before]
        if keep:
            found.discard(d)
            found.add(next((b for b in keep if b in found), keep[0]))
    return frozenset(found)
