"""What strategies of a certificate have written by hand: functions of the standard library in the place of scopes,
along the one axis of positions, read as a file would have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from compiler.evaluate.implement import implemented
from compiler.evaluate.index import ModelIndex, index_model
from compiler.evaluate.modules import Loader
from compiler.evaluate.plan import PlannedStrategy, build_plan
from compiler.evaluate.session import Session
from compiler.evaluate.values import Skip
from compiler.model import Job
from compiler.ordered import ordered
from compiler.origin import within
from compiler.program import Program
from compiler.strategy import Strategy
from compiler.walk import walk
from dsl import ast
from dsl.diagnostics import ParcError, fail
from dsl.source import Source, Span
from parc.certifying.counting import StatedSpace
from parc.certifying.stated import Unfounded

LIBRARY = "std.implementations"
NAME = "by_hand"
PATH = "space.implementations"


class WrittenByHand:
    """Of a space's implementations (counted from 1), what each is along so many devices."""

    def __init__(self, job: Job, space: StatedSpace) -> None:
        self.job, self.space = job, space
        self.read: dict[tuple[int, int], PlannedStrategy] = {}
        self.jobs: dict[tuple[int, int], Job] = {}

    @cached_property
    def _index(self) -> ModelIndex:
        return index_model(self.job.model)

    def hold(self) -> None:
        """Each can be, along as few devices as there may be, and has weights that all of these have in full, as bounds
        take them to have. Raises Unfounded."""
        space = self.space
        for by, of in enumerate(space.by_hand, 1):
            axes = [(name, dim) for name, kind, dim in space.axes if kind == "positions"]
            if len(axes) != 1:
                raise Unfounded(f"{PATH} are along one axis of positions", PATH)
            if not all(name.isidentifier() for name in axes[0]):
                raise Unfounded(f"{PATH} are along an axis that is called by no name", PATH)
            pieces = 2 if of.zigzag else 1
            sizes = (n for n in range(2, space.devices + 1) if space.devices % n == 0)
            size = next((n for n in sizes if space.sizes[axes[0][1]] % (pieces * n) == 0), 0)
            try:
                rules = self.plan(by, size).strategy.implementations if size else ()
            except ParcError as error:
                raise Unfounded(f"{PATH}: {error}", PATH) from None
            if len(rules) != len(of.scopes) or any(
                axes_of for r in rules for _, dims in r.weights for _, axes_of in dims
            ):
                raise Unfounded(f"{PATH} has what cannot be, or weights in pieces", PATH)

    def plan(self, by: int, size: int) -> PlannedStrategy:
        """Its rules alone. Raises ParcError."""
        if (by, size) not in self.read:
            of = self.space.by_hand[by - 1]
            axis, dim = next((name, dim) for name, kind, dim in self.space.axes if kind == "positions")
            lines = [f"split {dim} on {axis} {'zigzag ' if of.zigzag else ''}for activations"]
            lines += [f"implement {scope} by {of.function}({axis})" for scope in of.scopes]
            head = f"use {LIBRARY} ({of.function})\nstrategy {NAME} {{\nmesh ({axis} = {size})\n"
            self.read[by, size] = self._read("\n".join([head, *lines, "}", ""]))
        return self.read[by, size]

    def _read(self, text: str) -> PlannedStrategy:
        session, at = Session(), Span("<certificate>", 0, 0)
        try:
            module = Loader(session, ".").load(Source("<certificate>", text))
            session.diagnostics.raise_if_any()
            return build_plan(session, module, ast.Name(NAME, span=at), self._index, None)
        except Skip:
            session.diagnostics.raise_if_any()
            raise fail("E0420", "it cannot be implemented so", at) from None

    def job_of(self, strategy: Strategy, by: int) -> Job:
        """The job with a strategy that has its rules. Raises ParcError."""
        if not by:
            return replace(self.job, strategy=strategy)
        (axis,) = (name for name, kind, _ in self.space.axes if kind == "positions")
        size = next(a.size for a in strategy.mesh if a.name == axis)
        if (by, size) not in self.jobs:
            plan, job = self.plan(by, size), self.job
            models = [m and implemented(m, plan.by_hand, plan.strategy) for m in (job.model, job.evaluated)]
            before = models[0]
            if plan.strategy.zigzags:
                models = [m and ordered(m, plan.strategy) for m in models]
            assert models[0] is not None
            written = job.model, job.evaluated
            made = replace(job, model=models[0], evaluated=models[1], written=written, by_hand=before)
            self.jobs[by, size] = made
        return replace(self.jobs[by, size], strategy=strategy)


def touched(program: Program, scopes: Sequence[str]) -> set[str]:
    """Names of values of the serial program that an implementation of these scopes may leave out: made in them, or of
    what is in them, or of what is made from it."""
    found: set[str] = set()
    for function in program.classes[0].functions:
        for node, _ in walk(function.body):
            if any(within(v.origin.path, s) for v in (*node.inputs, *node.outputs) for s in scopes):
                found |= {v.name for v in node.outputs}
    return found


def positions(space: StatedSpace, mesh: Mapping[str, int]) -> dict[str, int]:
    """The axes of positions that a mesh has."""
    return {name: n for name, n in mesh.items() if space.kind(name) == "positions"}
