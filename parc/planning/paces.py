"""How long iterations of a model's loop last where gradients or weights are sharded, with the messages beside them.

A layer's gradients go as one message, which waits for the last of them; the next layer's weights come behind it on the
same links. So a pass may last longer than its kernels, and than its messages, and how much longer hangs on what waits
for what. Therefore the loop itself is played, as it is when a step is priced: of a strategy of one stage with the very
rows, replicas and stage of ZeRO, its messages on the links on which they are in the candidate; for as many iterations
as a chunk of a stage has. What else is in the passes can only make them longer: whatever begins later ends later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from compiler.cost.kernels.program import Features, features
from compiler.cost.kernels.work import Collective, Part, Product, WorkLoop
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import PICOSECONDS, Pricer, picoseconds
from compiler.cost.time.ahead import gathers_first
from compiler.cost.time.step import play
from compiler.cost.time.task import Rolled, Tasks
from compiler.cost.time.tasks import Segment, tasks, totals
from compiler.driver import Compiled
from compiler.program import Axis, FunctionKey, FunctionPhase, Program
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.planning.guess import Kin, SplitLayer
from parc.planning.layer_work import Pace
from parc.planning.layers import Layers, without_update
from parc.planning.space import DATA, STAGES, AxisRole, MeshChoice, PlanChoice, PlanRules
from parc.planning.stage_cuts import layer_counts
from parc.planning.turns import durations
from parc.planning.written import strategy_of

FORWARD: FunctionKey = (FunctionPhase.FORWARD, 0)
SPLIT = "zero_bubble"

KEPT = 100
"""Meshes whose prices of messages are remembered."""


LATELY = 8
"""Programs that are kept as a whole, those that were lowered last: of them it is asked what they hold, too."""


class ProgramKey(NamedTuple):
    """What the loops of a strategy are, whatever links they are on."""

    layer: SplitLayer
    rows: int
    replicas: int
    zero: int
    split: bool


@dataclass(frozen=True, slots=True)
class PaceKey:
    """What a pace hangs on. first: the kind of the outermost axis of the whole mesh; stages: how many there are;
    split: whether the backward pass is in two (zero-bubble schedules); products: of products and messages alone."""

    layer: SplitLayer
    rows: int
    replicas: int
    zero: int
    first: str
    stages: int
    split: bool
    products: bool = False

    @property
    def program(self) -> ProgramKey:
        """What is lowered for it hangs on this alone."""
        return ProgramKey(self.layer, self.rows, self.replicas, self.zero, self.split)


@lru_cache(1024)
def covering(own: PaceKey) -> tuple[PaceKey, ...]:
    """Those that last no longer, both passes together, with itself: weights are sent but once; nothing is computed
    again and passes are in one, of products and messages alone. (What is kept for another pass cuts other kernels in
    two: where it is computed again there may be fewer.)"""
    whole = replace(own, layer=replace(own.layer, recompute=0), split=False)
    less = own if whole == own else replace(whole, products=True)
    return tuple({replace(of, zero=zero): None for of in (less, own) for zero in range(2, own.zero + 1)})


@dataclass(frozen=True, slots=True)
class PacedLoop:
    """The loop of a pass, alone, and launches of an iteration."""

    segment: Segment
    rolled: Rolled
    launches: float

    @property
    def products(self) -> PacedLoop:
        """With products and messages alone, which no host is waited for."""
        return replace(self, rolled=_products(self.rolled), launches=0.0)


@dataclass(frozen=True, slots=True)
class PacedProgram:
    """What was lowered, and each pass's loop."""

    program: Program
    loops: dict[FunctionKey, PacedLoop]


