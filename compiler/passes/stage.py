"""`stage`: which virtual stage each node of a placed graph belongs to, and what the stages send each other.

A value's stage is a number, `None` (can be computed anywhere: it depends on data, weights and constants only, and is
cloned where it is read) or `ALL` (each stage holds its own part: stacks of a pipelined loop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from math import prod

from compiler.graph import Graph, Node, Value
from compiler.homes import Homes
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from compiler.passes.between import HalvedStage, NeededBy, StageOrder, halves, needed_at
from compiler.passes.cuts import CutLoop
from compiler.passes.lanes import Lanes, cut_lanes, lanes
from compiler.passes.list_stages import check_one_stage
from compiler.passes.once import made_once
from compiler.passes.place.place import Placed
from compiler.passes.place.rules import place_axes
from compiler.passes.places import (
    check_by_each,
    check_cut,
    check_order,
    of_weights,
    places,
    ranks,
    scope_of,
    visits,
)
from compiler.passes.readers import readers, readers_of_inputs
from compiler.passes.stages_ahead import ALL as ALL
from compiler.passes.stages_ahead import Stage as Stage
from compiler.passes.stages_ahead import all_of, forward_stages, masked_at_readers, of_cut, round_stages, with_totals
from compiler.passes.ways import ways
from compiler.strategy import PipelineRule
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """Stages of all values of forward and backward; `addends`: of each of `training.added`, what it is the sum of."""

    groups: int
    cuts: tuple[CutLoop, ...]  # the one whose weights are trained first, if any is
    rule: PipelineRule | None
    forward: Mapping[str, Stage]
    backward: Mapping[str, Stage]
    addends: tuple[tuple[Value, ...], ...]
    loads: Mapping[str, frozenset[int]]  # saved value, as backward takes it in -> stages that read it there
    ranks: tuple[int, ...] = ()  # of each virtual stage: its position on the way of the values forward
    anchors: Mapping[str, Stage] = field(default_factory=dict)  # what is put out, but not by the stage that has it
    late_loads: Mapping[str, frozenset[int]] = field(default_factory=dict)  # the same of W, where there is one
    homes: Homes = Homes()  # where the stages are
    everywhere: Homes = Homes()  # where they and their copies are, of all ways through the model
    visited: bool = False  # whether values come back to groups otherwise than from chunk to chunk of a pipeline
    rounds: tuple[Mapping[str, Stage], ...] = ()  # stages of what is made before the first micro-batch
    once: frozenset[Value] = frozenset()  # what the first stage makes for others that could make it themselves

    @property
    def stages(self) -> int:
        return len(self.homes)

    def rank(self, stage: Stage) -> int:
        """The position of a stage on the way of the values forward; of what has none, that of the first."""
        return self.ranks[stage or 0]

    def chunks_of(self, groups: Sequence[int]) -> range:
        """The chunks that groups have which run the same code."""
        return range(len(self.everywhere.of(groups[0])))

    def of_chunk(self, groups: Sequence[int], chunk: int) -> frozenset[int]:
        """The stages (or those that they are copies of) that are a chunk of groups which run the same code."""
        return frozenset(self.everywhere.stage(g, chunk) % self.stages for g in groups)

    def cut_of(self, *labels: str) -> CutLoop | None:
        """The loop that is cut among those of these labels."""
        return next((c for c in self.cuts if c.label in labels), None)

    def cut_at(self, node: Node) -> CutLoop | None:
        """The pipelined loop (forward or backward) that the node is, if it is one."""
        return self.cut_of(node.op.label) if isinstance(node.op, Repeat) else None

    def is_cut(self, node: Node) -> bool:
        """True for a pipelined loop (forward or backward)."""
        return self.cut_at(node) is not None

    def stages_of(self, value: Value, where: Mapping[str, Stage]) -> frozenset[int]:
        """The stages that add a value which a graph puts out, or their own part of it, to the sum of the
        micro-batches."""
        place = self.counts_at(value, where)
        if place != ALL:
            return frozenset((place,))
        cut = self.cut_of(*value.type.names)
        return frozenset(range(self.stages)) if cut is None else cut.stages

    def with_own_part(self, value: Value, where: Mapping[str, Stage]) -> frozenset[int]:
        """Of a value of which each stage of a cut loop has its own part, these stages; of any other, none."""
        return self.stages_of(value, where) if where.get(value.name) == ALL else frozenset()

    def counts_at(self, value: Value, where: Mapping[str, Stage]) -> int:
        """The stage (or ALL) that adds a value which a graph puts out to the sum of the micro-batches."""
        place = self.anchors.get(value.name)
        place = where.get(value.name) if place is None else place
        return 0 if place is None else place


def stage(placed: Placed, given: Homes | None = None) -> Staged:
    """given: where the stages are to be (default: dealt round and round over the groups).

    Raises ParcError where the strategy's places make no sense for the graph."""
    strategy = placed.training.job.strategy
    axes = place_axes(strategy)
    groups = prod(a.size for a in strategy.mesh if a.name in axes)
    rule = strategy.pipelines[0] if strategy.pipelines else None
    ahead = [r.batch for r in placed.rounds]
    lane = lanes(strategy, axes, placed.forward, ahead)
    chunks = rule.chunks if rule is not None and groups > 1 else 1
    cuts, rows, given_homes = cut_lanes(placed, lane, chunks) if groups > 1 else ((), (), ())
    apart = ahead + ([placed.finish] if placed.finish is not None else [])
    written = placed.training.job.model.graph if placed.training.trains else None
    fixed = places(placed.forward, (*lane.rules, *rows), apart, written)
    row = StageOrder.of(given or (Homes(given_homes) if given_homes else Homes.dealt(groups, groups)))
    order: tuple[int, ...] | None = tuple(range(len(row.homes)))
    visit: Mapping[str, int] = {}
    kept = {*placed.weights, *(s.name for s in placed.training.model.states)}
    graphs = [placed.forward, *ahead] if fixed else []
    anywhere = frozenset[Node]().union(*(of_weights(graph, fixed, kept) for graph in graphs))
    by_hand = any(p.index is not None for p in lane.rules)
    if by_hand and rule is None:
        order = ranks([*ahead, placed.forward], fixed, groups)
    if order is None:
        visit, found_homes = visits(placed.forward, fixed, groups, anywhere)
        row = StageOrder.of(Homes(found_homes))
    row_of = {r.scope: r.index or 0 for r in rows}
    halved: list[HalvedStage] = []

    def in_row(node: Node) -> int | None:
        scope = scope_of(node, fixed) if row_of else None
        at = row_of.get(scope) if scope is not None else None
        if at is None:
            return None
        for half in halved:
            at = half.of(node, at)
        return at

    def elsewhere(node: Node, at: int) -> bool:
        scope = None if node in anywhere else scope_of(node, fixed)
        return scope is not None and fixed[scope] is not None and row.homes.group(row.own[at]) not in lane.groups[scope]

    def needs() -> Mapping[Value, NeededBy]:
        return needed_at(placed.forward, cuts, in_row, elsewhere, ahead) if by_hand and rule is not None else {}

    base = row  # without visits
    needed = needs()
    tied: list[tuple[int, Node]] = []  # stages that are before a node of another place, and behind it
    more: list[tuple[int, int]] = []  # visits that are missing: of which group, before which stage

    def place(node: Node, before: int | None) -> Stage:
        """Where rules say that a node is. before: the last stage of its operands."""
        if visit:
            return visit.get(node.outputs[0].name)
        scope, own = scope_of(node, fixed), in_row(node)
        if own is not None and not any(v.type.has(c.label) for v in node.outputs for c in cuts):
            return row.own[own]
        if scope is None or fixed[scope] is None or rule is None:
            return None if scope is None else fixed[scope]
        if node in anywhere or any(v.type.has(c.label) for v in node.outputs for c in cuts):
            return None  # of weights, or of all iterations of what is cut: each stage makes what it reads
        until = min((needed[v] for v in node.outputs if v in needed), default=None)
        there = row.stage(lane.groups[scope], before or 0, until)
        if there is None and (at := row.room(before, until)) is not None:
            more.append((lane.groups[scope][0], at))
        elif there is None and not more and until is not None and before == row.own[until.at]:
            tied.append((until.at, node))
        return len(row.homes) - 1 if there is None else there

    once = _made_once(placed, lane, placed.forward, ahead) if groups > 1 else frozenset()
    while True:
        ranked = order if order is not None and len(order) == len(row.homes) else tuple(range(len(row.homes)))
        visited = order is None or len(row.homes) > len(row.own) or len(lane.ways) > 1
        visited = visited or bool(halved) or (rule is not None and bool(rule.homes or rule.orders))
        here = row.cuts(cuts)
        found = Staged(groups, here, rule, {}, {}, (), {}, ranked, homes=row.homes, visited=visited, once=once)
        first = forward_stages(placed.forward, found, place)
        rounds = round_stages(placed, found, first, place, lambda graph: _made_once(placed, lane, graph))
        more += ((g, len(row.homes)) for g in range(groups) if not more and not row.homes.of(g))
        if tied:
            half = halves(placed.forward, ahead, *tied[0])
            assert half not in halved, "a stage is two already"
            halved.append(half)
            cuts, base = half.cuts(placed.ahead, cuts), base.with_half(half.at)
            row = base
            needed = needs()
            tied.clear()
            more.clear()
            continue
        if not more:
            break
        row = row.with_visit(*(min(more, key=lambda m: m[1]) if rounds else more[0]))
        more.clear()
    found = replace(found, rounds=rounds, anchors=with_totals(placed, found, rounds, first))
    if by_hand and rule is not None:
        check_cut(placed.forward, lane.rules, found)
    check_by_each(placed.forward, lane.rules, first)
    check_order(placed.forward, strategy.pipelines, found, first)
    _check_states(placed, found, first)
    made = {k.name: first.get(v.name) for k, v in zip(placed.kept, _saved_outputs(placed), strict=True)}
    saved: dict[str, Stage] = {name: ALL for name, place in made.items() if place == ALL}
    # others are saved wherever they are read
    loops = {(n.op.label, n.op.reverse): first[n.outputs[0].name] for n in placed.forward if isinstance(n.op, Repeat)}
    homes = {}
    if fixed or not cuts:  # weights that one stage only reads
        homes = {w: min(s) for w, s in _readers_of_weights(placed, found, first).items() if len(s) == 1}
    of = {v.name: v.origin for node in placed.backward for v in node.outputs}
    stages: dict[str, Stage] = {**first, **_of_rounds(placed, rounds, first), **homes}
    second = _backward(placed, found, saved, lambda node: _origin(node, of, stages, loops), found.rank)
    makers = {v.name: n for n in placed.backward.nodes for v in n.outputs}
    listed, added = placed.training.listed, placed.training.added
    addends = tuple(
        (v,) if name in listed else _addends(makers, second, v)
        for v, (name, _) in zip(placed.backward.outputs, added, strict=True)
    )
    anchors = _anchors(placed, found, first, second, addends, found.rank)
    found = replace(found, forward=first, backward=second, addends=addends, anchors=anchors)
    found = replace(found, everywhere=ways(placed, found.homes, rule, groups))
    if listed:
        check_one_stage(placed, found, _readers_of_weights(placed, found, first))
    wanted = [v for parts in addends for v in parts]
    loads = readers(placed.backward, wanted, [k.name for k in placed.kept], found, second)
    return replace(found, loads=loads)


