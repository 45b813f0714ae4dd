"""How weights lie on devices: axes whose devices have the same of a weight add up its gradients and gather it; other
axes split it, as far as bounds believe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from math import prod

from dsl.data import dataclass
from parc.planning.space import DATA, EXPERTS, INNER, POSITIONS, STAGES, AxisRole, MeshChoice, PlanChoice, PlanRules


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Trained weights alike. elements: that have gradients as large as they are (0 of tables, whose gradients are lists
    of rows); stored, moments: bytes of the weights as the optimizer has them, and of its states.

    own: sizes of their dims but for loops', and whether inner axes or those of experts may split them; loop: which of
    the loops at the top they are in, from 1 on, or 0; again: in one, and read by the backward pass, too. experts,
    positions, heads: whether they have dims that are such; tables: whether rows of them are taken, and gradients may be
    lists.
    """

    elements: int
    stored: int
    moments: int
    own: tuple[tuple[int, bool], ...]
    loop: int
    again: bool
    experts: bool
    positions: bool
    heads: bool
    tables: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """What the way of weights hangs on. axes: that split data: kind, devices, from one to the next; inner: devices of
    inner axes; heads: axes of positions split heads inside, and perhaps what they are made with; rows: the axis of data
    splits rows of tables."""

    stages: int
    axes: tuple[tuple[str, int, int], ...]
    inner: int = 1
    heads: bool = False
    rows: bool = False

    @property
    def data(self) -> int:
        """Replicas: devices along the axis of data."""
        return prod(n for kind, n, _ in self.axes if kind == DATA)

    @property
    def updates(self) -> int:
        """How often all weights are updated at least, if nothing is sharded: by each replica, or in pieces where these
        share tables."""
        return 1 if self.rows else self.data

    def whole(self, of: WeightGroup) -> tuple[tuple[int, int], ...]:
        """The axes whose devices all have the same of such weights, where nothing is sharded."""
        if of.tables:
            return ()
        pieces = {EXPERTS: of.experts, POSITIONS: of.positions or (self.heads and of.heads)}
        return tuple((n, stride) for kind, n, stride in self.axes if not pieces.get(kind))

    def shards(self, of: WeightGroup, devices: int) -> bool:
        """Whether such weights can surely be stored in as many pieces as there are devices to a stage."""
        each = devices // self.stages
        return any(size % (each if taken else each // self.inner) == 0 for size, taken in of.own)


def spread_of(of: PlanChoice) -> Spread:
    """Of a candidate."""
    return _spread(of.mesh.axes, of.rules.first, of.rules.heads, bool(of.rules.rows))


@lru_cache(4096)
def _spread(axes: tuple[tuple[AxisRole, int], ...], first: str, heads: bool, rows: bool) -> Spread:
    mesh, found, stride = MeshChoice(axes, 1), [], 1
    for role, size in reversed(PlanChoice(mesh, PlanRules(first)).axes):
        if role.kind in (DATA, EXPERTS, POSITIONS):
            found.append((role.kind, size, stride))
        stride *= size
    return Spread(mesh.size(STAGES), tuple(found), mesh.size(INNER), heads, rows)


def sparsest(mesh: MeshChoice) -> Spread:
    """Of all candidates of a mesh that whose devices have least of the weights; for bytes, where no order counts."""
    axes = tuple((role.kind, n, 1) for role, n in mesh.axes if role.kind in (DATA, EXPERTS, POSITIONS))
    return Spread(mesh.size(STAGES), axes, mesh.size(INNER), True)


@lru_cache(4096)
def over_links(axes: tuple[tuple[int, int], ...], domains: tuple[int, ...]) -> tuple[float, ...]:
    """Of a byte that all devices along these axes (their number, from one to the next) have, and that is reduced to (or
    gathered from) as many pieces: how much a device sends over its link of each level at least, in whatever order the
    axes come, or all at once."""
    counts = [spans(n, stride, domains) for n, stride in axes]
    at_once = [prod(of) for of in zip(*counts, strict=True)] if counts else [1] * len(domains)
    ways = [_sent([at_once], len(domains))]
    ways += [_sent(order, len(domains)) for order in permutations(counts)] if len(counts) > 1 else []
    return tuple(min(of) for of in zip(*ways, strict=True))


def _sent(order: Sequence[Sequence[int]], levels: int) -> list[float]:
    found, left = [0.0] * levels, 1.0
    for counts in order:
        for level, count in enumerate(counts):
            found[level] += left * (count - 1) / count
            left /= count
    return found


def spans(members: int, stride: int, domains: Sequence[int]) -> list[int]:
    """How many of neighbours so far apart share a domain of level 0, how many such domains one of level 1, …"""
    found, below = [], 1
    for domain in domains:
        inside = min(members, max(1, -(-domain // stride))) if stride < domain else 1
        found.append(max(1, -(-inside // below)))
        below = max(inside, 1)
    if members > below:
        found[-1] *= -(-members // below)
    return found
