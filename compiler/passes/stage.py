"""`stage`: which virtual stage each node of a placed graph belongs to, and what the stages send each other.

A value's stage is a number, `None` (can be computed anywhere: it depends on data, weights and constants only, and is
cloned where it is read) or `ALL` (each stage holds its own part: stacks of a pipelined loop).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import prod

from compiler.graph import Graph, Node, Value
from compiler.model import PipelineRule, PlaceRule
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.passes.place.rules import place_axes
from compiler.passes.recompute import levels, repeat_path, within
from dsl.diagnostics import Diagnostic, Diagnostics, ParcError

ALL = -1
Stage = int | None


@dataclass(frozen=True, slots=True)
class Cut:
    """The loop `label` of `total` iterations, cut into `counts` of consecutive ones, one per virtual stage."""

    label: str
    total: int
    counts: tuple[int, ...]

    @property
    def firsts(self) -> tuple[int, ...]:
        return tuple(accumulate(self.counts[:-1], initial=0))


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """Stages of all values of forward and backward; `addends`: per weight, what its gradient is the sum of."""

    groups: int
    chunks: int
    cut: Cut | None
    rule: PipelineRule | None
    forward: Mapping[str, Stage]
    backward: Mapping[str, Stage]
    addends: tuple[tuple[Value, ...], ...]
    loads: Mapping[str, frozenset[int]]  # saved value, as backward takes it in -> stages that read it there
    late_loads: Mapping[str, frozenset[int]] = field(default_factory=dict)  # the same of W, where there is one

    @property
    def stages(self) -> int:
        return self.groups * self.chunks

    def is_cut(self, node: Node) -> bool:
        """True for the pipelined loop (forward or backward)."""
        return self.cut is not None and isinstance(node.op, Repeat) and node.op.label == self.cut.label


def stage(placed: Placed) -> Staged:
    """Raises ParcError where the strategy's places make no sense for the graph."""
    strategy = placed.training.job.strategy
    axes = place_axes(strategy)
    groups = prod(a.size for a in strategy.mesh if a.name in axes)
    if len(strategy.pipelines) > 1 or (strategy.pipelines and strategy.places):
        raise ParcError(
            Diagnostic(
                "E0552",
                "one pipeline, or places, but not several pipelines or both",
                strategy.pipelines[-1].span,
                help="keep one `pipeline`, or place whole scopes with `place … on axis[i]`",
            )
        )
    if len(axes) > 1:
        raise ParcError(
            Diagnostic("E0552", f"places lie on one axis, not on {' and '.join(axes)}", strategy.places[-1].span)
        )
    rule = strategy.pipelines[0] if strategy.pipelines else None
    chunks = rule.chunks if rule is not None else 1
    cut = _cut(placed, rule, groups * chunks) if rule is not None and groups > 1 else None
    fixed = _fixed(placed)
    found = Staged(groups, chunks if groups > 1 else 1, cut, rule, {}, {}, (), {})
    first = _assign(placed.forward, found, fixed, {}, True)
    made = {k.name: first.get(v.name) for k, v in zip(placed.kept, _saved_outputs(placed), strict=True)}
    saved = {name: ALL for name, place in made.items() if place == ALL}  # others are saved wherever they are read
    loops = {n.op.label: first[n.outputs[0].name] for n in placed.forward.nodes if isinstance(n.op, Repeat)}
    homes = _homes(placed, first) if cut is None else {}
    second = _assign(placed.backward, found, {}, saved, False, {**first, **homes}, loops)
    addends = tuple(_addends(placed, second, v) for v in placed.backward.outputs)
    wanted = [v for parts in addends for v in parts]
    loads = readers(placed.backward, wanted, [k.name for k in placed.kept], found, second)
    return Staged(found.groups, found.chunks, cut, rule, first, second, addends, loads)


def readers(
    graph: Graph,
    wanted: Iterable[Value],
    names: Iterable[str],
    staged: Staged,
    where: Mapping[str, Stage],
    taken: Mapping[str, frozenset[int]] | None = None,
) -> dict[str, frozenset[int]]:
    """Stages of a backward graph that read each of `names`, themselves or through movable nodes.

    `wanted`: values that are needed where they are made; `taken`: stages that need a value besides.
    """
    everyone = frozenset(range(staged.stages))
    users: dict[str, frozenset[int]] = dict(taken or {})

    def at(place: Stage) -> frozenset[int]:
        return everyone if place == ALL else frozenset((place or 0,))

    for v in wanted:
        users[v.name] = users.get(v.name, frozenset()) | at(where.get(v.name))
    for node in reversed(graph.nodes):
        place = where.get(node.outputs[0].name)
        here = frozenset[int]().union(*(users.get(v.name, frozenset()) for v in node.outputs))
        cut = staged.is_cut(node)
        if cut:
            here = everyone
        elif here and place is not None:
            here = at(place)
        for i, v in enumerate(node.inputs):
            enters = cut and isinstance(node.op, Repeat) and i < node.op.carries
            users[v.name] = users.get(v.name, frozenset()) | (frozenset((staged.stages - 1,)) if enters else here)
    return {name: users.get(name, frozenset()) for name in names}


def _saved_outputs(placed: Placed) -> tuple[Value, ...]:
    return placed.forward.outputs[1 + len(placed.training.model.metrics) :]


