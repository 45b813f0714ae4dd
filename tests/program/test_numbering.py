"""Ranks of device groups, wherever the place axes stand in the mesh."""

from __future__ import annotations

from itertools import product

import pytest

from compiler.layout import TIME
from compiler.numbering import Ranks, joined, show_ranks
from compiler.program import Axis

MESHES = ["pp2! dp3 tp2", "dp3 pp2! tp2", "dp3 tp2 pp2!", "pp2! dp3 place3! tp2", "dp2 pp4! tp2 place2!", "dp4", "pp4!"]


def axes(text: str) -> list[Axis]:
    found = []
    for word in text.split():
        name = word.rstrip("!0123456789")
        found.append(Axis(name, int(word.rstrip("!")[len(name) :]), "place" if word.endswith("!") else "mesh"))
    return [Axis(TIME, 4, "time"), *found]


@pytest.mark.parametrize("text", MESHES)
def test_numbers_count_coordinates(text: str) -> None:
    mesh = axes(text)[1:]
    ranks = Ranks(axes(text))
    everyone = list(product(*(range(a.size) for a in mesh)))  # major to minor
    assert ranks.devices == len(everyone)
    places = [i for i, a in enumerate(mesh) if a.kind == "place"]
    groups = list(product(*(range(mesh[i].size) for i in places)))
    assert ranks.groups == len(groups)
    for rank, at in enumerate(everyone):
        group = groups.index(tuple(at[i] for i in places))
        assert ranks.group(rank) == group
        for other, coordinates in enumerate(groups):
            peer = list(at)
            for i, c in zip(places, coordinates, strict=True):
                peer[i] = c
            assert ranks.peer(rank, other) == everyone.index(tuple(peer))
        for i, axis in enumerate(mesh):
            line = {r for r, b in enumerate(everyone) if at[:i] + at[i + 1 :] == b[:i] + b[i + 1 :]}
            assert set(ranks.along(rank, [axis.name])) == line
    for g in range(ranks.groups):
        members = [r for first, n in ranks.members([g]) for r in range(first, first + n)]
        assert members == [r for r in range(ranks.devices) if ranks.group(r) == g] and members[0] == ranks.base(g)


@pytest.mark.parametrize("text", MESHES)
@pytest.mark.parametrize("domains", [(2, 24), (3, 6, 24), (4, 8, 24), (5, 25)])
def test_counterparts_talk_over_the_level_that_all_of_them_share(text: str, domains: tuple[int, ...]) -> None:
    ranks = Ranks(axes(text))
    for a, b in product(range(ranks.groups), repeat=2):
        pairs = [(r, ranks.peer(r, b)) for r in range(ranks.devices) if ranks.group(r) == a]
        levels = [i for i, d in enumerate(domains) if all(x // d == y // d for x, y in pairs)]
        assert ranks.level(a, b, domains) == (levels[0] if levels else len(domains) - 1)


def test_runs_are_joined_and_told() -> None:
    assert joined([(4, 2), (0, 3), (3, 1), (8, 1)]) == ((0, 6), (8, 1))
    assert show_ranks(((128, 128),)) == "devices 128..255" and show_ranks(((3, 1),)) == "device 3"
    assert show_ranks(((0, 3), (4, 4))) == "devices 0..2, 4..7"
    assert show_ranks(tuple((2 * i, 1) for i in range(16))) == "devices 0, 2, 4 and 13 others"
