"""When the buffers of one action exist: the replay with a clock that counts instructions.

A buffer is alive from the instruction that makes it up to the last that needs it, both included. As loops are replayed
as far as their iterations differ, an instruction of a loop makes its buffer several times: in a static allocation all
of them lie in the same place (`Fixed`), unless one lives on into a later iteration. Those take turns (`Ring`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import field
from typing import NamedTuple

from compiler.graph import Graph, Node
from compiler.liveness import rounds
from compiler.memory.action import MemoryEffect, Replay, Signature, Where
from compiler.memory.held import Buffer
from compiler.memory.peak import ClassMemory
from compiler.memory.tiers import FIRST
from compiler.memory.times import Times, union
from compiler.ops.effects import Load
from compiler.origin import Role
from compiler.program import Function, FunctionKey, FunctionPhase
from dsl.data import dataclass

Site = tuple[int, int]
"""Where the program makes a buffer: identity of the instruction, and which of the buffers that it makes."""

RingKey = tuple[int, int, str]
"""Identity of the loop's body, bytes, memory."""


@dataclass(slots=True)
class Fixed:
    """A buffer that is made and let go within an iteration (or outside of loops). `alive`: at which instructions."""

    name: str
    bytes: int
    memory: str
    alive: Times = ()


@dataclass(slots=True)
class Ring:
    """Buffers of one size of which one lives on into the next iterations: `count` places, used in turn."""

    name: str
    bytes: int
    memory: str
    count: int
    alive: Times


@dataclass(eq=False, slots=True)
class TracedSpan:
    """A buffer that an action makes. nest: the loops' bodies that it is made in, each with a number of its turn; born,
    died: at which instructions (-1: not)."""

    site: Site
    buffer: Buffer
    nest: tuple[tuple[int, int], ...]
    born: int
    died: int = -1
    loop: int = 0  # the outermost loop of whose iterations it outlives one


@dataclass(slots=True)
class Lives:
    """What one action does besides its effect; `turning`: the sites whose buffers go to a ring.

    events: (buffer, whether it is made or let go) in order; length: number of instructions. saved: the slots behind the
    action; given: the names of the slots that each buffer had which was there before. alive: of buffers that stay, or
    were there and go, at which instructions.
    """

    fixed: dict[Site, Fixed] = field(default_factory=dict)
    rings: dict[RingKey, Ring] = field(default_factory=dict)
    turning: dict[Site, RingKey] = field(default_factory=dict)
    events: list[tuple[Buffer, bool]] = field(default_factory=list)
    saved: dict[str, Buffer] = field(default_factory=dict)
    outputs: tuple[Buffer, ...] = ()
    given: dict[Buffer, set[str]] = field(default_factory=dict)
    alive: dict[Buffer, Times] = field(default_factory=dict)
    length: int = 0


class Traced(Replay):
    """The same, and `lives` has when each buffer existed."""

    def run(self, function: Function) -> MemoryEffect:
        self.clock = self.serial = self.made = 0
        self.instr = 0
        self.nest: tuple[tuple[int, int], ...] = ()
        self.spans: dict[Buffer, TracedSpan] = {}
        self.ended: list[TracedSpan] = []
        self.found = Lives()
        for name, b in self.saved.items():
            self.found.given.setdefault(b, set()).add(name)
        effect = super().run(function)
        self.found.outputs = tuple(dict.fromkeys(b for b in self.outputs.values() if not b.static))
        self.found.saved, self.found.length = dict(self.saved), self.clock + 1
        self.found.alive.update((b, ((s.born, self.clock + 1),)) for b, s in self.spans.items())
        _sort(self.found, self.ended, tuple(self.spans.values()))
        return effect

    def _new(self, name: str, size: int, origin: str = Role.ACTIVATION, memory: str = FIRST) -> Buffer:
        b = super()._new(name, size, origin, memory)
        self.spans[b] = TracedSpan((self.instr, self.made), b, self.nest, self.clock)
        self.made += 1
        self.found.events.append((b, True))
        return b

    def _hold(self, b: Buffer, *, names: int = 0, slots: int = 0, accumulator: str | None = None) -> None:
        super()._hold(b, names=names, slots=slots, accumulator=accumulator)
        if b.static or b.names or b.slots or b.accumulator:
            return
        self.found.events.append((b, False))
        if b in self.spans:
            span = self.spans.pop(b)
            span.died = self.clock
            same = next((i for i, (x, y) in enumerate(zip(span.nest, self.nest)) if x != y), len(self.nest))
            if same < len(span.nest):
                span.loop = span.nest[same][0]
            self.ended.append(span)
        else:
            self.found.alive[b] = ((0, self.clock + 1),)

    def _begin(self, instr: Node) -> None:
        self.clock += 1
        self.instr, self.made = id(instr), 0

    def _signature(self, carried: Sequence[Buffer], shared: Sequence[Buffer]) -> Signature:
        """Iterations differ also in where their carries come from: the first one's from outside the loop."""
        return (
            *super()._signature(carried, shared),
            tuple(self.spans[b].site if b in self.spans else None for b in carried),
        )

    def _body(self, body: Graph, env: dict[str, Buffer], where: Where, carries: int = 0) -> None:
        outer = self.nest
        self.serial += 1
        self.nest = (*outer, (id(body), self.serial))
        super()._body(body, env, where, carries)
        self.nest = outer


