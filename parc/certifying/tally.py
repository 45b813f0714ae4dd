"""All candidates of a stated space, gone through one mesh after the other: how many there are, and of which bound."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from dsl.data import dataclass
from parc.certifying.counting import StatedSpace, divisors_of
from parc.certifying.floors import Floors
from parc.certifying.halves import HeldHalves
from parc.certifying.layers import LayerRules, LayerTable
from parc.certifying.links import Lie, lie_of
from parc.certifying.paces import PacedKey, Turns, pace_of
from parc.certifying.rooms import Room, room_of, with_room

ROUNDED = 1 + 1e-9
"""Sums of floats hang on their order: a bound that reaches the limit but for that is one."""


NOTHING: tuple[Mapping[str, float], ...] = ({"saved": 0.0},)
"""That is known of layers."""


@dataclass(slots=True)
class SpaceTally:
    """Numbers of candidates. too_large: by what is there all the time; left: that may be better than a limit, and were
    not tried; least: the lowest bound of these."""

    total: int = 0
    legal: int = 0
    too_large: int = 0
    left: int = 0
    least: float | None = None


@dataclass(frozen=True, slots=True)
class Tallied:
    """What a count goes by. limit: what the best takes; tried: the candidates that were priced (`candidate`)."""

    space: StatedSpace
    floors: Floors
    layers: LayerTable
    paces: Mapping[PacedKey, Turns]
    rooms: Mapping[PacedKey, Room]
    halves: HeldHalves
    minimise: str
    limit: float
    tried: Collection[Any]

    def count(self) -> SpaceTally:
        """Go through all."""
        found = SpaceTally()
        for key, bound in self.below(found):
            if key not in self.tried:
                found.left += 1
                found.least = bound if found.least is None else min(found.least, bound)
        return found

    def below(self, found: SpaceTally) -> Iterator[tuple[Any, float]]:
        """The candidates whose bounds are below the limit, with these. found: counts all that there are."""
        space = self.space
        batches = divisors_of(space.batch)
        for mesh in space.meshes():
            every, can = space.choices(mesh)
            found.total += prod(map(len, every.values())) * len(batches)
            for m in batches:
                if space.can_be(mesh, m):
                    found.legal += prod(map(len, can.values()))
                    yield from self._bounded(mesh, m, can, found)

    def _bounded(
        self, mesh: Mapping[str, int], m: int, can: Mapping[str, Sequence[Any]], found: SpaceTally
    ) -> Iterator[tuple[Any, float]]:
        space, floors = self.space, self.floors
        least = lie_of(space, mesh, "", True)
        memory = floors.cluster["memory"]
        every = prod(len(can[k]) for k in can if k not in ("zero", "offload"))
        for away in can["offload"]:
            fitting = [zero for zero in can["zero"] if floors.bytes(least, zero, (), away) <= memory]
            found.too_large += every * (len(can["zero"]) - len(fitting))
            if fitting:
                yield from self._of_offload(mesh, m, can, fitting, away)

    def _of_offload(
        self,
        mesh: Mapping[str, int],
        m: int,
        can: Mapping[str, Sequence[Any]],
        fitting: Sequence[int],
        away: tuple[str, ...],
    ) -> Iterator[tuple[Any, float]]:
        """With so much resting with the hosts; fitting: stages of ZeRO."""
        space, floors = self.space, self.floors
        for again, along, (heads, by), tables in product(can["recompute"], can["along"], can["inside"], can["rows"]):
            rules = along, heads, tables, by
            layers, alike = self.layers.numbers(mesh, m, again, rules), lie_of(space, mesh, "", heads)
            sums = {zero: floors.adding(alike, m, zero, away) for zero in fitting}
            known = {zero: [{**w, "added": sums[zero]} for w in layers] for zero in fitting}
            work = again + by * len(space.recomputes)  # where its numbers stand
            if self.minimise == "step":
                known = {z: of for z, of in known.items() if all(self._all(mesh, m, w) < self.limit for w in of)}
            lies = {first: lie_of(space, mesh, first, heads, not tables) for first in can["first"]}
            for (first, lie), zero, schedule in product(lies.items(), known, can["schedule"]):
                bound = self._bound(lie, m, zero, work, schedule, known[zero], away)
                if bound * ROUNDED < self.limit and zero > 1 and self.minimise == "step":
                    pace = self._pace(mesh, m, first, zero, again, schedule, rules)
                    for layer in known[zero] if pace is not None else ():
                        bound = max(bound, floors.row(lie, m, zero, work, schedule[0], schedule[1], layer, pace))
                    if not away and (room := self._room(mesh, m, zero, again, schedule, rules)) is not None:
                        sizes = (with_room(floors, room, lie, m, zero, schedule, w["saved"]) for w in known[zero])
                        bound = float("inf") if max(sizes, default=0.0) > floors.cluster["memory"] else bound
                if bound * ROUNDED < self.limit and zero < 2 and schedule[0] == "zero_bubble" and not away:
                    kind = (mesh, lie, m, zero, again, rules)
                    most = max(self.halves.bytes(*kind, w["saved"]) for w in known[zero] or NOTHING)
                    bound = float("inf") if most > floors.cluster["memory"] else bound
                if bound * ROUNDED >= self.limit:
                    continue
                yield candidate(mesh, m, first, zero, again, schedule, *rules, away), bound

    def _pace(
        self,
        mesh: Mapping[str, int],
        m: int,
        first: str,
        zero: int,
        again: int,
        schedule: tuple[str, int],
        rules: LayerRules,
    ) -> tuple[float, float, float] | None:
        name, chunks = schedule
        sizes = {n for n in self.floors.counts(self.space.of_kind(mesh, "stages") * chunks) if n}
        return pace_of(self.paces, self.space, mesh, m, first, zero, again, name, rules, sizes)

    def _room(
        self, mesh: Mapping[str, int], m: int, zero: int, again: int, schedule: tuple[str, int], rules: LayerRules
    ) -> Room | None:
        """Of a candidate's loop, if it is known."""
        return room_of(self.rooms, self.space, mesh, m, zero, again, schedule[0], rules)

    def _all(self, mesh: Mapping[str, int], m: int, layer: Mapping[str, float]) -> float:
        """Whatever else is chosen: each stage has its share of the layers of each micro-batch."""
        both = layer["forward"] + layer["backward"] + layer["added"]
        return both * m / self.space.of_kind(mesh, "stages") + float(self.floors.model["fixed"])

    def _bound(
        self,
        lie: Lie,
        m: int,
        zero: int,
        again: int,
        schedule: tuple[str, int],
        known: Sequence[Mapping[str, float]],
        away: tuple[str, ...],
    ) -> float:
        """The highest that is known; infinite for what does not fit."""
        floors, (name, chunks), p = self.floors, schedule, lie.stages
        sizes = [floors.bytes(lie, zero, (), away)]
        if "activations" not in away:
            sizes += [floors.held(lie, m, zero, name, chunks, layer, away) for layer in known]
        if max(sizes) > floors.cluster["memory"]:
            return float("inf")
        if self.minimise != "step":
            return float(max(sizes))
        bounds = [floors.seconds(lie, m, zero, again, name), floors.moved(lie, zero, away)]
        for layer in known:
            bounds.append(floors.seconds(lie, m, zero, again, name, floors.together(p, m, again, layer)))
            bounds.append(floors.row(lie, m, zero, again, name, chunks, layer))
        return float(max(bounds))


def candidate(
    mesh: Mapping[str, int],
    m: int,
    first: str,
    zero: int,
    again: int,
    schedule: tuple[str, int],
    along: str,
    heads: bool,
    tables: tuple[str, ...],
    by: int,
    away: tuple[str, ...],
) -> Any:
    """What tells a candidate from all others."""
    return frozenset(mesh.items()), m, first, zero, again, schedule, along, heads, tables, by, away
