"""All candidates of a space that have room for what is there all the time, in groups whose layers are of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import inf

from parc.planning.bounds import SURE, LowerBounds
from parc.planning.guess import Kin, SplitLayer, kin
from parc.planning.layer_work import LayerWork
from parc.planning.layers import Layers
from parc.planning.offloads import Away
from parc.planning.opened import OpenBunch
from parc.planning.space import STAGES, ZERO, MeshChoice, PlanChoice, PlanRules, PlanSpace
from parc.planning.spread import Spread


class SpaceGroups:
    """They are found at once. numbers: candidates that are none; too_large: those that have no room; count: all others.
    has_room: whether a mesh's states have, by stage of ZeRO."""

    def __init__(self, space: PlanSpace, layers: Layers, has_room: Callable[[MeshChoice, int, Away], bool]) -> None:
        legal = self.too_large = 0
        self.groups: dict[Kin, list[OpenBunch]] = {}
        of_axes: dict[object, list[tuple[PlanRules, SplitLayer, int, int, int]]] = {}
        for mesh in space.meshes():
            if mesh.axes not in of_axes:
                fits = {away: [z for z in ZERO if has_room(mesh, z, away)] for away in space.offloads}
                of_axes[mesh.axes] = found = []
                for rules, ways in space.bunches(mesh):
                    zero = [z for z in ways.zero if z in fits[rules.offload]]
                    each = len(ways.first) * len(ways.schedules)
                    layer = kin(space, mesh, rules).layer
                    many = layers.many(layer)
                    found.append((rules, layer, many, zero[-1] if zero else -1, each * len(zero)))
                    found.append((rules, layer, many, -1, each * (len(ways.zero) - len(zero))))
            own = kin(space, mesh, PlanRules()).rows  # whatever the rules
            for rules, layer, many, most, count in of_axes[mesh.axes]:
                legal += count
                if most < 0:
                    self.too_large += count
                    continue
                rows = many if many % own == 0 and layers.scaled(Kin(layer, own)) else own
                self.groups.setdefault(Kin(layer, rows), []).append(OpenBunch(mesh, rules, most, count))
        self.numbers, self.count = space.total - legal, legal - self.too_large

    def left(self, taken: Collection[PlanChoice]) -> Iterator[tuple[Kin, tuple[OpenBunch, ...]]]:
        """All but those that were taken, which are of these."""
        less = Counter((of.mesh, of.bunched) for of in taken)
        for of, every in self.groups.items():
            counted = [(b, less.get((b.mesh, b.rules), 0)) for b in every]
            if bunches := tuple(replace(b, count=b.count - n) if n else b for b, n in counted if b.count > n):
                yield of, bunches


def leaves(
    space: PlanSpace, bunch: OpenBunch, has_room: Callable[[MeshChoice, int, Away], bool]
) -> Iterator[PlanChoice]:
    """The candidates of a bunch."""
    ways = space.ways(bunch.mesh)
    zero = tuple([z for z in ways.zero if has_room(bunch.mesh, z, bunch.rules.offload)])
    return (PlanChoice(bunch.mesh, rules) for rules in _every(bunch.rules, ways.first, zero, ways.schedules))


@lru_cache(4096)
def _every(
    rules: PlanRules, firsts: tuple[str, ...], zeros: tuple[int, ...], schedules: tuple[tuple[str, int], ...]
) -> tuple[PlanRules, ...]:
    """The rules of all candidates that have these in common."""
    ways = product(zeros, firsts, schedules)
    return tuple([replace(rules, first=f, zero=z, schedule=name, chunks=n) for z, f, (name, n) in ways])


def bunch_bound(
    space: PlanSpace, bounds: LowerBounds, bunch: OpenBunch, layer: LayerWork | None, of_steps: bool
) -> float:
    """A lower bound of all candidates of a bunch, in seconds of a step or bytes; infinite if none fits."""
    if layer is None:
        return 0.0
    mesh = bunch.mesh
    ways = _every(bunch.rules, (bunch.rules.first,), (bunch.zero,), space.ways(mesh).schedules)
    sizes = {rules: bounds.bytes(PlanChoice(mesh, rules), layer) for rules in ways}
    fitting = [rules for rules in ways if sizes[rules] <= bounds.cluster.memory]
    if not of_steps:
        return min((sizes[rules] for rules in fitting), default=inf)
    p, m = mesh.size(STAGES), mesh.microbatches
    again = bounds.which(bunch.rules.recompute, bunch.rules.by)
    through, alone = bounds.through(p, m, again, layer), Spread(p, ())
    rows = (bounds.row(alone, m, 3, again, r.schedule, r.chunks, layer, through) for r in fitting)
    return min(rows, default=inf) * SURE
