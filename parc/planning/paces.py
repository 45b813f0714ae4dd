"""How long iterations of a model's loop last where gradients or weights are sharded, with the messages beside them.

A layer's gradients go as one message, which waits for the last of them; the next layer's weights come behind it on the
same links. So a pass may last longer than its kernels, and than its messages, and how much longer hangs on what waits
for what. Therefore the loop itself is played, as it is when a step is priced: of a strategy of one stage with the very
rows, replicas and stage of ZeRO, its messages on the links on which they are in the candidate; for as many iterations
as a chunk of a stage has. What else is in the passes can only make them longer: whatever begins later ends later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Part, WorkLoop
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import PICOSECONDS, Pricer
from compiler.cost.time.step import play
from compiler.cost.time.tasks import tasks
from compiler.layout import TIME
from compiler.passes.cuts import divided
from compiler.program import Axis, FunctionKey, FunctionPhase, Program
from compiler.strategy import PipelineRule
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.planning.guess import SplitLayer
from parc.planning.layers import Layers, without_update
from parc.planning.space import DATA, STAGES, MeshChoice, PlanChoice, PlanRules
from parc.planning.written import strategy_of

FORWARD: FunctionKey = (FunctionPhase.FORWARD, 0)
SPLIT = "zero_bubble"


@dataclass(frozen=True, slots=True)
class PaceKey:
    """What a pace hangs on. first: the kind of the outermost axis of the whole mesh; stages: how many there are;
    split: whether the backward pass is in two (zero-bubble schedules)."""

    layer: SplitLayer
    rows: int
    replicas: int
    zero: int
    first: str
    stages: int
    split: bool


class Paces:
    """All that are known so far. known: by numbers of iterations, seconds forward and backward; None of what cannot be
    lowered, or has more than one loop in a pass."""

    def __init__(self, layers: Layers) -> None:
        self.layers, self.space = layers, layers.space
        self.known: dict[PaceKey, dict[int, tuple[float, float]] | None] = {}
        self.loops: dict[tuple[SplitLayer, int, int, int, bool], tuple[Program, dict[FunctionKey, Part]] | None] = {}

    def of(self, choice: PlanChoice, layer: SplitLayer, rows: int) -> tuple[float, float] | None:
        """Seconds of an iteration, forward and backward, in all chunks of a candidate at least."""
        mesh, rules = choice.mesh, choice.rules
        if rules.zero < 2 or len(self.space.split.loops) != 1:
            return None
        stages, both = mesh.size(STAGES), {STAGES, DATA} <= {role.kind for role, _ in mesh.axes}
        key = PaceKey(
            layer, rows, mesh.size(DATA), rules.zero, rules.first if both else "", stages, rules.schedule == SPLIT
        )
        if key not in self.known:
            self.known[key] = {} if self._loops(key) else None
        known = self.known[key]
        if known is None:
            return None
        found, pricer = [], None
        for n in chunk_sizes(self.space.split.layers, stages * rules.chunks):
            if n not in known:
                pricer = pricer or self._pricer(key)
                known[n] = self._played(key, n, pricer)
            found.append((known[n][0] / n, known[n][1] / n))
        return min(f for f, _ in found), min(b for _, b in found)

    def _loops(self, key: PaceKey) -> tuple[Program, dict[FunctionKey, Part]] | None:
        """The program, and each pass's loop alone."""
        of = key.layer, key.rows, key.replicas, key.zero, key.split
        if of not in self.loops:
            try:
                self.loops[of] = self._lowered(*of)
            except ParcError:
                self.loops[of] = None
        return self.loops[of]

    def _lowered(
        self, kind: SplitLayer, rows: int, replicas: int, zero: int, split: bool
    ) -> tuple[Program, dict[FunctionKey, Part]] | None:
        layers, space = self.layers, self.space
        inside = tuple((layers.roles[name], n) for name, n in kind.inside)
        data = ((next(r for r in space.roles if r.kind == DATA), replicas),) if replicas > 1 else ()
        cut = ((next(r for r in space.roles if r.kind == STAGES), 2),) if split else ()
        mesh = MeshChoice((*cut, *data, *inside), space.batch // (rows * replicas * layers.experts(kind)))
        schedule = SPLIT if split else ""
        rules = PlanRules(STAGES, zero, kind.recompute, schedule, 1, kind.along, kind.heads, kind.tables, kind.by)
        program = layers.pricer.compiled(strategy_of(space, PlanChoice(mesh, rules)), update=False).program
        program = without_update(program)
        cls, found = program.classes[0], features(program, layers.pricer.passes)
        loops: dict[FunctionKey, Part] = {}
        for function in cls.functions:
            names = layers.loops_of(function)
            nodes = [n for n in found.parts[0][function.key].nodes if isinstance(n.work, WorkLoop) and n.name in names]
            if len(nodes) > 1:
                return None
            if nodes:
                loops[function.key] = Part((replace(nodes[0], deps=()),))
        return (replace(program, inputs=(), entries=()), loops) if loops else None

    def _pricer(self, key: PaceKey) -> Pricer:
        found = self._loops(key)
        assert found is not None
        program, _ = found
        of = machine(replace(program, axes=tuple(self._axes(key, program))), self.layers.cluster)
        return Pricer(of, replace(self.layers.cal, slowdown=0.0))

    def _played(self, key: PaceKey, n: int, pricer: Pricer) -> tuple[float, float]:
        found = self._loops(key)
        assert found is not None
        _, loops = found

        def seconds(function: FunctionKey) -> float:
            if function not in loops:
                return 0.0
            (node,) = loops[function].nodes
            assert isinstance(node.work, WorkLoop)
            part = Part((replace(node, work=replace(node.work, count=n)),))
            return sum(play(s, pricer.streams).duration for s in tasks(part, pricer)) / PICOSECONDS

        return seconds(FORWARD), sum(seconds(key) for key in loops if key != FORWARD)

    def _axes(self, key: PaceKey, program: Program) -> Iterator[Axis]:
        """Those of the program, with the candidate's stages in their place."""
        mine = [a for a in program.axes if a.kind == "mesh"]
        yield from (a for a in program.axes if a.name == TIME)
        if key.stages > 1:
            name = next(r.name for r in self.space.roles if r.kind == STAGES)
            mine.insert(1 if key.first == DATA else 0, Axis(name, key.stages, "mesh"))
        yield from mine


def chunk_sizes(layers: int, chunks: int) -> list[int]:
    """How many iterations chunks have."""
    return sorted({n for n in divided(PipelineRule(("",), ""), {"": layers}, chunks)[""] if n})
