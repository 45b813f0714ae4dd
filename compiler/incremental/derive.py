"""The model of the next positions: what the outputs need there, of new values and of what earlier ones have left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import compiler.incremental.along  # noqa: F401 - enters its rules
from compiler.graph import RANGES, Builder, Dim, Names, Type, Value
from compiler.incremental.absorbed import absorbed
from compiler.incremental.by_rows import by_rows
from compiler.incremental.chunk import Increment
from compiler.incremental.cut_earlier import cut_earlier
from compiler.incremental.demand import Demand
from compiler.incremental.latest import Latest
from compiler.incremental.looked_back import looked_back
from compiler.incremental.positions import Positions, unused
from compiler.incremental.reach import Analysis
from compiler.incremental.refusals import looks_ahead, no_dim, pairs, renewed, too_many
from compiler.incremental.windows import Lookback
from compiler.model import DataInput, Init, Model, State
from compiler.ops.elementwise import Map, Transpose
from compiler.ops.shape import Rename
from compiler.origin import Origin, Role
from compiler.walk import graph_values, walk
from dsl.source import NOWHERE, Span

NOTHING: Mapping[str, int] = {}
NEXT = "next"
MOST = RANGES["int32"][1]
"""Positions that the state which counts them can tell apart, with none and all of them among the counts."""
"""What the dim is called of which there are few positions at a time: no rule splits it."""


def incremental(
    model: Model,
    dim: str,
    length: int,
    span: Span,
    called: str = NEXT,
    begun: bool = False,
    pieces: Mapping[str, int] = NOTHING,
    last: bool = False,
    rows: str | None = None,
    apart: bool = False,
) -> Model:
    """The model that takes `length` new positions along `dim` and gives the outputs there.

    Its states are the number of positions that went before (`position`), and what later ones need of them. Several new
    positions are those of `dim`, for the rules of strategies too; one is that of a dim of its own, which none splits.

    Args:
        model: as `infer` runs it; its dim is as long as positions there can be at all.
        dim: of its data, along which it is causal.
        length: how many positions come at a time.
        span: where errors point at.
        called: the last part of the names of its data.
        pieces: into how many a strategy cuts dims, by their names.
        last: outputs are asked for at the last of the new positions alone.
        begun: what hangs on data, but on none of any position (an encoder), was kept by an earlier pass.
        rows: the dim of sequences, if each is at a position of its own, which is data then (`by_rows`).
        apart: several are of a dim of their own, too.

    Raises ParcError: E0780 with the op that looks ahead, E0781 for a dim that no data has, E0782 for what has no
    incremental form.
    """
    model, positions, analysis = _analysed(model, dim, length, span)
    new = Dim(unused(model, NEXT) if length == 1 or apart else dim, length)
    top = _Top(model, analysis, new, called, begun, pieces)
    forms = [top.chunk.natural(v) for v in model.of_outputs]
    chunk: Increment = top.chunk
    if last and length > 1:
        chunk = Latest(chunk, Dim(unused(model, NEXT), 1))
    outputs = [chunk.need(v, form) if form else chunk.once(v) for v, form in zip(model.of_outputs, forms)]
    made = top.model(model, outputs)
    return made if rows is None else by_rows(made, top.position, rows, positions.size, span)


def kept_positions(model: Model, dim: str, span: Span) -> Mapping[Value, str]:
    """What is kept of each earlier position, or of the last ones, where a model takes one after the other: values, and
    which of their dims is that of positions. Raises ParcError, as `incremental` does."""
    whole = model
    model, _, analysis = _analysed(model, dim, 1, span)
    top = _Top(model, analysis, Dim(unused(model, NEXT), 1), NEXT, False, NOTHING)
    for v in model.of_outputs:
        form = top.chunk.natural(v)
        if form:
            top.chunk.need(v, form)
    there = {v.name for v in graph_values(whole.graph)}
    made = {v: node for node, _ in walk(model.graph) for v in node.outputs}
    found: dict[Value, str] = {}
    for v, along in analysis.kept.items():
        while v.name not in there and v in made and isinstance(made[v].op, (Rename, Transpose)):
            op, (v, *_) = made[v].op, made[v].inputs  # what products in another order call otherwise
            along = {new: old for old, new in op.pairs}.get(along, along) if isinstance(op, Rename) else along
        found[v] = along
    return found


def _analysed(model: Model, dim: str, length: int, span: Span) -> tuple[Model, Positions, Analysis]:
    """The model as it is taken apart, its positions, and what each value looks at. Raises ParcError: E0780 to E0782."""
    sizes = [i.value.type.size(dim) for i in model.inputs if i.value.type.has(dim)]
    if not sizes:
        raise no_dim(model, dim, span)
    if max(sizes) > MOST:
        raise too_many(model, dim, max(sizes), MOST, span)
    contents = model.graph.outputs[len(model.graph.outputs) - len(model.states) :]
    for state, content in zip(model.states, contents, strict=True):
        if content is not state.value:
            raise renewed(state.value, dim)
    model = absorbed(looked_back(cut_earlier(model)), dim)
    positions = Positions(model, dim)
    if not 1 <= length <= positions.size:
        raise no_dim(model, dim, span, length)
    analysis = Analysis(model, positions)
    if any(analysis.of(v).ahead is not None for v in model.of_outputs):
        analysis = Analysis(model, positions, guarded=True)
    for name, v in zip(model.outputs, model.of_outputs):
        reach = analysis.of(v)
        if reach.ahead is not None:
            raise looks_ahead(reach.ahead, dim, positions, name, span)
        if len(reach.bound) > 1:
            raise pairs(v, name, span)
    return model, positions, analysis


class _Top:
    """The graph of the whole model on its way, and its states."""

    def __init__(
        self, model: Model, analysis: Analysis, new: Dim, called: str, begun: bool, pieces: Mapping[str, int]
    ) -> None:
        self.own = {w.value for w in model.weights} | {s.value for s in model.states}
        self.names = Names((*(v.name for v in self.own), *(() if model.step is None else (model.step.name,))))
        self.builder = Builder(self.names)
        self.new, self.called = new, called
        self.states: list[State] = []
        self.contents: list[Value | None] = []
        self.inputs: dict[Value, Value] = {}
        self.data = {i.value: i for i in model.inputs}
        self.step = model.step
        self.position: Value | None = None
        windows = Lookback(model, analysis, pieces)
        self.chunk = Increment(analysis, windows, new, self, model.graph, self.builder, begun)

    def gives(self, v: Value, demand: Demand) -> bool:
        """New positions of data; all of everything else."""
        return demand == self.chunk.natural(v) if v in self.data else not demand

    def source(self, v: Value, demand: Demand) -> Value:
        """An input of the model; of data with new positions only these."""
        if v is self.step:
            return v
        if v not in self.inputs:
            name = v.name  # weights and states keep theirs, by which checkpoints have them
            if v not in self.own:
                name = self.names.fresh(f"{name}.{self.called}" if v in self.data else name)
            type = demand.resized(v.type, self.new, lambda count: self.chunk.windows.near(count, self.new.size))
            self.inputs[v] = Value(name, type, v.span, v.origin)
        return self.inputs[v]

    def pos(self) -> Value:
        """How many positions went before."""
        if self.position is None:
            self.position, number = self.state("position", Type("int32"), Init("zeros"), Origin("position"), None)
            self.states[number] = replace(self.states[number], within=(0, self.chunk.positions.size + 1))
            new = Map("add", (None, self.new.size))
            self.renew(number, self.builder.add(new, self.position, name="position.next"))
        return self.position

    def outside(self, make: Callable[[Increment], Value]) -> Value | None:
        """Nothing is around it."""
        return None

    def state(
        self, name: str, type: Type, init: Init, origin: Origin, of: Value | None, loops: tuple[str, ...] = ()
    ) -> tuple[Value, int]:
        """A state, and its number for `renew`."""
        value = Value(self.names.fresh(name), type, of.span if of is not None else NOWHERE, origin)
        self.states.append(State(value, init, Role.STATE, loops=loops))
        self.contents.append(None)
        return value, len(self.states) - 1

    def renew(self, number: int, value: Value) -> None:
        self.contents[number] = value

    def model(self, whole: Model, outputs: Sequence[Value]) -> Model:
        """All of it."""
        data = [(self.inputs[i.value], i) for i in whole.inputs if i.value in self.inputs]
        weights = [replace(w, value=self.inputs[w.value]) for w in whole.weights if w.value in self.inputs]
        kept = [(s, self.inputs[s.value]) for s in whole.states if s.value in self.inputs]
        states = [*(replace(s, value=v) for s, v in kept), *self.states]
        contents = [*(v for _, v in kept), *(s.value if v is None else v for s, v in zip(self.states, self.contents))]
        step = [self.step] if self.step is not None and any(self.step in n.inputs for n in self.builder.nodes) else []
        given = [*(v for v, _ in data), *(w.value for w in weights), *(s.value for s in states), *step]
        graph = self.builder.graph(whole.graph.name, given, [*outputs, *contents])
        return replace(
            whole,
            inputs=tuple(DataInput(v, i.low, i.high) for v, i in data),
            weights=tuple(weights),
            graph=graph,
            metrics=(),
            states=tuple(states),
            scored=False,
        )
