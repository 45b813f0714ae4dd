"""The memory of a training system that runs a program with the cluster's software: what `parc` says about memory.

`footprint` has what the system keeps all the time, `sizes` what a step's values take. Nothing is run, and no program is
written anew: actions are replayed with these sizes, and schedules add them up as they do for the program itself. The
update has fused kernels, which need no room but for what is moved in from other memories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from compiler.cost.kernels.program import Features, features
from compiler.cost.memory.footprint import Footprint, Shards, footprint, states
from compiler.cost.memory.sizes import OURS, FunctionSizes
from compiler.cost.memory.templates import Atoms, ClassForms, FormAction, FullestForms, MemoryTemplates, bytes_in
from compiler.cost.price.calibration import of_cluster
from compiler.graph import ITEMSIZE, Graph, Node, Value
from compiler.memory.action import MemoryEffect, Replay, Where
from compiler.memory.facts import moved_by
from compiler.memory.held import Buffer
from compiler.memory.lifetimes import Traced, TracedMemory
from compiler.memory.peak import ClassMemory, Peak, Rounds
from compiler.memory.tiers import FIRST
from compiler.origin import Role
from compiler.program import DeviceClass, Function, FunctionKey, FunctionPhase
from compiler.walk import graph_values, walk
from dsl.data import dataclass

if TYPE_CHECKING:
    from compiler.driver import Compiled

UPDATE = (FunctionPhase.UPDATE, 0)


@dataclass(frozen=True, slots=True)
class Need:
    """Device memory of each device of a group, in bytes. peak: what is allocated at the fullest moment.

    kept: what has a place of its own all the time (weights, states, gradients, inputs); turning: what comes and goes,
    at the peak. reserved: what the allocator has got for both; needed: that and what the driver takes: it has to fit.
    """

    peak: Peak
    kept: int
    turning: int
    reserved: int
    needed: int


class Systems:
    """A compiled job as its cluster's software runs it; without a cluster, as unknown software does."""

    def __init__(
        self,
        compiled: Compiled,
        found: Features | None = None,
        fused: bool | None = None,
        before: MemoryTemplates | None = None,
        rounds: Sequence[Rounds] | None = None,
    ) -> None:
        """found: the program's features, if they are known. fused: whether attention is one kernel; if not stated, what
        the prices of the software believe. before: what is known of programs before it, for whoever asks for bytes
        alone; rounds: of each group, if they are known."""
        self.before, self.rounds = before, rounds
        job = compiled.job
        self.program, self.strategy = compiled.program, job.strategy
        self.footprint = footprint(job.cluster.device, job.cluster.stack) if job.cluster else Footprint()
        believed = job.cluster is not None and bool(of_cluster(job.cluster, job.strategy.fuses).fused_attention)
        self.fused = believed if fused is None else fused
        self.features = found or features(compiled.program)
        self.shards = Shards(job.strategy.shards, compiled.program.sizes)

    @cached_property
    def loss(self) -> float:
        """The share that what hangs on logits takes of what it takes with us."""
        return self.footprint.logits(self.strategy, ITEMSIZE[self.features.compute]) / OURS

    @cached_property
    def needs(self) -> Mapping[int, Need]:
        """By group of devices."""
        found: dict[int, Need] = {}
        for cls in self.program.classes:
            memory = SystemMemory(self, cls)
            found.update((g, memory.need(memory.use(g)[FIRST])) for g in cls.groups)
        return dict(sorted(found.items()))

    @cached_property
    def fullest(self) -> Need:
        """Of the devices that need most."""
        return max(self.needs.values(), key=lambda n: n.needed)

    def traced(self, group: int) -> TracedSystemMemory:
        """What the devices of a group hold, and what of it is alive when."""
        return TracedSystemMemory(self, next(c for c in self.program.classes if group in c.groups))

    def memory(self, cls: DeviceClass) -> SystemMemory:
        """What the devices of a class hold."""
        return SystemMemory(self, cls)

    def added(self, cls: DeviceClass) -> frozenset[str]:
        """Accumulators of gradients that have a buffer all the time: of weights that are not gathered from shards."""
        gathered = {s.logical for s in cls.states if s.role is Role.WEIGHT and self.shards.gathered(s)}
        return frozenset(
            s.name for s in cls.states if s.role is Role.ROWS or (s.role is Role.GRADIENT and s.logical not in gathered)
        )

    def sizes(self, cls: DeviceClass, key: FunctionKey) -> FunctionSizes:
        """Of the values of a function of the class."""
        inside, core = self.features.inside[self.program.classes.index(cls)][key]
        nothing, itemsize = inside | core if self.fused else inside, ITEMSIZE[self.features.compute]
        if not self.strategy.fuses:  # but products read what is packed as it rests, as their prices do
            nothing = nothing & _unpacked(cls, key)
        found = FunctionSizes(nothing, self.added(cls), itemsize, self.features.regions.wide, self.loss)
        if key != UPDATE:
            found.body(next(f for f in cls.functions if f.key == key).body)
        elif not self.strategy.fuses:
            pass  # what its kernels make for one another stands
        elif mine := [f.body for f in cls.functions if f.key == UPDATE]:
            found.shares.update(dict.fromkeys((v.name for v in graph_values(mine[0])), 0.0))
            found.shares.update(dict.fromkeys(moved_by(mine[0]), 1.0))
        return found


