"""The way of a job through the passes: `PASSES` is the table of contents of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace

from compiler.graph import Graph, Names, Value
from compiler.model import TRAIN_STEP, Job, Model, Training
from compiler.origin import Role
from compiler.passes.across import Across, across
from compiler.passes.behind_scans import behind_scans
from compiler.passes.differentiate import (
    Derivative,
    Differentiated,
    add_in_own_type,
    close,
    merge,
    transposed,
    without_dead_code,
)
from compiler.passes.divide import Divided, divide
from compiler.passes.early_writes import early_writes, late_values
from compiler.passes.evaluation import evaluation
from compiler.passes.fuse import fuse
from compiler.passes.lanes import lanes
from compiler.passes.loop_bodies import LoopBodies
from compiler.passes.lower import lower
from compiler.passes.lower_update import LowerUpdate, lower_update
from compiler.passes.mark_regions import mark_regions
from compiler.passes.offload import offload, resting
from compiler.passes.once import NOTHING_SENT, made_once
from compiler.passes.place.place import Placed, place
from compiler.passes.place.rules import place_axes
from compiler.passes.recompute import Recompute
from compiler.passes.simplify import simplify
from compiler.passes.sparse import sparse
from compiler.passes.split import SplitGraphs, split
from compiler.passes.stage import Staged, stage
from compiler.passes.touched import touched
from compiler.passes.training import Counters, count_steps, training_names, update
from compiler.program import DeviceClass, Program, on_updates
from compiler.regions.asked import RegionQuestions
from compiler.walk import graph_values
from dsl.data import dataclass

KEPT = (Role.WEIGHT, Role.OPTIMIZER)
"""Roles of buffers that belong to a weight."""


@dataclass(slots=True, kw_only=True)
class Work:
    """A job on its way: what the passes so far have made of it. Each makes one thing, and changes no other.

    whole, parts, twice: what turned out to be needed of whole batches (`divide`), by name. serial: the training graph
    of before that was known, with which proofs compare. unlisted: weights whose gradients turned out to be no lists,
    and why. asked: of the sizes of axes by passes behind `lower`, from somebody who wants to know what is; bodies: of
    loops, from somebody who prices many programs that share them; lower_update: see `lower`.
    before_update: the names that there were before `update`; counts: how often rows of tables are taken.
    """

    job: Job
    entry: str = TRAIN_STEP
    whole: dict[str, None] = field(default_factory=dict)
    parts: dict[str, None] = field(default_factory=dict)
    twice: dict[str, str] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    unlisted: dict[str, str] = field(default_factory=dict)
    asked: RegionQuestions | None = None
    bodies: LoopBodies | None = None
    lower_update: LowerUpdate = lower_update
    names: Names = field(init=False)
    before_update: Names = field(init=False)
    counts: dict[str, Value] = field(init=False)
    counters: Counters = field(init=False)
    divided: Divided = field(init=False)
    forward: Graph = field(init=False)
    derivative: Derivative = field(init=False)
    differentiated: Differentiated = field(init=False)
    training: Training = field(init=False)
    serial: Training = field(init=False)
    placed: Placed = field(init=False)
    staged: Staged = field(init=False)
    split: SplitGraphs = field(init=False)
    pieces: tuple[Placed, Across] = field(init=False)
    program: Program = field(init=False)

    @property
    def model(self) -> Model:
        """As the entry runs it."""
        return self.job.model_of(self.entry)

    @property
    def trains(self) -> bool:
        return self.entry == TRAIN_STEP


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass, and what there is afterwards to be looked at. trains: only entries that train something have it."""

    name: str
    run: Callable[[Work], None]
    made: Callable[[Work], tuple[Graph, ...] | Program]
    trains: bool = False


def _divide(w: Work) -> None:
    w.names = training_names(w.job) if w.trains else Names(v.name for v in graph_values(w.model.graph))
    if w.trains:
        w.counters = count_steps(w.job, w.names)
    w.divided = divide(w.model, w.names, tuple(w.whole), tuple(w.parts), w.twice, w.beside)


def _simplify(w: Work) -> None:
    w.forward = simplify(w.divided.graph)


def _transpose(w: Work) -> None:
    fixed = w.job.precision.loss_scale
    factor = w.counters.factor or (fixed if isinstance(fixed, (float, int)) else 1.0)
    w.derivative = transposed(replace(w.job.model, graph=w.divided.graph), w.forward, factor)


def _merge_equal(w: Work) -> None:
    strategy = w.job.strategy
    apart = bool(strategy.places) or any(len(p.parts) > 1 for p in strategy.pipelines)
    w.derivative = merge(w.derivative, apart)


def _sum_in_own_type(w: Work) -> None:
    w.derivative = add_in_own_type(w.derivative)


def _prune(w: Work) -> None:
    w.derivative = without_dead_code(w.derivative)


def _close(w: Work) -> None:
    strategy = w.job.strategy
    cut = [part for p in strategy.pipelines for part in p.parts]
    rules = Recompute(w.divided.graph, strategy.recomputes, cut, w.job.model.graph)
    sizes = {a.name: a.size for a in strategy.mesh}
    rows = [p.parts for p in strategy.pipelines if sizes[p.axis] > 1]
    weights = {weight.name for weight in w.model.weights}
    graph = w.derivative.forward
    ahead = [r.graph for r in w.divided.rounds]
    lane = lanes(strategy, place_axes(strategy), graph, ahead) if rows else None
    sent = NOTHING_SENT if lane is None else made_once(graph, rows, weights, lane)
    w.differentiated = close(w.derivative, rules, w.names, sent.by_first | sent.others)