def _made_once(placed: Placed, lane: Lanes, graph: Graph, rounds: Sequence[Graph] = ()) -> frozenset[Value]:
    rows = [rule.parts for rule in placed.training.job.strategy.pipelines]
    return made_once(graph, rows, placed.weights, lane, rounds).by_first if rows else frozenset()


def _of_rounds(placed: Placed, rounds: Sequence[Mapping[str, Stage]], first: Mapping[str, Stage]) -> dict[str, Stage]:
    """Where the forward values are that only a first pass makes in one place: their cotangents go back there."""
    graphs = zip(placed.rounds, rounds, strict=True)
    made = ((v, where.get(v.name)) for r, where in graphs for node in r.batch.nodes for v in node.outputs)
    return {v.origin.of: s for v, s in made if s is not None and first.get(v.origin.of) is None}


def _saved_outputs(placed: Placed) -> tuple[Value, ...]:
    return placed.forward.outputs[placed.training.results :]


def _backward(
    placed: Placed,
    staged: Staged,
    given: Mapping[str, Stage],
    origin: Callable[[Node], Stage],
    rank: Callable[[Stage], int],
) -> dict[str, Stage]:
    """The stage of what is differentiated (`origin`), else the first stage of the operands.

    Values pass through the stages in the order opposite to that of the forward pass. Where nodes of several stages were
    the same one, it stands in the stage of them that comes first; what depends on no data and no weight is made by each
    stage that reads it.
    """
    graph = placed.backward
    wanted: dict[str, Stage] = {}  # value -> the stage of its readers at which values arrive first
    wishes: list[Stage] = []
    for node in reversed(graph.nodes):
        readers = {s for v in node.outputs if (s := wanted.get(v.name)) is not None}
        cut = staged.cut_at(node)
        own = origin(node) if cut is None else cut.end
        both = readers if own is None else readers | {own}
        first = max(both, key=rank) if both else None
        wishes.append(None if own is None else first)
        for v in node.inputs if first is not None else ():
            there = wanted.get(v.name)
            wanted[v.name] = first if there is None else max(there, first, key=rank)
    found: dict[str, Stage] = dict(given)
    data = {i.value.name for i in placed.training.model.inputs} | {k.name for k in placed.kept} | set(placed.weights)
    constant = {v.name for v in graph.inputs} - data
    for node, wish in zip(graph.nodes, reversed(wishes), strict=True):
        cut = staged.cut_at(node)
        if cut is not None:
            found.update(of_cut(node, cut.begin))
            continue
        stages = {s for v in node.inputs if (s := found.get(v.name)) is not None}
        where: Stage = min(stages, key=rank) if stages else None
        if ALL in stages:
            where = all_of(node, stages)
        elif not isinstance(node.op, Repeat) and all(v.name in constant for v in node.inputs):
            constant.update(v.name for v in node.outputs)
        elif wish is not None:
            where = wish if where is None else min(wish, where, key=rank)
        found.update((v.name, where) for v in node.outputs)
    return masked_at_readers(graph, found)


