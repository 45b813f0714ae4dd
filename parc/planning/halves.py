"""What zero-bubble schedules keep of a micro-batch from the first half of the backward pass to the second, as exact
prices tell it.

It hangs on the rows and on how layers are split, not on stages, replicas and micro-batches: so what one price has found
of a kind of layers speaks for all others of the kind, of fewer rows in proportion (`layers`). Of rows alone, for all
else may be less where there are more replicas. With ZeRO-2 and 3 the loop itself is looked at (`rooms`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from compiler.program import MODEL_PASSES
from parc.planning.bounds import BUBBLES, SURE, LowerBounds
from parc.planning.found import Tried
from parc.planning.guess import Kin, SplitLayer, kin
from parc.planning.held_layers import held_halves
from parc.planning.layer_work import KeptHalves
from parc.planning.layers import BACKWARD, FORWARD, Layers
from parc.planning.on_rows import OnRows
from parc.planning.space import STAGES, PlanChoice
from parc.planning.spread import spread_of
from parc.planning.stage_cuts import layer_counts


class BetweenHalves:
    """All that are known so far, by rows."""

    def __init__(self, layers: Layers) -> None:
        self.layers, self.space = layers, layers.space
        self.known: dict[SplitLayer, dict[int, KeptHalves]] = {}

    def any(self, choice: PlanChoice) -> bool:
        """Whether something is to be known of a candidate."""
        rules, stages = choice.rules, choice.mesh.size(STAGES)
        bubbles = rules.schedule == BUBBLES and stages > 1 and rules.zero < 2
        return bubbles and not rules.offload and len(self.space.split.loops) == 1

    def kept(self, choice: PlanChoice, of: Kin) -> list[KeptHalves]:
        """Of a candidate, as far as it is known."""
        known = self.known.get(of.layer)
        if not known or not self.any(choice):
            return []
        scaled = self.layers.scaled(of)
        mine = (n for n in known if (n % of.rows == 0 if scaled else n == of.rows))
        return [known[n].times(of.rows / n) for n in mine]

    def bytes(self, bounds: LowerBounds, choice: PlanChoice, of: Kin) -> float:
        """That a device of a candidate needs at least while micro-batches wait for the second half; 0 where nothing is
        known."""
        kept = self.kept(choice, of)
        if not kept:
            return 0.0
        spread, layer, times = spread_of(choice), self.layers.best(of), 1 + bounds.cluster.reserve
        p, each = spread.stages, layer.saved / bounds.layers if layer is not None else 0.0
        return max(
            bounds.needed(spread, choice.rules.zero, (own,)) + held * times * SURE
            for known in kept
            for own, held in held_halves(bounds.layers, p, choice.mesh.microbatches, each, known)
        )

    def learn(self, choice: PlanChoice) -> KeptHalves | None:
        """From the candidate whose memory was asked for last, if it is not known. The last stage has layers, and all
        that stands behind them."""
        of, systems = kin(self.space, choice.mesh, choice.rules), self.layers.pricer.systems
        if systems is None or not self.any(choice) or of.rows in self.known.get(of.layer, ()):
            return None
        stages = choice.mesh.size(STAGES)
        cls = next(c for c in systems.program.classes if stages - 1 in c.groups)
        passes = tuple(f for f in cls.functions if f.phase in MODEL_PASSES)
        on = OnRows(replace(cls, functions=passes), self.space.split.batch)
        memory, labels = systems.memory(cls), {label for label, _ in self.space.split.loops}
        looped = {s.name for s in cls.states if labels & {*s.type.names}}
        memory.action(FORWARD)
        layers = memory.saved(BACKWARD, lambda name: name in looped and on.has_rows(name))
        behind = memory.saved(BACKWARD, lambda name: name not in looped and on.has_rows(name))
        own = layer_counts(self.space.split.layers, stages)[-1]
        return KeptHalves(layers / own, float(behind))

    def add(self, every: Iterable[Tried]) -> None:
        """What was found of these."""
        for tried in every:
            if tried.between is not None:
                of = kin(self.space, tried.candidate.mesh, tried.candidate.rules)
                self.known.setdefault(of.layer, {})[of.rows] = tried.between