def _unpacked(cls: DeviceClass, key: FunctionKey) -> frozenset[str]:
    """What of a function's values is unpacked from fewer bits."""
    of = (f.body for f in cls.functions if f.key == key)
    return frozenset(v.name for body in of for node, _ in walk(body) if node.op.unpacks for v in node.outputs)


# --- the accounting, with other sizes ---------------------------------------------------------------------------------


class SystemReplay(Replay):
    """Of an action whose values are as large as `of` says, some of which add to gradients without a copy."""

    fuses = False  # systems fuse what `of` says, as their prices do
    of: FunctionSizes
    passing: list[Buffer]

    def run(self, function: Function) -> MemoryEffect:
        self.passing = []
        return super().run(function)

    def _bytes(self, var: Value) -> int:
        share = self.of.shares.get(var.name, 1.0)
        return round(super()._bytes(var) * share) if share else 0

    def _begin(self, instr: Node) -> None:
        """What was added to a gradient takes no room any more, however long the program has it."""
        for b in self.passing:
            if not b.accumulator:
                self._resize(b, 0)
        self.passing = []
        super()._begin(instr)

    def _new(self, name: str, size: int, origin: str = Role.ACTIVATION, memory: str = FIRST) -> Buffer:
        b = super()._new(name, size, origin, memory)
        if name in self.of.passing:
            self.passing.append(b)
        return b

    def _accumulate(self, name: str, operand: str, env: dict[str, Buffer], dying: tuple[str, ...]) -> None:
        """What is kept of a sum has its own size, whatever that of the value is that it begins with."""
        if name in self.of.added or name in self.accumulated:
            return
        super()._accumulate(name, operand, env, dying)
        self._resize(self.accumulated[name], self._declared(name))

    def _adds_to(self, name: str) -> bool:
        return name in self.of.added or super()._adds_to(name)


class _TracedReplay(SystemReplay, Traced):
    """The same, with what lives when."""


class FormReplay(SystemReplay):
    """The same with forms in the place of bytes. moments: by memory, those that may be the fullest."""

    def __init__(self, *of: Any, atoms: Atoms) -> None:
        super().__init__(*of)
        self.atoms, self.moments = atoms, dict[str, FullestForms]()

    def _bytes(self, var: Value) -> int:
        share = self.of.shares.get(var.name, 1.0)
        return self.atoms.value(var, share) if share else 0

    def _declared(self, name: str) -> int:
        return self.atoms.form(self.states[name])

    def _mark(self, where: Where, at: str) -> None:
        sums: dict[str, int] = {}
        for (memory, _), n in self.totals.items():
            sums[memory] = sums.get(memory, 0) + n
        for memory, total in sums.items():
            if memory not in self.moments:
                self.moments[memory] = FullestForms(self.atoms)
            self.moments[memory].add(total, self.totals)


