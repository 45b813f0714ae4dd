"""Memory with other sizes of axes: what actions do to it, as sums of sizes, without replaying them one by one.

What comes and goes, and when, hangs on a program and not on how large its values are. So an action is replayed once
with *forms* in the place of bytes: how often the memory has each of its values, or of its states' buffers. Of all its
moments those are left of which no other has as much of everything: for each sizes the fullest is one of these.

A form is one whole number whose digits are the multiples, so that adding up is adding, and comparing all digits at once
is a subtraction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from compiler.cost.kernels.said import NAMING, Said, said, said_in_loop
from compiler.graph import Graph, Type, Value
from compiler.layout import TIME, Layout, local_type
from compiler.memory.action import MemoryEffect, Top, Totals, Where, declared
from compiler.memory.facts import FunctionFacts, KnownLives
from compiler.memory.held import Buffer, copies
from compiler.program import MODEL_PASSES, DeviceClass, FunctionKey, StateDecl, listed
from compiler.walk import walk

if TYPE_CHECKING:
    from compiler.cost.memory.systems import SystemMemory

BITS = 40
"""Of a digit: multiples stay far below."""

KEPT = 300
"""Classes of devices that are remembered, those that were asked for last."""

Terms = tuple[tuple[int, int], ...]
"""Sizes (their places) and how often each counts."""

Moment = tuple[Terms, tuple[tuple[tuple[str, str], Terms], ...]]
"""What a memory has, in all and by (memory, role)."""

Atom = tuple[Type, Layout, float] | StateDecl
"""A size: a share of a value of a type in a layout, or a state's buffers."""


class Atoms:
    """The sizes that the forms of a class are made of."""

    def __init__(self) -> None:
        self.of: dict[object, int] = {}
        self.atoms: list[Atom] = []
        self.zero = 0  # the form of which each digit is in the middle of its range

    def form(self, atom: Atom) -> int:
        """Once that size."""
        key = (atom.type, atom.layout, listed(atom), "state") if isinstance(atom, StateDecl) else atom
        place = self.of.get(key)
        if place is None:
            place = self.of[key] = len(self.atoms)
            self.atoms.append(atom)
            self.zero += 1 << (BITS * place + BITS - 1)
        return 1 << (BITS * place)

    def value(self, var: Value, share: float) -> int:
        """The form of a value."""
        assert var.layout is not None
        return self.form((var.type, var.layout, share))

    def covers(self, form: int, other: int) -> bool:
        """Whether it has as much of everything."""
        return (form - other + self.zero) & self.zero == self.zero

    def terms(self, form: int) -> Terms:
        """Its digits."""
        found, left, half = [], form + self.zero, 1 << (BITS - 1)
        for place in range(len(self.atoms)):
            digit = (left & ((1 << BITS) - 1)) - half
            left >>= BITS
            if digit:
                found.append((place, digit))
        return tuple(found)

    def sizes(self, sizes: Mapping[str, int]) -> list[int]:
        """Bytes of all, with these sizes of axes."""
        found = []
        for atom in self.atoms:
            if isinstance(atom, StateDecl):
                size, parts = declared(atom, sizes)
                found.append(size * parts)
            else:
                of, layout, share = atom
                size = local_type(of, layout, sizes).bytes
                found.append(size if share == 1.0 else round(size * share))
        return found