def _check_states(placed: Placed, staged: Staged, where: Mapping[str, Stage]) -> None:
    """A state lies where it is renewed; one that every stage can renew by itself, wherever it is read."""
    model, training = placed.training.model, placed.training
    reads = readers_of_inputs(placed, staged, where, (s.name for s in model.states))
    found = Diagnostics()
    for s, new in zip(model.states, placed.forward.outputs[training.asked : training.results], strict=True):
        place, apart = where.get(new.name), False
        if any(c.label in s.loops for c in staged.cuts):
            continue  # each stage has those of its own iterations
        if place is not None:
            apart = place == ALL or not reads[s.name] <= {place}
        if apart:
            stages = sorted({*reads[s.name], *([place] if place not in (None, ALL) else [])})
            found.error(
                "E0561",
                f"the state {s.name} is read and renewed on different stages: {', '.join(map(str, stages))}",
                s.value.span,
                help="declare it in the loop that is cut, so that each iteration has its own, or use it in one place",
            )
    found.raise_if_any()


def _readers_of_weights(placed: Placed, staged: Staged, where: Mapping[str, Stage]) -> dict[str, set[int]]:
    """Per weight the stages that read it forward."""
    return readers_of_inputs(placed, staged, where, (w.name for w in placed.training.model.weights))


