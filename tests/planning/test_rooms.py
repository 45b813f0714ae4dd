"""What comes and goes in loops counts in bounds of memory: no more than any strategy has, and as certificates say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from compiler.cost.memory.iterations import IterationMemory
from compiler.cost.memory.systems import Systems
from compiler.model import Job
from compiler.program import FunctionKey, FunctionPhase
from dsl.diagnostics import ParcError
from parc.certifying.by_hand import WrittenByHand
from parc.certifying.links import lie_of
from parc.certifying.paces import PacedKey
from parc.certifying.rooms import Room, room_of, stated_rooms, with_room
from parc.certifying.stated import StatedPart, Unfounded
from parc.certifying.strategies import strategy_of as written
from parc.planning.certificate import certificate
from parc.planning.found import Counts, Found
from parc.planning.guess import kin
from parc.planning.layers import Layers
from parc.planning.opened import StillOpen
from parc.planning.paces import Paces
from parc.planning.planning import Planned
from parc.planning.pricing import StrategyPricer
from parc.planning.rooms import Rooms
from parc.planning.search import STEP
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, some, space_of
from tests.planning.models import job_of, text_of
from tests.planning.test_agreement import BothSides, rules_of

SIZES: dict[str, float] = {"inside": 2, "outside": 4, "batch": 8, "layers": 5, "inner": 1, "outer": 0.05}
MORE: dict[str, float] = {"inside": 4, "outside": 2, "hidden": 96, "layers": 4, "flops": 0.1, "batch": 12}
PHASES = FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS


@pytest.mark.parametrize(
    ("sizes", "number", "seed"),
    [(SIZES, 1, 3), *(pytest.param(of, 20, n, marks=pytest.mark.nightly) for of in (SIZES, MORE) for n in range(3))],
)
def test_what_comes_and_goes_is_there_in_each_strategy(sizes: dict[str, float], number: int, seed: int) -> None:
    """In a first iteration of each stage's own loop as in that of the one that was looked at; so bounds are below what
    is needed, and closer than without."""
    job = job_of("transformer", **sizes)
    space, bounds = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    layers = Layers(space, pricer)
    rooms, seen, before, after = Rooms(Paces(layers)), Counter[str](), 0.0, 0.0
    for of in (of for of in some(space, space.total, seed) if of.rules.zero > 1):
        if seen[of.rules.schedule] == number:
            continue
        try:
            needed = pricer.needed(strategy_of(space, of))
        except ParcError:
            continue
        assert pricer.last is not None and pricer.simulation is not None
        systems, mine = Systems(pricer.last, pricer.simulation.features), kin(space, of.mesh, of.rules)
        layers.look(mine.layer, mine.rows)
        layer, room = layers.best(mine), rooms.look(of, mine)
        assert room is not None and room.backward
        least = {FunctionPhase.BACKWARD: room.backward, FunctionPhase.WEIGHTS: room.weights}
        for cls in pricer.last.program.classes:
            memory = IterationMemory(systems, cls, [label for label, _ in space.split.loops])
            chunks = [f.chunk for f in cls.functions if f.phase is FunctionPhase.FORWARD]
            keys: list[FunctionKey] = [(phase, n) for n in chunks for phase in (FunctionPhase.FORWARD, *PHASES)]
            for key in (key for key in keys if key in memory.functions):
                replayed = memory.replayed(key)
                assert key[0] not in least or (replayed.made >= least[key[0]] and not replayed.lost), (of, key)
        bound = bounds.bytes(of, layer, room)
        assert bound <= needed, of
        before, after = before + bounds.bytes(of, layer) / needed, after + bound / needed
        seen[of.rules.schedule] += 1
    assert seen.keys() == {"", "gpipe", "one_f_one_b", "interleaved", "zero_bubble"} and after > 1.2 * before


class BothRooms:
    """Rooms of some strategies of a small job, as a search and who holds its certificate have them."""

    def __init__(self) -> None:
        self.sides = sides = BothSides(text_of("transformer", **{**SIZES, "outside": 2, "layers": 4, "batch": 4}))
        self.space, self.search, self.job = sides.space, sides.search, sides.search.pricer.job
        wanted = {"zero_bubble": [2, 3], "interleaved": [3], "gpipe": [2]}
        every = [of for of in candidates(self.space) if of.rules.zero in wanted.get(of.rules.schedule, [])]
        self.some = [next(of for of in every if of.rules.schedule == name) for name in wanted] + every[-2:]
        self.rooms = {of: self.search.rooms.look(of, kin(self.space, of.mesh, of.rules)) for of in self.some}
        found = Found((), (), Counts(), None, 0.0, rooms=self.search.rooms.known)
        planned = Planned(self.job, self.space, sides.bounds, found, STEP)
        self.certificate: dict[str, Any] = json.loads(json.dumps(certificate(planned, 1)))

    def theirs(self, rows: list[Any]) -> dict[PacedKey, Room]:
        """What is found of these entries."""
        stated = StatedPart({**self.certificate, "rooms": rows})
        by_hand = WrittenByHand(self.job, self.sides.stated)

        def build(mesh: Mapping[str, int], m: int, rules: Mapping[str, Any]) -> Job:
            return by_hand.job_of(written(mesh, m, rules, self.sides.stated, stated, by_hand), rules["by"])

        return stated_rooms(stated, self.sides.stated, build)


@pytest.fixture(scope="module")
def both() -> BothRooms:
    return BothRooms()


def test_the_other_side_finds_the_same(both: BothRooms) -> None:
    """Of each strategy; and bounds that are made of it leave out no less."""
    rows = both.certificate["rooms"]
    theirs, sides = both.theirs(rows), both.sides
    assert len(theirs) == len(rows) >= 3 and {row["split"] for row in rows} == {True, False}
    for of, room in both.rooms.items():
        mesh, m, rules = {role.name: n for role, n in of.mesh.axes}, of.mesh.microbatches, of.rules
        mine = kin(both.space, of.mesh, rules)
        known = (theirs, sides.stated, mesh, m, rules.zero, rules.recompute, rules.schedule, rules_of(mine.layer))
        found = room_of(*known)
        assert room is not None and found is not None and {**asdict(room)} == pytest.approx({**found})
        both.search.layers.look(mine.layer, mine.rows)
        layer = both.search.layers.best(mine)
        assert layer is not None
        lie = lie_of(sides.stated, mesh, "", rules.heads)
        size = with_room(sides.floors, found, lie, m, rules.zero, (rules.schedule, rules.chunks), layer.saved)
        assert sides.bounds.bytes(of, layer) < sides.bounds.bytes(of, layer, room) <= size * (1 + 1e-8), of


@pytest.mark.parametrize("name", ["backward", "weights", "shards", "between", "stacks", "zero", "replicas", "more"])
def test_no_number_can_be_another(both: BothRooms, name: str) -> None:
    row = next(row for row in both.certificate["rooms"] if row["split"])
    changed = {**row, name: 4 if name == "zero" else row.get(name, 0) + 1}
    with pytest.raises(Unfounded) as raised:
        both.theirs([changed])
    assert raised.value.code == "E1104"


def test_what_has_no_room_for_it_is_not_priced(both: BothRooms) -> None:
    """Where all that a device keeps would fit."""
    search, of = both.search, both.some[0]
    mine = kin(both.space, of.mesh, of.rules)
    search.layers.look(mine.layer, mine.rows)
    room, layer = both.rooms[of], search.layers.best(mine)
    least, most = (search.bounds.bytes(of, layer, known) for known in (None, room))
    search.bounds = replace(search.bounds, cluster=replace(search.bounds.cluster, memory=int(least + most) // 2))
    search.best, search.likely, search.later = 1e9, [], []
    search._pace(StillOpen(mine, 0.0, of, 1.0), of)
    assert search.next() is None and search.counts.not_better == 1
