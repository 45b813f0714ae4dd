"""Which candidate is worth a price next: guesses from what is known of those like it. Nothing is left out for them."""

from __future__ import annotations

from math import log2, prod

from dsl.data import dataclass
from parc.planning.bounds import LowerBounds
from parc.planning.layer_work import LayerWork
from parc.planning.space import DATA, EXPERTS, STAGES, MeshChoice, PlanChoice, PlanRules, PlanSpace


@dataclass(frozen=True, slots=True)
class SplitLayer:
    """All but the rows that the work of layers hangs on: axes that split them, and rules. tables: dims of rows of
    tables that the axis of data splits."""

    inside: tuple[tuple[str, int], ...]
    recompute: int
    along: str
    heads: bool
    tables: tuple[str, ...]
    by: int = 0

    @property
    def devices(self) -> int:
        """That share a layer."""
        return prod(n for _, n in self.inside)


@dataclass(frozen=True, slots=True)
class Kin:
    """What the time of a micro-batch's passes hangs on: how layers are split, and rows of the batch that a device has
    of it. Candidates that are alike in it differ in stages, replicas, ZeRO and the schedule."""

    layer: SplitLayer
    rows: int


def kin(space: PlanSpace, mesh: MeshChoice, rules: PlanRules) -> Kin:
    """Of a mesh and rules."""
    inside = tuple((role.name, n) for role, n in mesh.axes if role.kind not in (STAGES, DATA))
    pieces = mesh.size(DATA) * mesh.size(EXPERTS) * mesh.microbatches
    layer = SplitLayer(inside, rules.recompute, rules.along, rules.heads, rules.rows, rules.by)
    return Kin(layer, space.batch // pieces)


CLOSE = 1.05
"""By as much a price may be above the closest bound: for guesses."""

SENT = 0.0025
"""By as much more for each chunk besides the first: for guesses, that not all are tried from the most on.
Of 0, 0.0025 and 0.005 the best on one job, GPT-3 on 1,024 devices; nothing is left out for it."""

ROOM = 1.03
"""By as much candidates need more than what is known of their layers says, at least: 1.037 to 2.7 times of 21 that
were priced for GPT-3 on 1,024 devices; what turns out not to fit costs a price, what is put off may be the best."""


class Guess:
    """What was learned of candidates so far."""

    def __init__(self, bounds: LowerBounds, batch: int) -> None:
        self.bounds, self.batch = bounds, batch
        self.factors: dict[Kin, float] = {}
        self.shapes: dict[tuple[tuple[str, int], ...], float] = {}
        self.sizes: dict[object, float] = {}
        self.rooms: dict[tuple[Kin, str], float] = {}

    def factor(self, of: Kin) -> float:
        """By how much the time is above its bound."""
        known = self.factors.get(of) or self.shapes.get(of.layer.inside)
        if known is None:
            outside = max(1.0, of.layer.devices / self.bounds.cluster.domains[0])
            known = 1.2 + 0.05 * log2(of.layer.devices) + (2.0 * log2(outside) if outside > 1 else 0.0)
        return known

    def seconds(self, leaf: PlanChoice, bound: float) -> float:
        """Of a candidate: a micro-batch goes through all stages, chunks send more, and what goes beside its passes may
        well not be hidden. bound: the closest that is known of it."""
        model, again = self.bounds.model, self.bounds.which(leaf.rules.recompute, leaf.rules.by)
        through = model.passes[again] / self.bounds.devices * leaf.mesh.size(STAGES) / leaf.mesh.microbatches
        return max(bound, through) * (CLOSE + SENT * (leaf.rules.chunks - 1)) + self.bounds.beside(leaf)

    def fits(self, of: Kin, what: PlanChoice, layer: LayerWork | None = None) -> bool:
        """Whether it is worth a try."""
        return self.size(of, what, layer) <= self.bounds.cluster.memory

    def size(self, of: Kin, what: PlanChoice, layer: LayerWork | None = None) -> float:
        """Bytes that it probably needs: what its layers save is known, or what comes and goes is as large as that of
        others, by rows and layers."""
        if layer is not None and layer.forward:  # of layers that compute the same again
            room = self.rooms.get((of, what.rules.schedule), ROOM)
            return self.bounds.bytes(what, layer) * room
        known = next((self.sizes[key] for key in _alike(of.layer) if key in self.sizes), None)
        scale = 1.0 if known is None else known
        return self.bounds.bytes(what) + scale * self._usual(of, what)

    def _usual(self, of: Kin, what: PlanChoice) -> float:
        """Bytes of activations, if the serial program's are shared evenly."""
        if "activations" in what.rules.offload:
            return 0.0
        stages, m = what.mesh.size(STAGES), what.mesh.microbatches
        alive = float(m if what.rules.schedule == "gpipe" else min(m, stages))
        if what.rules.chunks > 1:
            alive = min(m, alive * (1 + 1 / what.rules.chunks))
        return (
            self.bounds.model.activations[of.layer.recompute] * of.rows / self.batch / of.layer.devices * alive / stages
        )

    def learn(self, of: Kin, what: PlanChoice, needed: int, layer: LayerWork | None = None) -> None:
        """needed: bytes that it was found to take."""
        if layer is not None and layer.forward:
            self.rooms[of, what.rules.schedule] = needed / self.bounds.bytes(what, layer)
        if usual := self._usual(of, what):
            scale = (needed - self.bounds.bytes(what)) / usual
            for key in _alike(of.layer):
                self.sizes[key] = scale

    def found(self, of: Kin, factor: float) -> None:
        """By how much the time of some of them seems to be above the bound that is known of all."""
        self.factors[of] = min(factor, self.factors.get(of, factor))
        self.shapes[of.layer.inside] = min(factor, self.shapes.get(of.layer.inside, factor))


def _alike(of: SplitLayer) -> tuple[tuple[object, ...], ...]:
    """By what sizes are remembered, the closest first."""
    return (of.inside, of.recompute, of.along, of.heads, of.by), (of.recompute, bool(of.along), of.by)
