"""What of a model functions of the standard library can compute along an axis of positions: found by trying them.

A function is tried wherever the model calls one that is given the same but for an axis. Types, weights and sizes
decide, as they do for `implement` in a file; that it computes the same is proved of what is found (`by_hand.tried`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from compiler.evaluate.implement import implemented
from compiler.evaluate.index import ModelIndex, index_model
from compiler.evaluate.modules import Loader, Module
from compiler.evaluate.plan import PlannedStrategy, build_plan
from compiler.evaluate.session import Session
from compiler.evaluate.values import Skip
from compiler.graph import Graph, Node
from compiler.model import Job, Model
from compiler.ops.contract import Contract
from compiler.ordered import ordered
from compiler.origin import within
from compiler.strategy import ImplementRule, Strategy
from compiler.walk import walk
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from dsl.source import Source, Span
from parc.planning.dims import Splittable

LIBRARY = "std.implementations"
FUNCTIONS = ("ring_attention", "ring_grouped_attention")
"""Those of the library that are tried: what layouts do not say. (Keys and values that are gathered, and heads in the
place of positions, they do.)"""

LEAST = 0.1
"""The share of the products of a model that two activations have in such scopes, from which on they are worth a choice:
what positions have to do with each other is more where there are many."""

NAME = "tried"


@dataclass(frozen=True, slots=True)
class HandWritten:
    """Scopes that a function computes; zigzag: positions lie in that order then."""

    function: str
    scopes: tuple[str, ...]
    zigzag: bool

    @property
    def words(self) -> str:
        """For people."""
        return f"{' and '.join(self.scopes)} by {self.function}{', zig-zag' if self.zigzag else ''}"

    def lines(self, dim: str, axis: str) -> list[str]:
        """The statements that say it, of positions that the axis splits."""
        order = " zigzag" if self.zigzag else ""
        split = f"split {dim} on {axis}{order} for activations"
        return [split, *(f"implement {scope} by {self.function}({axis})" for scope in self.scopes)]


class Implementing:
    """Of a job, for the axis of this name, that splits this dim. found: what there is to choose."""

    def __init__(self, job: Job, dim: str, axis: str) -> None:
        self.job, self.dim, self.axis = job, dim, axis
        self.found: tuple[HandWritten, ...] = ()
        self.made: dict[tuple[HandWritten, int], PlannedStrategy] = {}
        self.models: dict[tuple[tuple[ImplementRule, ...], int, bool], Job] = {}

    @cached_property
    def index(self) -> ModelIndex:
        """Of the model."""
        return index_model(self.job.model)

    def rules(self, by: int, size: int) -> tuple[ImplementRule, ...]:
        """Of a choice (counted from 1), along so many devices. Raises ParcError where that cannot be."""
        return self._built(self.found[by - 1], size).strategy.implementations

    def job_of(self, strategy: Strategy) -> Job:
        """The job with a strategy of `rules`: its model has what that says by hand. Raises ParcError for positions that
        cannot lie in its order."""
        rules, zigzag = strategy.implementations, bool(strategy.zigzags)
        size = next(a.size for a in strategy.mesh if a.name == self.axis)
        key = rules, size, zigzag
        if key not in self.models:
            plan = next(
                p
                for (choice, n), p in self.made.items()
                if n == size and choice.zigzag == zigzag and p.strategy.implementations == rules
            )
            job = self.job
            by_hand = model = implemented(job.model, plan.by_hand, plan.strategy)
            other = job.evaluated and implemented(job.evaluated, plan.by_hand, plan.strategy)
            if zigzag:
                model, other = ordered(model, plan.strategy), other and ordered(other, plan.strategy)
            written = job.model, job.evaluated
            self.models[key] = replace(job, model=model, evaluated=other, written=written, by_hand=by_hand)
        return replace(self.models[key], strategy=strategy)

    def _built(self, choice: HandWritten, size: int) -> PlannedStrategy:
        if (choice, size) not in self.made:
            self.made[choice, size] = self._read(choice, size)
        return self.made[choice, size]

    def _read(self, choice: HandWritten, size: int) -> PlannedStrategy:
        """A strategy that says nothing else. Raises ParcError."""
        statements = [f"mesh ({self.axis} = {size})", *choice.lines(self.dim, self.axis)]
        text = "\n".join([f"use {LIBRARY} ({choice.function})", f"strategy {NAME} {{", *statements, "}", ""])
        session, module = _module(text)
        try:
            return build_plan(session, module, ast.Name(NAME, span=Span("<plan>", 0, 0)), self.index, None)
        except Skip:
            session.diagnostics.raise_if_any()
            raise fail("E0420", "it cannot be implemented so", Span("<plan>", 0, 0)) from None

    # --- what there is -------------------------------------------------------------------------------------------

    def look(self, split: Splittable, devices: int, taken: Iterable[str] = ()) -> None:
        """Find all of a model. taken: names that are others' in the file that is to have the strategy."""
        size = next((n for n in range(2, devices + 1) if devices % n == 0 and split.sizes[self.dim] % (2 * n) == 0), 0)
        if not size or _share(self.job.model, split.batch) < LEAST:
            return
        found: list[HandWritten] = []
        for function in (f for f in FUNCTIONS if f not in set(taken)):
            scopes = tuple(
                s for s in self._called_alike(function) if self._can_be(HandWritten(function, (s,), False), size)
            )
            if not scopes or _share(self.job.model, split.batch, scopes) < LEAST:
                continue
            plain, crossed = (HandWritten(function, scopes, zigzag) for zigzag in (False, True))
            found.append(plain)
            if self._can_be(crossed, size) and self._operations(crossed, size) < self._operations(plain, size):
                found.append(crossed)
        self.found = tuple(found)

    def _called_alike(self, function: str) -> Iterator[str]:
        """Paths of calls of functions that are given all that this one is, but for the axis."""
        _, module = _module(f"use {LIBRARY} ({function})\n")
        parameters = {p.target.name.id for p in module.entries["function", function].item.parameters}
        for path, record in self.job.model.calls.items():
            if len(parameters - record.arguments.keys()) == 1:
                yield path

    def _can_be(self, choice: HandWritten, size: int) -> bool:
        """Whether it can take the scopes' place, and have their weights as they are: bounds take each to be the same on
        all devices along the axis."""
        try:
            rules = self._built(choice, size).strategy.implementations
        except ParcError:
            return False
        return not any(axes for rule in rules for _, dims in rule.weights for _, axes in dims)

    def _operations(self, choice: HandWritten, size: int) -> int:
        """Of the products of a device."""
        return sum(work for i in self._built(choice, size).by_hand for _, work in _products(i.graph))