class Paces:
    """All that are known so far. known: by numbers of iterations, seconds forward and backward; None of what cannot be
    lowered, or has more than one loop in a pass."""

    def __init__(self, layers: Layers) -> None:
        self.layers, self.space = layers, layers.space
        self.known: dict[PaceKey, dict[int, tuple[float, float]] | None] = {}
        self.loops: dict[ProgramKey, PacedProgram | None] = {}
        self.lately: dict[ProgramKey, tuple[Compiled, Features]] = {}
        self.pricers: dict[tuple[Axis, ...], Pricer] = {}

    def best(self, choice: PlanChoice, of: Kin) -> Pace | None:
        """The closest bound that is known, of an iteration in all chunks of a candidate."""
        if not self.any(choice):
            return None
        own, sizes = self.key(choice, of), self._sizes(choice)
        found = Pace()
        for key in covering(own):
            turns = self.known.get(key)
            if turns and turns.keys() >= sizes:
                forward, backward = (min(turns[n][i] / n for n in sizes) for i in (0, 1))
                found = found.max(forward, backward, not key.products)
        return found if found.both else None

    def closer(self, choice: PlanChoice, of: Kin) -> bool:
        """Find out more, if there is more to find out: first of what many candidates share, last of these very ones.
        Of ZeRO-2 not for ZeRO-3 alone: in three cases of four that was not enough."""
        if not self.any(choice):
            return False
        own, sizes = self.key(choice, of), self._sizes(choice)
        less = covering(own)[0]  # with ZeRO-2
        shared = (less,) if own.zero == less.zero or less.program in self.loops else ()
        return any(self._find(key, sizes) for key in dict.fromkeys((*shared, replace(less, zero=own.zero), own)))

    def any(self, choice: PlanChoice) -> bool:
        """Whether something is to be known of its loop."""
        return choice.rules.zero > 1 and len(self.space.split.loops) == 1

    def key(self, choice: PlanChoice, of: Kin) -> PaceKey:
        """Of a candidate."""
        mesh, rules = choice.mesh, choice.rules
        stages, both = mesh.size(STAGES), {STAGES, DATA} <= {role.kind for role, _ in mesh.axes}
        first, split = rules.first if both else "", rules.schedule == SPLIT
        return PaceKey(of.layer, of.rows, mesh.size(DATA), rules.zero, first, stages, split)

    def _sizes(self, choice: PlanChoice) -> frozenset[int]:
        return chunk_sizes(self.space.split.layers, choice.mesh.size(STAGES) * choice.rules.chunks)

    def _find(self, key: PaceKey, sizes: frozenset[int]) -> bool:
        """Whether something was found of it that was not known."""
        if key not in self.known:
            self.known[key] = {} if self._loops(key) else None
        known = self.known[key]
        if known is None or sizes <= known.keys():
            return False
        of, more = self._loops(key), sorted(sizes - known.keys())
        assert of is not None
        pricer = self._pricer(key, of.program)
        loops = {f: replace(loop, rolled=self._over(loop.rolled, pricer)) for f, loop in of.loops.items()}
        if key.products:
            loops = {f: loop.products for f, loop in loops.items()}
        passes = {function: self._played(loop, pricer, more[-1]) for function, loop in loops.items()}
        for n in more:
            times = {function: played(n) for function, played in passes.items()}
            forward = times.pop(FORWARD, 0)
            known[n] = forward / PICOSECONDS, sum(times.values()) / PICOSECONDS
        return True

    def _loops(self, key: PaceKey) -> PacedProgram | None:
        """The program, and each pass's loop alone."""
        of = key.program
        if of not in self.loops:
            try:
                self.loops[of] = self._lowered(key)
            except ParcError:
                self.loops[of] = None
        return self.loops[of]

    def passes(self, key: PaceKey) -> tuple[Compiled, Features]:
        """The passes of a strategy of one stage (of two, whose backward pass is in two), and what their functions ask
        of a machine. Raises ParcError for one that cannot be lowered."""
        if key.program not in self.lately:
            while len(self.lately) >= LATELY:
                del self.lately[next(iter(self.lately))]
            self.lately[key.program] = self._passes(key)
        return self.lately[key.program]

    def _passes(self, key: PaceKey) -> tuple[Compiled, Features]:
        layers, space, kind = self.layers, self.space, key.layer
        inside = tuple((layers.roles[name], n) for name, n in kind.inside)
        data = ((self._role(DATA), key.replicas),) if key.replicas > 1 else ()
        cut = ((self._role(STAGES), 2),) if key.split else ()
        mesh = MeshChoice((*cut, *data, *inside), space.batch // (key.rows * key.replicas * layers.experts(kind)))
        schedule = SPLIT if key.split else ""
        rules = PlanRules(STAGES, key.zero, kind.recompute, schedule, 1, kind.along, kind.heads, kind.tables, kind.by)
        compiled = layers.pricer.compiled(strategy_of(space, PlanChoice(mesh, rules)), update=False)
        compiled = replace(compiled, program=without_update(compiled.program))
        return compiled, features(compiled.program, layers.pricer.passes)

    def _lowered(self, key: PaceKey) -> PacedProgram | None:
        layers, (compiled, found) = self.layers, self.passes(key)
        cls, program = compiled.program.classes[0], replace(compiled.program, inputs=(), entries=())
        pricer = self._pricer(key, program)
        loops: dict[FunctionKey, PacedLoop] = {}
        for function in cls.functions:
            names = layers.loops_of(function)
            nodes = [n for n in found.parts[0][function.key].nodes if isinstance(n.work, WorkLoop) and n.name in names]
            if len(nodes) > 1:
                return None
            for node in nodes:
                assert isinstance(node.work, WorkLoop)
                (segment,) = tasks(Part((replace(node, deps=()),)), pricer)
                (rolled,) = segment.tasks
                assert isinstance(rolled, Rolled)
                loops[function.key] = PacedLoop(segment, rolled, totals(node.work.body, pricer, False).launches)
        return PacedProgram(program, loops) if loops else None

    def _role(self, kind: str) -> AxisRole:
        return next(r for r in self.space.roles if r.kind == kind)

    # --- how long it lasts ---------------------------------------------------------------------------------------

    def _pricer(self, key: PaceKey, program: Program) -> Pricer:
        """Of the candidate's mesh: that of another number of micro-batches is the same."""
        axes = tuple(self._axes(key, program))
        if axes not in self.pricers:
            while len(self.pricers) >= KEPT:
                del self.pricers[next(iter(self.pricers))]
            of = machine(replace(program, axes=axes), self.layers.cluster)
            self.pricers[axes] = Pricer(of, self.layers.cal.changed(slowdown=0.0, ahead=0.0))
        return self.pricers[axes]

    def _played(self, loop: PacedLoop, pricer: Pricer, most: int) -> Callable[[int], int]:
        """Picoseconds of so many iterations."""
        rolled, ahead, host = loop.rolled, self.layers.cal.ahead, self.layers.cal.host

        def turned(n: int) -> Rolled:
            return gathers_first(rolled._replace(rounds=n), ahead) if ahead else rolled._replace(rounds=n)

        def dispatched(n: int) -> int:
            return picoseconds(n * loop.launches * host)

        if any(isinstance(t, Rolled) for t in rolled.tasks):
            alone = loop.segment
            return lambda n: play(alone._replace(tasks=(turned(n),), host=dispatched(n)), pricer.streams).duration
        found = durations(rolled, pricer.streams, 1 if ahead else most)
        if ahead and most > 1:
            found += durations(turned(most), pricer.streams, most)[1:]
        return lambda n: max(found[n - 1], dispatched(n))

    def _over(self, loop: Rolled, pricer: Pricer) -> Rolled:
        """The loop with its messages to replicas over the candidate's links."""
        data = self._role(DATA).name

        def of(task: Tasks) -> Tasks:
            if isinstance(task, Rolled):
                return self._over(task, pricer)
            work = task.node.work
            if not isinstance(work, Collective) or data not in work.axes:
                return task
            priced = pricer.price(work)
            also = tuple([(s, min(share, priced.ps)) for s, share in priced.also])
            return task._replace(priced=priced, stream=priced.stream, ps=priced.ps, also=also)

        return loop._replace(tasks=tuple([of(task) for task in loop.tasks]))

    def _axes(self, key: PaceKey, program: Program) -> Iterator[Axis]:
        """Those of the program, with the candidate's stages in their place."""
        mine = [a for a in program.axes if a.kind == "mesh"]
        if key.stages > 1:
            name = next(r.name for r in self.space.roles if r.kind == STAGES)
            mine.insert(1 if key.first == DATA else 0, Axis(name, key.stages, "mesh"))
        yield from mine


def _products(loop: Rolled) -> Rolled:
    """The same with nothing else that takes time."""

    def of(task: Tasks) -> Tasks:
        if isinstance(task, Rolled):
            return _products(task)
        return task if isinstance(task.node.work, (Product, Collective)) else task._replace(ps=0, also=())

    return loop._replace(tasks=tuple([of(task) for task in loop.tasks]))


@lru_cache(1024)
def chunk_sizes(layers: int, chunks: int) -> frozenset[int]:
    """How many iterations chunks have."""
    return frozenset(n for n in layer_counts(layers, chunks) if n)
