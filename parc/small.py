"""The same strategy in the smallest sizes: `verify --small`.

What a job computes, and what its strategy makes of it, hardly depends on its sizes; the time of a proof does. So the
numbers that the file states (parameters and literals) are made smaller one by one, as long as nothing else changes:
the graph but for its sizes, the outcome of every `if`, the file's checks, which dims divide by which axes, and what
lowering makes of it, every operation and every message on every class of devices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from math import isqrt
from typing import Any

from compiler.driver import Compiled, compile_job
from compiler.evaluate.sizes import Sizes, Stated
from compiler.graph import Graph, names_of
from compiler.model import Job
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.program import Program
from compiler.walk import bodies
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from dsl.source import Span
from parc.small_facts import KEPT, NUMBER, SHORT, Fact, amounts, axes_by_hand, axis_sizes, facts
from parc.smaller import elements

EFFORT = 200_000
"""Nodes of graphs, evaluated, after which what was found so far counts: some 30 s. Not a time, so that all machines
find the same."""

LEAP = 16
"""The least that a long dim is made at once."""

LOWERED = 10
"""What lowering a graph takes, in evaluations of it."""

LARGE = 20_000_000
"""Elements of all values of a job from which on axes of something written by hand are made shorter, too."""

Evaluate = Callable[[Sizes], Job]
Outline = frozenset[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A number of the file, and the smaller one in its place. name: the parameter's; of a literal nothing."""

    name: str
    span: Span
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Small:
    """A job in its smallest sizes. axes: sizes (before, after) of those that are shorter; given: which of these
    something written by hand is given. devices: before. other: how many operations of the lowered program are not those
    of the full size. complete: everything was tried.
    """

    compiled: Compiled
    shrunk: tuple[Shrunk, ...]
    axes: tuple[tuple[str, int, int], ...]
    devices: int
    other: int
    complete: bool
    given: tuple[str, ...] = ()


def small(evaluate: Evaluate) -> Small:
    """Shrink a job. Raises ParcError for what is wrong with it at its own sizes."""
    whole = outline(compile_job(evaluate(Sizes())).program)
    for kept in (KEPT, 0):
        search = _Search(evaluate, EFFORT, kept=kept)
        search.outline = whole
        search.shrink_all()
        search.mend()
        found = search.legal()
        if elements(search.job) <= LARGE or not axes_by_hand(search.full):
            break
    return search.result(found)


def smallest(
    evaluate: Evaluate, effort: int, axes: Collection[str], enough: Callable[[Job], bool], kept: int = KEPT
) -> Job:
    """The job in sizes as small as are found with so much effort (nodes evaluated), or in such as are small enough,
    whatever it lowers to. axes: the only ones of which it counts what divides by them; kept: how long may be those that
    stay as they are since something written by hand is given them. Raises ParcError for what is wrong with it at its
    own sizes."""
    search = _Search(evaluate, effort, axes, kept)
    search.leap()
    if not enough(search.job):
        search.shrink_all()
    return evaluate(Sizes(search.instead, bare=True))


