"""What iterations of a model's loop need besides what the loop keeps, where gradients or weights are sharded.

Gathered weights of a layer, its gradients before they are reduced, activations that are computed again: they come and
go with each iteration of the backward pass, and the first of all is there with all that the loops keep. How much it is
hangs on the rows, the replicas, the stage of ZeRO and what is computed again, as its time does (`paces`): of the same
strategies of one stage the memory of the loop alone is replayed. Of a first iteration, for a chunk may have no other;
of what it makes itself, for all else may be outside in another stage.
"""

from __future__ import annotations

from compiler.cost.memory.iterations import IterationMemory
from compiler.cost.memory.systems import Systems
from compiler.memory.tiers import FIRST
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionPhase
from dsl.diagnostics import ParcError
from parc.planning.guess import Kin
from parc.planning.layer_work import LoopRoom
from parc.planning.paces import PaceKey, Paces, ProgramKey
from parc.planning.space import PlanChoice
from parc.planning.stage_cuts import stage_cut


class Rooms:
    """All that are known so far; None of what cannot be lowered, or of whose loops nothing follows."""

    def __init__(self, paces: Paces) -> None:
        self.paces, self.layers = paces, paces.layers
        self.known: dict[ProgramKey, LoopRoom | None] = {}

    def look(self, choice: PlanChoice, of: Kin) -> LoopRoom | None:
        """Of a candidate's loop, found if it is not known."""
        if not self.paces.any(choice) or choice.rules.offload:
            return None
        key = self.paces.key(choice, of)
        if key.program not in self.known:
            try:
                self.known[key.program] = self._measured(key)
            except ParcError:
                self.known[key.program] = None
        return self.known[key.program]

    def _measured(self, key: PaceKey) -> LoopRoom | None:
        compiled, found = self.paces.passes(key)
        labels = {label for label, _ in self.layers.space.split.loops}
        systems = Systems(compiled, found, before=self.layers.pricer.memories)
        memory = IterationMemory(systems, compiled.program.classes[0], labels)
        phases = (FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS)[: 3 if key.split else 2]
        if any((phase, 0) not in memory.functions for phase in phases):
            return None
        passes = [memory.replayed((phase, 0)) for phase in phases]
        behind = [(memory, (phase, 0), one) for phase, one in zip(phases[1:], passes[1:], strict=True)]
        if any(len(memory.bodies(of)) != 1 or not memory.alike(of) or one.lost for memory, of, one in behind):
            return None
        shards = float(sum(_shards(systems, cls) for cls in compiled.program.classes))
        backward = passes[1]
        if not key.split:
            return LoopRoom(float(backward.made), 0.0, shards, 0.0, 0.0)
        layers = stage_cut(self.layers.space.split.layers, 2, 1).all
        return LoopRoom(
            float(backward.made), float(passes[2].made), shards, backward.left / layers, backward.added / layers
        )


def _shards(systems: Systems, cls: DeviceClass) -> int:
    """Bytes of the gradients' pieces that come as they are made."""
    added = systems.added(cls)
    pieces = (s for s in cls.states if s.role is Role.GRADIENT and s.memory == FIRST and s.name not in added)
    return round(sum(systems.shards.bytes(s, "gradients") for s in pieces))