def _cut(placed: Placed, rule: PipelineRule, stages: int) -> Cut:
    label = rule.label.rsplit(".", 1)[-1]
    loop = next((n.op for n in placed.forward.nodes if isinstance(n.op, Repeat) and n.op.label == label), None)
    if loop is None:
        raise ParcError(Diagnostic("E0553", f"there is no loop {rule.label} at the top of the model to cut", rule.span))
    total = loop.count
    assert total >= stages, (total, stages)  # the evaluator has seen to it
    if rule.cuts is not None:
        edges = (0, *rule.cuts, total)
        counts = tuple(b - a for a, b in pairwise(edges))
        assert len(counts) == stages and min(counts) >= 1, counts  # the evaluator has seen to it
        return Cut(label, total, counts)
    base, extra = divmod(total, stages)
    inner = list(range(1, stages - 1)) + [0, stages - 1]  # the ends have the embedding and the head to do as well
    more = set(inner[:extra])
    return Cut(label, total, tuple(base + (s in more) for s in range(stages)))


def _fixed(placed: Placed) -> dict[str, int]:
    """Scopes and their places. Raises ParcError for one that has no effect."""
    made: set[str] = set()
    for n in placed.forward.nodes:
        path = _path(n)
        while path and path not in made:
            made.add(path)
            path = path.rpartition(".")[0]
    first: dict[str, PlaceRule] = {}
    wrong = Diagnostics()
    for p in placed.training.job.strategy.places:
        if first.setdefault(p.scope, p) is not p:
            notes = [("the first is here", first[p.scope].span)]
            wrong.error("E0415", f"`{p.scope}` is placed twice", p.span, notes=notes)
        elif p.scope not in made:
            wrong.error("E0410", f"nothing of `{p.scope}` can be placed by itself", p.span, help=_why(placed, p.scope))
    wrong.raise_if_any()
    return {scope: p.index for scope, p in first.items()}


def _place(path: str, fixed: Mapping[str, int]) -> Stage:
    """The place of the innermost scope that has one."""
    while path and path not in fixed:
        path = path.rpartition(".")[0]
    return fixed.get(path)


def _why(placed: Placed, scope: str) -> str:
    """Why no node at the top of the model is in the scope."""
    loops = [level.path for level in levels(placed.forward) if level.path and within(scope, level.path)]
    if loops:
        return f"it is in the loop `{loops[0]}`, which runs in one place: `place {loops[0]} on …`"
    return "weights and data are where they are used: place the scope that computes with them"


def _assign(
    graph: Graph,
    staged: Staged,
    fixed: Mapping[str, int],
    given: Mapping[str, Stage],
    forward: bool,
    origins: Mapping[str, Stage] | None = None,
    loops: Mapping[str, Stage] = {},  # noqa: B006
) -> dict[str, Stage]:
    """Forward: explicit places, else the latest stage of the operands.

    Backward: the stage of the node that is differentiated (`x.grad…` belongs to what made x: `origins`; a loop, to the
    stage of that label in `loops`), else the earliest stage of the operands.
    """
    found: dict[str, Stage] = dict(given)
    last = staged.stages - 1
    for node in graph.nodes:
        if staged.is_cut(node):
            assert isinstance(node.op, Repeat)
            for i, v in enumerate(node.outputs):
                found[v.name] = ALL if i >= node.op.carries else (last if forward else 0)
            continue
        inputs = {s for v in node.inputs if (s := found.get(v.name)) is not None}
        place = _place(_path(node), fixed)
        if ALL in inputs:
            # A loop hands on its carried variables only; what each stage holds a part of stays inside.
            assert len(inputs) == 1, node.outputs[0].name
            place = ALL
        elif origins is not None and (origin := _origin(node, origins, loops)) is not None:
            place = origin
        elif place is None and inputs:
            place = max(inputs) if forward else min(inputs)
        for v in node.outputs:
            found[v.name] = place
    return found


def _path(node: Node) -> str:
    """What rules about places call a node: the scope that a loop opens, or the path of the result."""
    return repeat_path(node, "") if isinstance(node.op, Repeat) else node.outputs[0].name


def _homes(placed: Placed, stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Weights that one stage only reads (casts and the like are made where they are read) -> that stage."""
    reached = {w.name: {w.name} for w in placed.training.model.weights}
    found: dict[str, set[Stage]] = {}
    for node in placed.forward.nodes:
        weights = set[str]().union(*(reached.get(v.name, ()) for v in node.inputs))
        place = stages.get(node.outputs[0].name)
        for v in node.outputs:
            if place is None:
                reached[v.name] = weights
        for w in weights if place is not None else ():
            found.setdefault(w, set()).add(place)
    return {w: next(iter(places)) for w, places in found.items() if len(places) == 1}


def _origin(node: Node, stages: Mapping[str, Stage], loops: Mapping[str, Stage]) -> Stage:
    """The stage of the forward loop of the same label, or of the forward value that `x.grad…` is named after."""
    if isinstance(node.op, Repeat):
        return loops.get(node.op.label)
    made, mark, _ = node.outputs[0].name.partition(".grad")
    found = stages.get(made) if mark else None
    return None if found == ALL else found


def _addends(placed: Placed, stages: Mapping[str, Stage], value: Value) -> tuple[Value, ...]:
    """A gradient whose parts arise on different stages is summed at the end of the step, not for every micro-batch."""
    made = {v.name: n for n in placed.backward.nodes for v in n.outputs}
    node = made.get(value.name)
    if node is None or not isinstance(node.op, Map) or node.op.fn != "add" or len(node.inputs) != 2:
        return (value,)
    layouts = {placed.layouts[v.name] for v in (*node.inputs, value)}
    types = {v.type for v in (*node.inputs, value)}
    if len({stages.get(v.name) for v in node.inputs}) < 2 or len(layouts) > 1 or len(types) > 1:
        return (value,)
    return tuple(a for v in node.inputs for a in _addends(placed, stages, v))