def _origin(
    node: Node, of: Mapping[str, Origin], stages: Mapping[str, Stage], loops: Mapping[tuple[str, bool], Stage]
) -> Stage:
    """The stage of the forward loop that a loop goes back through, or of the forward value whose gradient it is for.

    A loop that runs again is where its results are read, like all that is computed again. of: origins by name.
    """
    if isinstance(node.op, Repeat):
        return loops.get((node.op.label, not node.op.reverse))
    origin = node.outputs[0].origin
    while origin.phase is Phase.MOVED and origin.of in of:
        origin = of[origin.of]
    found = stages.get(origin.of) if origin.phase is Phase.GRADIENT else None
    return None if found == ALL else found


def _anchors(
    placed: Placed,
    staged: Staged,
    forward: Mapping[str, Stage],
    backward: Mapping[str, Stage],
    addends: Sequence[Sequence[Value]],
    rank: Callable[[Stage], int],
) -> dict[str, Stage]:
    """Where that is added up which could be made anywhere (a metric of a weight, a gradient of zeros), and the parts of
    metrics."""
    names = [v.name for v in placed.forward.inputs]
    reads = readers_of_inputs(placed, staged, forward, names)
    found = dict(staged.anchors)
    loops = {w.name: w.loops for w in placed.training.trained}
    for (name, _), parts in zip(placed.training.added, addends, strict=True):
        at = ALL if staged.cut_of(*loops[name]) else min(reads[name], key=rank, default=0)
        found.update((v.name, at) for v in parts if backward.get(v.name) is None)
    for v in placed.forward.outputs[: placed.training.results]:
        if forward.get(v.name) is None and v.name not in found:
            needed = {v.name}
            for node in reversed(placed.forward.nodes):
                if any(x.name in needed for x in node.outputs):
                    needed.update(x.name for x in node.inputs)
            found[v.name] = min((s for w in reads if w in needed for s in reads[w]), key=rank, default=0)
    # Metrics are finished in one place: where the last of their parts is made.
    parts = placed.forward.outputs[placed.training.direct : placed.training.scalars]
    ends = [s for v in parts if (s := found.get(v.name, forward.get(v.name))) is not None]
    found.update(dict.fromkeys((v.name for v in parts), max(ends, key=rank, default=0)))
    return found


def _addends(made: Mapping[str, Node], stages: Mapping[str, Stage], value: Value) -> tuple[Value, ...]:
    """A gradient whose parts arise on different stages is summed at the end of the step, not for every micro-batch.

    made: the node that gives each value of the backward graph.
    """
    node = made.get(value.name)
    if node is None or not isinstance(node.op, Map) or node.op.fn != "add" or len(node.inputs) != 2:
        return (value,)
    layouts = {v.layout for v in (*node.inputs, value)}
    types = {v.type for v in (*node.inputs, value)}
    if len({stages.get(v.name) for v in node.inputs}) < 2 or len(layouts) > 1 or len(types) > 1:
        return (value,)
    return tuple(a for v in node.inputs for a in _addends(made, stages, v))
