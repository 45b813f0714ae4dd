"""The same strategy in the smallest sizes: `verify --small`.

What a job computes, and what its strategy makes of it, hardly depends on its sizes; the time of a proof does. So the
numbers that the file states (parameters and literals) are made smaller one by one, as long as nothing else changes:
the graph but for its sizes, the outcome of every `if`, the file's checks, which dims divide by which axes, and what
lowering makes of it, every operation and every message on every class of devices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from itertools import combinations
from math import isqrt, prod
from typing import Any

from compiler.driver import Compiled, compile_job
from compiler.evaluate.sizes import Sizes, Stated
from compiler.graph import Graph, Value, names_of
from compiler.model import Job
from compiler.ops.call import Call
from compiler.ops.index import Take
from compiler.ops.reduce import TopK
from compiler.ops.repeat import Repeat
from compiler.passes.cuts import divided
from compiler.program import Program
from compiler.walk import bodies
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from dsl.source import Span

Fact = tuple[str, str]
"""What a fact is of (an axis, a dim, a loop, the stages of one, or the whole), and its name."""

SHORT = 4
"""Axes of at most so many devices stay as they are, and no dim is made shorter."""

EFFORT = 200_000
"""Nodes of graphs, evaluated, after which what was found so far counts: some 30 s. Not a time, so that all machines
find the same."""

LOWERED = 10
"""What lowering a graph takes, in evaluations of it."""

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
    """A job in its smallest sizes. axes: sizes (before, after) of those that are shorter. devices: before. other: how
    many operations of the lowered program are not those of the full size. complete: everything was tried.
    """

    compiled: Compiled
    shrunk: tuple[Shrunk, ...]
    axes: tuple[tuple[str, int, int], ...]
    devices: int
    other: int
    complete: bool


def small(evaluate: Evaluate) -> Small:
    """Shrink a job. Raises ParcError for what is wrong with it at its own sizes."""
    search = _Search(evaluate, EFFORT)
    search.outline = outline(compile_job(evaluate(Sizes())).program)
    search.shrink_all()
    search.mend()
    return search.result(search.legal())


def smallest(evaluate: Evaluate, effort: int) -> Job:
    """The job in sizes as small as are found with so much effort (nodes evaluated), whatever it lowers to. Raises
    ParcError for what is wrong with it at its own sizes."""
    search = _Search(evaluate, effort)
    search.shrink_all()
    return evaluate(Sizes(search.instead, bare=True))


class _Search:
    """Which numbers stand in place of which.

    Numbers are made smaller as long as the facts stay (`facts`), one at a time, or with another one that a fact ties it
    to: 40,000 divides by 8 and by 16, not by 128, and only together can all three be 2, 2 and 6. What comes out is
    lowered; where that is another program (a layout that is chosen by bytes), sizes are made larger again.
    """

    def __init__(self, evaluate: Evaluate, effort: int) -> None:
        self.evaluate, self.left = evaluate, effort
        sizes = Sizes(bare=True)
        self.full = evaluate(sizes)
        self.nodes = sum(len(graph.nodes) for graph in bodies(self.full.model.graph))
        self.decided, self.facts = tuple(sizes.decided), facts(self.full, self.full)
        self.outline: Outline = frozenset()  # of the program of the full size
        self.instead: dict[Span, int] = {}
        self.job = self.full
        self.sources = {s: c for s in sizes.stated.values() if s.value > 2 and (c := self._controls(s))}

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
        found = facts(job, self.full)
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
        before, after = _sizes(self.full), _sizes(self.job)
        axes = tuple((name, n, after[name]) for name, n in before.items() if after[name] != n)
        other = difference(outline(compiled.program), self.outline)
        return Small(compiled, tuple(shrunk), axes, self.full.strategy.devices, other, not self.late)


def _smaller(now: int, stated: int) -> Iterator[int]:
    """Numbers to try, the smallest first: all up to 16, then some, and divisors of the number that is stated."""
    some = set(range(2, 17))
    for power in range(4, min(now.bit_length() + 1, 40)):
        some |= {2**power, 3 * 2 ** (power - 1)}
    some |= {d for n in range(2, min(isqrt(stated), 64) + 1) if stated % n == 0 for d in (n, stated // n)}
    yield from sorted(n for n in some if n < now)


# --- what must stay ------------------------------------------------------------------------------------

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_LIST = re.compile("#(, #)+")


SIZED = ("name", "mesh", "pipelines", "microbatches", "microbatch_dim")
"""Fields of a strategy that speak of sizes, and have facts of their own; its other rules are kept as they are."""


def facts(job: Job, full: Job) -> dict[Fact, Any]:
    """What a job says but for its sizes: its graph, its rules, what divides by what."""
    strategy, sizes, whole = job.strategy, _sizes(job), _sizes(full)
    dims, loops, micro = _by_name(job), _loops(job.model.graph), job.strategy.microbatches
    found: dict[Fact, Any] = {("axis", a): n if whole[a] <= SHORT else "longer" for a, n in sizes.items()}
    everywhere = {rule.axis for rule in strategy.shards}
    by_dim = {dim: set(everywhere) for dim in dims}
    choices = _choices(job.model.graph)
    stated = [(dim, rule.axis) for rule in strategy.splits for dim in rule.dims]
    stated += [(dim, axis) for layout in strategy.layouts for dim, over in layout.dims for axis in over]
    for dim, axis in stated:
        by_dim.setdefault(dim, set()).add(axis)
    first = full.model.inputs[0].value.type.names if full.model.inputs else ()
    batch = strategy.microbatch_dim or (first or ("",))[0]
    for dim, over in by_dim.items():
        pieces = {prod(sizes[a] for a in group) for r in (1, 2, 3) for group in combinations(sorted(over), r)}
        groups = [group for r in (1, 2, 3) for group in combinations(sorted(over), r)]
        counts = [prod(sizes[a] for a in group) for group in groups] + [micro * n for n in pieces if dim == batch]
        counts += [micro] if dim == batch else []
        own = dims.get(dim, ())
        found[("dim", dim)] = (
            frozenset(n == 1 for n in own),
            frozenset(tuple(n % c == 0 for c in counts[: len(groups)]) for n in own),
            frozenset(all(n % c == 0 for c in counts[len(groups) :]) for n in own),
            frozenset(tuple(-(-n // micro) % c == 0 for c in counts[: len(groups)]) for n in own if dim == batch),
            all(n >= sizes[a] for n in own if n > 1 for a in over if a not in everywhere),
            choices.get(dim, frozenset()),
        )
    stages = {p.parts[0]: p.chunks * sizes[p.axis] for p in strategy.pipelines if len(p.parts) == 1}
    for label, n in loops.items():
        cut = stages.get(label, 1)
        found[("loop", label)] = (n > 1, n >= 2 * cut, n % cut == 0)
    for p in strategy.pipelines:
        found["stages", p.parts[0]] = min(sizes[p.axis], 3)  # first, last, and between
        cut, n = p.chunks * sizes[p.axis], p.length(loops)
        if len(p.parts) > 1:  # and where one part goes over into the next
            rows = divided(p, loops, cut).values()
            also = [sum(map(bool, stage)) for stage in zip(*rows, strict=True)]
            spans = tuple(min(sum(map(bool, row)), 3) for row in rows)
            found["row", p.parts[0]] = (n >= 2 * cut, n % cut == 0, max(also), spans)
    found["microbatches", ""] = (micro > 1, *(micro > sizes[p.axis] for p in strategy.pipelines))
    found["pipelines", ""] = tuple(
        (p.parts, p.axis, p.schedule, p.chunks, len(p.cuts or ())) for p in strategy.pipelines
    )
    found["rules", ""] = tuple(getattr(strategy, f.name) for f in fields(strategy) if f.compare and f.name not in SIZED)
    found["graph", ""] = _NUMBER.sub("#", str(job.model.graph))
    return found


def amounts(job: Job) -> dict[Fact, Any]:
    """The sizes on which the facts of the same names depend."""
    found: dict[Fact, Any] = {("axis", a): n for a, n in _sizes(job).items()}
    found |= {("dim", name): sizes for name, sizes in _by_name(job).items()}
    found |= {("loop", label): n for label, n in _loops(job.model.graph).items()}
    return found | {("microbatches", ""): job.strategy.microbatches}


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
            attributes = tuple(_LIST.sub("#", _NUMBER.sub("#", repr(getattr(op, f.name)))) for f in fields(op))
        outs = tuple((v.name, v.type.dtype, v.type.names, v.layout) for v in instr.outputs)
        yield type(op).__name__, attributes, tuple(names_of(instr.inputs)), outs


def _sizes(job: Job) -> dict[str, int]:
    return {a.name: a.size for a in job.strategy.mesh}


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
        if isinstance(node.op, Repeat):
            yield from _values(node.op.body)


def _loops(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in graph:
        if isinstance(node.op, Repeat):
            found[node.op.label] = node.op.count
            found |= _loops(node.op.body)
    return found


def _choices(graph: Graph) -> dict[str, frozenset[tuple[str, bool]]]:
    """By dim that something is chosen along: whether that is fewer than there are. Two of two experts are no choice,
    and an expert with a seat for each position drops none."""
    found: dict[str, frozenset[tuple[str, bool]]] = {}
    made = {v for node in graph for v in node.outputs}
    for node in graph:
        op = node.op
        if isinstance(op, Repeat):
            for dim, of in _choices(op.body).items():
                found[dim] = found.get(dim, frozenset()) | of
        elif isinstance(op, TopK):
            fewer = node.inputs[0].type.size(op.dim) > op.into.size
            found[op.dim] = found.get(op.dim, frozenset()) | {(op.into.name, fewer)}
        elif isinstance(op, Take) and node.inputs[1] in made:
            table, index = (v.type for v in node.inputs)
            seats = {(d.name, d.size < table.size(op.dim)) for d in index.dims if not table.has(d.name)}
            found[op.dim] = found.get(op.dim, frozenset()) | seats
    return found


def _by_name(job: Job) -> dict[str, set[int]]:
    """Sizes of the dims of each name; of no loop's."""
    loops = _loops(job.model.graph)
    found: dict[str, set[int]] = {}
    for v in _values(job.model.graph):
        for d in v.type.dims:
            if d.name not in loops:
                found.setdefault(d.name, set()).add(d.size)
    return found