class _Search:
    """Which numbers stand in place of which.

    Numbers are made smaller as long as the facts stay (`facts`), one at a time, or with another one that a fact ties it
    to: 40,000 divides by 8 and by 16, not by 128, and only together can all three be 2, 2 and 6. What comes out is
    lowered; where that is another program (a layout that is chosen by bytes), sizes are made larger again.
    """

    def __init__(self, evaluate: Evaluate, effort: int, axes: Collection[str] | None = None, kept: int = KEPT) -> None:
        self.evaluate, self.left, self.axes, self.kept = evaluate, effort, axes, kept
        sizes = Sizes(bare=True)
        self.full = evaluate(sizes)
        self.nodes = sum(len(graph.nodes) for graph in bodies(self.full.model.graph))
        self.decided, self.facts = tuple(sizes.decided), facts(self.full, self.full, axes, kept)
        self.outline: Outline = frozenset()  # of the program of the full size
        self.instead: dict[Span, int] = {}
        self.job = self.full
        self.stated = tuple(sizes.stated.values())
        self.known: dict[Stated, frozenset[Fact]] = {}

    @cached_property
    def sources(self) -> dict[Stated, frozenset[Fact]]:
        """Numbers of the file, and what depends on each."""
        return {s: c for s in self.stated if s.value > 2 and (c := self._controlled(s))}

    def _controlled(self, stated: Stated) -> frozenset[Fact]:
        """`_controls`, asked once."""
        if stated not in self.known:
            self.known[stated] = self._controls(stated)
        return self.known[stated]

    @property
    def late(self) -> bool:
        return self.left <= 0

    def _evaluated(self, sizes: Sizes) -> Job:
        self.left -= self.nodes
        return self.evaluate(sizes)

    def _controls(self, stated: Stated) -> frozenset[Fact]:
        """The facts that depend on a number: of dims, axes…; nothing if no size does."""
        own = amounts(self.full)
        n = stated.value
        for value in () if self.late else (2 * n, n // 2, 3 * n, n - 1, n + 1):
            try:
                other = amounts(self._evaluated(Sizes({stated.span: value}, bare=True)))
            except ParcError:
                continue
            changed = frozenset(k for k, v in other.items() if own.get(k) != v)
            if changed:
                return changed
        return frozenset()

    def leap(self) -> None:
        """All large parameters at once as small as a few axes, then each smaller yet, and large literals (which may be
        bounds of parameters): where there is little effort, the largest must not come last."""
        least = max(LEAP, *(a.size for a in self.full.strategy.mesh if self.axes is None or a.name in self.axes))
        large: list[Stated] = []
        for near in (least, 2 * least, 4 * least, 8 * least):
            large = [s for s in self.stated if s.value > near]
            first = [s for s in large if s.name and self._controlled(s)] or [s for s in large if self._controlled(s)]
            if first and self._try({s.span: near for s in first}) == frozenset():
                break
        for stated in sorted(large, key=lambda s: (not s.name, s.value)):
            if not self.late and not self._controlled(stated):
                continue
            for value in (near // 8, near // 4, near // 2, near):
                if self.late or value >= self._now(stated) or self._try({stated.span: value}) == frozenset():
                    break

    def shrink_all(self) -> None:
        """One after the other, the smallest first, until nothing can be smaller."""
        order = self._order()
        while any([self._shrink(s) for s in order]) and not self.late:
            pass

    def _order(self) -> list[Stated]:
        return sorted(self.sources, key=lambda s: (not any(c[0] == "axis" for c in self.sources[s]), s.value))

    def _shrink(self, stated: Stated) -> bool:
        """Put the smallest number that changes no fact in the place of one, and smaller ones where those are tied."""
        for value in self._smaller(stated):
            if self.late:
                return False
            broken = self._try({stated.span: value})
            if broken == frozenset():
                return True
            for other in self.sources if broken is not None and len(broken) == 1 else ():
                if other is stated or not broken or not self.sources[other] & broken:
                    continue
                for tied in self._smaller(other):
                    if self._try({stated.span: value, other.span: tied}) == frozenset():
                        return True
        return False

    def _smaller(self, stated: Stated) -> Iterator[int]:
        """What to try for a number, the smallest first."""
        least = min(SHORT, stated.value) if any(c[0] == "dim" for c in self.sources[stated]) else 2
        return (n for n in _smaller(self._now(stated), stated.value) if n >= least)

    def _now(self, stated: Stated) -> int:
        return self.instead.get(stated.span, stated.value)

    def _try(self, changed: Mapping[Span, int]) -> frozenset[Fact] | None:
        """The facts that are others with these numbers (taken over if there are none); None if it is no job."""
        sizes = Sizes({**self.instead, **changed}, bare=True)
        try:
            job = self._evaluated(sizes)
        except ParcError:
            return None
        if tuple(sizes.decided) != self.decided:
            return None
        found = facts(job, self.full, self.axes, self.kept)
        broken = frozenset(k for k in self.facts.keys() | found.keys() if self.facts.get(k) != found.get(k))
        if not broken:
            self.instead, self.job = dict(sizes.instead), job
        return broken

    def mend(self) -> None:
        """Make sizes larger where lowering makes another program of smaller ones."""
        order = self._order()
        best = self._differs()
        for times in (3, 2, 9, 4, 27, 16, 81, 64):  # odd ones leave alone what must not divide
            for stated in order:
                if not best or self.late:
                    return
                if stated.span not in self.instead or not any(c[0] == "dim" for c in self.sources[stated]):
                    continue
                kept, job = self.instead, self.job
                value = min(self._now(stated) * times, stated.value)
                if self._try({stated.span: value}) == frozenset() and (now := self._differs()) < best:
                    best = now
                else:
                    self.instead, self.job = kept, job

    def legal(self) -> Compiled:
        """The job, with numbers of the file given back where there is no program of the smaller ones: one, or as many
        as it takes."""
        if (made := self._lowered()) is not None:
            return made
        kept = self.instead
        for span in kept:
            self.instead = {s: n for s, n in kept.items() if s != span}
            if self._try({}) == frozenset() and (made := self._lowered()) is not None:
                return made
        self.instead = dict(kept)
        while self.instead and (made := self._lowered()) is None:
            self.instead.popitem()
        self.job = self.evaluate(Sizes(self.instead, bare=True))
        return made or self._compiled()

    def _lowered(self) -> Compiled | None:
        try:
            return self._compiled()
        except ParcError:
            return None

    def _compiled(self) -> Compiled:
        self.left -= LOWERED * self.nodes
        return compile_job(self.evaluate(Sizes(self.instead)))

    def _differs(self) -> int:
        """How many operations lowering makes otherwise."""
        try:
            return difference(outline(self._compiled().program), self.outline)
        except ParcError:
            return 10**9

    def result(self, compiled: Compiled) -> Small:
        """What was found; compiled: in these sizes."""
        shrunk = [Shrunk(s.name, s.span, s.value, self.instead[s.span]) for s in self.sources if s.span in self.instead]
        shrunk.sort(key=lambda s: (s.name == "", s.span.source, s.span.start))
        before, after = axis_sizes(self.full), axis_sizes(self.job)
        axes = tuple((name, n, after[name]) for name, n in before.items() if after[name] != n)
        other = difference(outline(compiled.program), self.outline)
        by_hand = axes_by_hand(self.full)
        given = tuple(name for name, _, _ in axes if name in by_hand)
        return Small(compiled, tuple(shrunk), axes, self.full.strategy.devices, other, not self.late, given)


def _smaller(now: int, stated: int) -> Iterator[int]:
    """Numbers to try, the smallest first: all up to 16, then some, and divisors of the number that is stated."""
    some = set(range(2, 17))
    for power in range(4, min(now.bit_length() + 1, 40)):
        some |= {2**power, 3 * 2 ** (power - 1)}
    some |= {d for n in range(2, min(isqrt(stated), 64) + 1) if stated % n == 0 for d in (n, stated // n)}
    yield from sorted(n for n in some if n < now)


# --- what must stay ------------------------------------------------------------------------------------

_LIST = re.compile("#(, #)+")


def difference(one: Outline, other: Outline) -> int:
    """How many operations of classes of devices are not the same."""

    def lines(of: Outline) -> Counter[Any]:
        return Counter(line for states, functions in of for _, _, body in functions for line in body)

    a, b = lines(one), lines(other)
    return sum(((a - b) | (b - a)).values()) + abs(len(one) - len(other))


def outline(program: Program) -> Outline:
    """What the classes of devices do, but for sizes, trip counts and the order of micro-batches."""
    return frozenset(
        (
            tuple((s.name, s.role, s.type.dtype, s.type.names, s.layout, s.memory) for s in cls.states),
            tuple((*f.key, tuple(_instructions(f.body))) for f in cls.functions),
        )
        for cls in program.classes
    )


def _instructions(body: Graph) -> Iterator[tuple[Any, ...]]:
    for instr in body.nodes:
        op = instr.op
        if isinstance(op, Call):
            attributes: tuple[Any, ...] = (op.at, *_instructions(op.body))
        elif isinstance(op, Repeat):
            attributes = (op.label, op.carries, op.stacks, op.reverse, *_instructions(op.body))
        else:
            attributes = tuple(_LIST.sub("#", NUMBER.sub("#", repr(getattr(op, f.name)))) for f in fields(op))
        outs = tuple((v.name, v.type.dtype, v.type.names, v.layout) for v in instr.outputs)
        yield type(op).__name__, attributes, tuple(names_of(instr.inputs)), outs