class FullestForms:
    """The moments of an action in one memory that may be the fullest of all, the first first. Of two of which one has
    as much of everything the other is left out: the earlier one counts, unless the later has more."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self.kept: list[tuple[int, dict[tuple[str, str], int]]] = []

    def add(self, total: int, totals: Mapping[tuple[str, str], int]) -> None:
        """A moment."""
        covers = self.atoms.covers
        for kept, _ in reversed(self.kept):
            if covers(kept, total):
                return
        self.kept = [each for each in self.kept if not covers(total, each[0])]
        self.kept.append((total, dict(totals)))


class FormAction(NamedTuple):
    """An action's effect, for any sizes; saved: the slots that it leaves; like: the number of the replay that it is of,
    of a chunk that may call its buffers otherwise."""

    delta: tuple[tuple[tuple[str, str], Terms], ...]
    fullest: tuple[tuple[str, tuple[Moment, ...]], ...]
    saved: dict[str, Buffer]
    like: int

    def effect(self, sizes: Sequence[int]) -> MemoryEffect:
        """With these bytes of all sizes. Nothing is said of where the fullest moment is, nor of what is alive then."""
        peaks = {}
        for memory, moments in self.fullest:
            most, fullest = bytes_in(moments[0][0], sizes), moments[0]
            for moment in moments[1:]:
                if (of := bytes_in(moment[0], sizes)) > most:
                    most, fullest = of, moment
            totals: Totals = {key: bytes_in(terms, sizes) for key, terms in fullest[1]}
            peaks[memory] = Top(most, totals, NOWHERE, 0)
        return MemoryEffect({key: bytes_in(terms, sizes) for key, terms in self.delta}, peaks)


NOWHERE = Where()


def bytes_in(terms: Terms, sizes: Sequence[int]) -> int:
    """How large it is."""
    return sum([sizes[place] * times for place, times in terms])


class ClassForms:
    """What the actions of one class's devices do, as they are asked for. memory: of the first program that had it."""

    def __init__(self, memory: SystemMemory) -> None:
        self.memory, self.atoms, self.count = memory, Atoms(), 0
        self.known: dict[tuple[object, ...], FormAction] = {}
        self.named: dict[FunctionKey, tuple[str, ...]] = {}
        self.does: dict[FunctionKey, tuple[object, ...]] = {}
        self.alike: dict[object, tuple[list[str], FormAction]] = {}  # by what is done: what that was done to
        self.loops: dict[int, tuple[Said, tuple[float, ...]]] = {}

    def action(self, key: FunctionKey, accumulated: frozenset[str], before: FormAction | None = None) -> FormAction:
        """accumulated: what the step has set before; before: the action whose slots it finds."""
        if key not in self.named:
            ops = [node.op for node, _ in walk(self.memory.functions[key].body)]
            self.named[key] = tuple([op.name for op in ops if isinstance(op, NAMING)])
        accumulated = accumulated.intersection(self.named[key])  # of others it does not ask whether they are there
        of = (key, accumulated, id(before))
        if of not in self.known:
            several = (key[0], 1) in self.memory.functions and key[0] in MODEL_PASSES
            self.known[of] = (self._as_others if several else self._replayed)(key, accumulated, before)
        return self.known[of]

    def _as_others(self, key: FunctionKey, accumulated: frozenset[str], before: FormAction | None) -> FormAction:
        """Where another chunk has done the very same to buffers that it calls otherwise: that, with these names."""
        slots, like = (before.saved, before.like) if before is not None else ({}, -1)
        named = [*slots, *self.named[key]]
        first = {name: i for i, name in reversed([*enumerate(named)])}
        pattern = tuple([(first[name], name in accumulated) for name in named])
        does = (*self._does(key), like, pattern)
        if does not in self.alike:
            made = self._replayed(key, accumulated, before)
            self.alike[does] = named, made
            return made
        theirs, found = self.alike[does]
        names = dict(zip(theirs, named, strict=True))
        return found._replace(saved={names[name]: b for name, b in found.saved.items()})

    def _does(self, key: FunctionKey) -> tuple[object, ...]:
        """All that an action hangs on, whatever its buffers are called."""
        if key not in self.does:
            memory = self.memory
            text = said(memory.functions[key].body, memory.states, self._loop)
            added = tuple([name in memory.added for name in self.named[key]])
            self.does[key] = key[0], text, memory.inside[key], added
        return self.does[key]

    def _loop(self, body: Graph) -> tuple[Said, tuple[float, ...]]:
        if id(body) not in self.loops:
            self.loops[id(body)] = said_in_loop(body)
        return self.loops[id(body)]

    def _replayed(self, key: FunctionKey, accumulated: frozenset[str], before: FormAction | None) -> FormAction:
        replay = self.memory.in_forms(key, self.atoms)
        for a in accumulated:
            replay.accumulated[a] = replay.accumulator(a)
        replay.saved = copies(before.saved) if before is not None else {}
        delta = replay.run(self.memory.functions[key]).delta
        terms = self.atoms.terms
        fullest = [(memory, tuple([self._moment(*m) for m in of.kept])) for memory, of in replay.moments.items()]
        self.count += 1
        return FormAction(
            tuple([(k, terms(form)) for k, form in delta.items()]), tuple(fullest), replay.saved, self.count
        )

    def _moment(self, total: int, totals: Mapping[tuple[str, str], int]) -> Moment:
        terms = self.atoms.terms
        return terms(total), tuple([(key, terms(form)) for key, form in totals.items()])


class MemoryTemplates:
    """Of the classes of programs that are priced one after the other."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], ClassForms] = {}
        self.lives: KnownLives = {}  # of bodies
        self.facts_of: dict[int, tuple[object, FunctionFacts]] = {}

    def facts(self, cls: DeviceClass) -> FunctionFacts:
        """Of the functions of a class; found by their identity, and so kept with them."""
        known = self.facts_of.get(id(cls.functions))
        if known is None:
            while len(self.facts_of) >= KEPT:
                del self.facts_of[next(iter(self.facts_of))]
            known = self.facts_of[id(cls.functions)] = cls.functions, FunctionFacts.of(cls)
        return known[1]

    def of(self, memory: SystemMemory) -> ClassForms:
        """Those of the class, if another program has had its functions and states; found by their identity, and so
        kept."""
        systems, cls = memory.systems, memory.cls
        inside = systems.features.inside[systems.program.classes.index(cls)]
        key = (
            tuple([(f.key, id(f.body), *inside[f.key]) for f in cls.functions]),
            id(cls.states),
            systems.fused,
            systems.strategy.fuses,
            systems.loss,
            systems.features.compute,
            systems.features.regions.wide,
            memory.added,
            memory.sizes.get(TIME, 1) == 1,
        )
        found = self.known.pop(key, None)
        if found is None:
            while len(self.known) >= KEPT:
                del self.known[next(iter(self.known))]
            found = ClassForms(memory)
        self.known[key] = found
        return found