class SystemMemory(ClassMemory):
    """Of a class's devices."""

    replay = SystemReplay

    def __init__(self, systems: Systems, cls: DeviceClass) -> None:
        before = systems.before
        super().__init__(systems.program, cls, before.facts(cls) if before is not None else None)
        self.systems, self.added, self.narrow = systems, systems.added(cls), systems.features.compute
        self.known_lives = before.lives if before is not None else None
        kept = states(cls, systems.shards, systems.footprint, systems.features.compute)
        self.static.update(((FIRST, role), items) for role, items in kept.items())
        if UPDATE not in self.functions or not self.facts.moved:
            self.functions[UPDATE] = Function(*UPDATE, Graph("", (), (), ()))
        self.touched = {key: names - self.added for key, names in self.touched.items()} | {UPDATE: frozenset()}
        self.sized: dict[FunctionKey, FunctionSizes] = {}
        self.entered: dict[FunctionKey, FormAction] = {}  # by function of a micro-batch, the last that was asked for
        self.effects: dict[tuple[FunctionKey, frozenset[str]], MemoryEffect] = {}
        self._sizes_of: list[int] = []

    @property
    def inside(self) -> Mapping[FunctionKey, tuple[frozenset[str], frozenset[str]]]:
        """By function: see `Features`."""
        return self.systems.features.inside[self.systems.program.classes.index(self.cls)]

    @cached_property
    def forms(self) -> ClassForms | None:
        """What actions do whatever the sizes, where that was asked of programs before."""
        before = self.systems.before
        return before.of(self) if before is not None and self.replay is SystemReplay else None

    def effect(self, phase: FunctionPhase, chunk: int, accumulated: set[str]) -> MemoryEffect:
        if self.forms is None:
            return super().effect(phase, chunk, accumulated)
        key, first = (phase, chunk), self.touched[phase, chunk] - accumulated
        if (key, first) not in self.effects:
            self.effects[key, first] = self.action(key, frozenset(accumulated)).effect(self.bytes_of(self.forms))
        return self.effects[key, first]

    def action(self, key: FunctionKey, accumulated: frozenset[str] = frozenset()) -> FormAction:
        """What one does, in forms."""
        assert self.forms is not None
        before = self.entered.get((key[0].before, key[1])) if key[0].before else None
        found = self.entered[key] = self.forms.action(key, accumulated, before)
        return found

    def bytes_of(self, forms: ClassForms) -> list[int]:
        """Of all that forms are made of, with these sizes of axes."""
        if len(self._sizes_of) != len(forms.atoms.atoms):
            self._sizes_of = forms.atoms.sizes(self.sizes)
        return self._sizes_of

    def saved(self, key: FunctionKey, counts: Callable[[str], bool]) -> int:
        """Device memory of what an action leaves for later ones, of the slots that count, each buffer once."""
        if self.forms is not None:
            slots, sizes = self.action(key).saved, self.bytes_of(self.forms)
            bytes_of = [(b, bytes_in(self.forms.atoms.terms(b.bytes), sizes)) for b in slots.values()]
        else:
            self.effect(*key, set())
            slots = next(iter(self.replays.values())).saved
            bytes_of = [(b, b.bytes) for b in slots.values()]
        kept = {
            id(b): size
            for name, (b, size) in zip(slots, bytes_of, strict=True)
            if b.memory == FIRST and b.role == Role.SAVED and not b.static and counts(name)
        }
        return sum(kept.values())

    def in_forms(self, key: FunctionKey, atoms: Atoms) -> FormReplay:
        """What replays a function in forms."""
        if key not in self.sized:
            self.sized[key] = self.systems.sizes(self.cls, key)
        found = FormReplay(self.cls, self.sizes, self._known, atoms=atoms)
        found.of = self.sized[key]
        return found

    def need(self, peak: Peak) -> Need:
        """What allocator and driver make of a peak. Shards of gradients lie in a pool of the allocator's own: those
        that are not there yet have no room elsewhere."""
        of = self.systems.footprint
        kept = sum(n for (memory, _), items in self.static.items() for _, n in items if memory == FIRST)
        turning = peak.bytes - kept
        shards = [
            s for s in self.cls.states if s.role is Role.GRADIENT and s.memory == FIRST and s.name not in self.added
        ]
        if shards:
            there = peak.roles.get(Role.GRADIENT, 0)
            kept += max(there, round(sum(self.systems.shards.bytes(s, "gradients") for s in shards)))
            turning -= there
        reserved = kept + round(turning * (1 + of.reserve))
        return Need(peak, kept, turning, reserved, reserved + round(of.context))

    def rounds(self, group: int) -> Rounds:
        known = self.systems.rounds
        return super().rounds(group) if known is None else known[group]

    def start(self, key: FunctionKey) -> Replay:
        found = super().start(key)
        assert isinstance(found, SystemReplay)
        if key not in self.sized:
            self.sized[key] = self.systems.sizes(self.cls, key)
        found.of = self.sized[key]
        return found


class TracedSystemMemory(SystemMemory, TracedMemory):
    """The same, with what lives when."""

    replay = _TracedReplay