def _sort(found: Lives, ended: Sequence[TracedSpan], left: Sequence[TracedSpan]) -> None:
    """Which of an action's own buffers have a place of their own, and which take turns.

    left: what stays behind the action. Of a loop's results it stands for those of iterations that are not replayed,
    too, which begin beside what the iteration before made.
    """
    for s in ended:
        if s.loop:
            found.turning[s.site] = (s.loop, s.buffer.bytes, s.buffer.memory)
    turns: dict[RingKey, list[TracedSpan]] = {}
    runs: dict[Site, list[tuple[int, int]]] = {}  # many of a site: of a function that is called for each weight
    for s in ended:
        if s.site in found.turning:
            turns.setdefault(found.turning[s.site], []).append(s)
            continue
        if s.site not in found.fixed:
            found.fixed[s.site] = Fixed(s.buffer.name, s.buffer.bytes, s.buffer.memory)
        runs.setdefault(s.site, []).append((s.born, s.died + 1))
    for site, times in runs.items():
        found.fixed[site].alive = union(found.fixed[site].alive, times)
    for key, spans in turns.items():
        first = spans[0].buffer
        alive = ((min(s.born for s in spans), max(s.died for s in spans) + 1),)
        begun = [(s.born, s.born) for s in left if found.turning.get(s.site) == key]
        found.rings[key] = Ring(
            first.name, first.bytes, first.memory, _most([*((s.born, s.died) for s in spans), *begun]), alive
        )


def _most(spans: Sequence[tuple[int, int]]) -> int:
    """How many (born, died) are alive at once."""
    changes = sorted([(born, 0) for born, _ in spans] + [(died, 1) for _, died in spans])
    now = most = 0
    for _, ends in changes:
        now += -1 if ends else 1
        most = max(most, now)
    return most


# --- of a class, from one action to another ---------------------------------------------------------------------------

Variant = tuple[FunctionPhase, int, frozenset[str]]
"""A function, its chunk, and the accumulators that it is the first to set in the step."""


class Skipped(NamedTuple):
    """Rounds that are left out: the functions of one, and how many."""

    steps: tuple[FunctionKey, ...]
    rounds: int

    def calls(self, keys: Collection[FunctionKey]) -> int:
        """How often one of the functions runs."""
        return self.rounds * sum(key in keys for key in self.steps)


_ORDER = {str(phase): i for i, phase in enumerate(FunctionPhase)}


@dataclass(eq=False, slots=True)
class Bundle:
    """A saved buffer of each micro-batch: the slots that share it, and the functions that make it and that load it for
    the last time."""

    origin: FunctionKey
    death: FunctionKey
    names: set[str]
    bytes: int
    memory: str


class TracedMemory(ClassMemory):
    """Keeps the traces of the replays."""

    replay = Traced

    def lives(self, variant: Variant) -> Lives:
        """What an action does; the schedule must have come by it (`timeline`)."""
        replay = self.replays[variant]
        assert isinstance(replay, Traced)
        return replay.found

    def timeline(self, group: int) -> list[tuple[Variant, Skipped]]:
        """The group's actions in order, each with those before it that are left out: of the rounds of a loop, the first
        two and the last stand for all."""
        nothing = Skipped((), 0)
        found: list[tuple[Variant, Skipped]] = []
        accumulated: set[str] = set()
        for steps, n in rounds(self.program, self.cls, group):
            for i in range(min(n, 3)):
                skipped = Skipped(steps, n - 3) if i == 2 and n > 3 else nothing
                for kind, chunk in steps:
                    found.append(((kind, chunk, self.touched[kind, chunk] - accumulated), skipped))
                    self.effect(kind, chunk, accumulated)
                    accumulated |= self.touched[kind, chunk]
                    skipped = nothing
        return found

    def bundles(self, group: int) -> list[Bundle]:
        """What the group's functions save."""
        loads = {
            i.op.name: key
            for key, f in self.functions.items()
            for i in f.body.nodes
            if isinstance(i.op, Load) and i.op.last
        }
        of: dict[str, Bundle] = {}
        seen: set[FunctionKey] = set()
        for variant in sorted((v for v, _ in self.timeline(group)), key=lambda v: _ORDER[v[0]]):
            if variant[:2] in seen:
                continue
            seen.add(variant[:2])
            lives = self.lives(variant)
            known = {b: of[next(iter(names))] for b, names in lives.given.items() if not _held(b)}
            for name, b in lives.saved.items():
                if name not in of and not _held(b):
                    bundle = known.setdefault(b, Bundle(variant[:2], loads[name], set(), b.bytes, b.memory))
                    bundle.names.add(name)
                    bundle.death = max(bundle.death, loads[name], key=lambda key: _ORDER[key[0]])
                    of[name] = bundle
        return list(dict.fromkeys(of.values()))


def _held(buffer: Buffer) -> bool:
    """Whether it is there anyway, saved or not: a weight, what micro-batches have added up."""
    return buffer.static or buffer.accumulator not in ("", Role.OUTPUT)


def bundle_of(bundles: list[Bundle], lives: Lives) -> dict[Buffer, Bundle]:
    """The buffers of an action that are bundles: those that it was given, and those that it saves."""
    of = {name: bundle for bundle in bundles for name in bundle.names}
    found = {b: of[n] for n, b in lives.saved.items() if n in of}
    for b, names in lives.given.items():
        found.update((b, of[n]) for n in names if n in of)
    return found
