"""Rules found by their scopes are those that going through all of them finds."""

from __future__ import annotations

from random import Random

from compiler.origin import within
from compiler.passes.place.rules import ByScope

SCOPES = (None, "a", "b", "a.b", "a[0..1]", "a[0..1].m", "a[0", "a.b.c")
PATHS = ("a", "a.b", "a.b.c", "a.bc", "a[0..1].m.w", "a[0..1]", "a[0..2].m", "ab", "b.x", "")


def test_in_their_order() -> None:
    rng = Random(0)
    for _ in range(200):
        rules = [(rng.choice(SCOPES), i) for i in range(rng.randrange(9))]
        found = ByScope(rules)
        for path in PATHS:
            assert found.around(path) == [(i, r) for i, (s, r) in enumerate(rules) if within(path, s)]