def _behind_scans(w: Work) -> None:
    weights = frozenset(weight.name for weight in w.model.weights)
    w.differentiated = behind_scans(w.differentiated, weights, w.names)


def _update(w: Work) -> None:
    before = w.names.copy()
    if w.trains:
        w.counts, w.differentiated = touched(w.job, w.names, w.differentiated)
        before = w.names.copy()
        w.training = update(w.job, w.names, w.counters, w.differentiated, w.divided, w.counts)
    else:
        w.training = evaluation(w.job, w.entry, w.forward, w.divided)
    if not w.whole and not w.parts and not w.twice:
        w.serial = w.training
    w.before_update = before


def _sparse(w: Work) -> None:
    names = w.before_update
    lists, found = sparse(w.job, names, w.differentiated, w.unlisted, w.counts)
    if lists.tables:
        w.training = update(w.job, names, w.counters, found, w.divided, w.counts, lists)
    elif lists.dense:
        w.training = replace(w.training, dense=lists.dense)


def _place(w: Work) -> None:
    w.placed = place(w.training)


def _stage(w: Work) -> None:
    w.staged = stage(w.placed)


def _split(w: Work) -> None:
    w.split = split(w.placed, w.staged)


def _across(w: Work) -> None:
    w.pieces = across(w.split.placed, w.split.staged)


def _lower(w: Work) -> None:
    placed, over = w.pieces
    w.program = lower(placed, w.split.staged, over, w.bodies, w.lower_update)


def _late_values(w: Work) -> None:
    w.program = on_updates(w.program, lambda cls, body: replace(body, nodes=tuple(late_values(body.nodes))))


def _early_writes(w: Work) -> None:
    owner = {s.name: s.of for s in w.training.states}
    owner |= {weight.name: weight.name for weight in w.job.model.weights}

    def change(cls: DeviceClass, body: Graph) -> Graph:
        groups = ((s.name, owner.get(s.logical), s.chunk) for s in cls.states if s.role in KEPT)
        together = {name: (weight, chunk) for name, weight, chunk in groups if weight is not None}
        return replace(body, nodes=tuple(early_writes(body.nodes, together)))

    w.program = on_updates(w.program, change)


def _offload(w: Work) -> None:
    w.program = offload(w.program, w.job.strategy.offloads, w.job.strategy.runs, resting(w.training))


def _mark_regions(w: Work) -> None:
    w.program = mark_regions(w.program, w.asked)


def _fuse(w: Work) -> None:
    if w.job.strategy.fuses:
        w.program = fuse(w.program)


def _both(w: Work) -> tuple[Graph, ...]:
    return w.differentiated.forward, w.differentiated.backward


def _graph(w: Work) -> tuple[Graph, ...]:
    end = [w.divided.finish.graph] if w.divided.finish is not None else []
    return (*(r.graph for r in w.divided.rounds), w.divided.graph, *end)


PASSES: tuple[Pass, ...] = (
    Pass("divide", _divide, _graph),  # what is needed of whole batches, apart from what micro-batches do
    Pass("simplify", _simplify, lambda w: (w.forward,)),  # views, casts and constants that are the same, once
    Pass("transpose", _transpose, lambda w: (w.forward, w.derivative.graph), True),  # the cotangent of every value
    Pass("merge_equal", _merge_equal, lambda w: (w.derivative.graph,), True),  # what is computed twice, once
    Pass("sum_in_own_type", _sum_in_own_type, lambda w: (w.derivative.graph,), True),  # gradients, as their weights are
    Pass("prune", _prune, lambda w: (w.derivative.graph,), True),  # what no gradient needs goes
    Pass("close", _close, _both, True),  # what backward needs of forward is saved, or computed again
    Pass("behind_scans", _behind_scans, _both, True),  # weights' gradients of scans, over all positions at once
    Pass("update", _update, lambda w: w.training.graphs),  # the optimizer of every weight
    Pass("sparse", _sparse, lambda w: w.training.graphs, True),  # gradients of tables that stay lists of rows
    Pass("place", _place, lambda w: w.placed.graphs),  # layouts of all values, and where they change
    Pass("stage", _stage, lambda w: w.placed.graphs),  # which device groups compute what
    Pass("split", _split, lambda w: w.split.placed.graphs),  # the backward pass in two, for zero-bubble schedules
    Pass("across", _across, lambda w: w.pieces[0].graphs),  # the update of loops that are cut into stages
    Pass("lower", _lower, lambda w: w.program),  # functions with effects, collectives, schedules
    Pass("late_values", _late_values, lambda w: w.program),  # what is made for a weight, as late as can be
    Pass("early_writes", _early_writes, lambda w: w.program),  # new contents, as early as can be
    Pass("mark_regions", _mark_regions, lambda w: w.program),  # what systems compute as one
    Pass("offload", _offload, lambda w: w.program),  # what rests in other memories is moved in and out
    Pass("fuse", _fuse, lambda w: w.program),  # what runs as one: what lies between never stands in memory
)

NAMES = tuple(p.name for p in PASSES)