def implementing(job: Job, split: Splittable, axes: Mapping[str, str], taken: Iterable[str]) -> Implementing | None:
    """What can be implemented of a job. axes: of positions, with the dim of each: of several, nothing is tried."""
    if len(axes) != 1 or job.cluster is None:
        return None
    ((axis, dim),) = axes.items()
    found = Implementing(job, dim, axis)
    found.look(split, job.cluster.devices, taken)
    return found if found.found else None


def _module(text: str) -> tuple[Session, Module]:
    session = Session()
    module = Loader(session, ".").load(Source("<plan>", text))
    session.diagnostics.raise_if_any()
    return session, module


def _share(model: Model, batch: str, scopes: tuple[str | None, ...] = (None,)) -> float:
    """Of the operations of all products, those of two activations in the scopes (None: in all)."""
    total = inside = 0
    for node, work in _products(model.graph):
        total += work
        if all(v.type.has(batch) for v in node.inputs) and any(within(node.output.origin.path, s) for s in scopes):
            inside += work
    return inside / total if total else 0.0


def _products(graph: Graph) -> Iterator[tuple[Node, int]]:
    """All products, with their operations."""
    for node, times in walk(graph):
        if isinstance(node.op, Contract):
            yield node, times * node.op.flops([v.type for v in node.inputs])
