"""Placing a rolled loop: its body is placed once; carries keep their layout, stacks keep the loop dim whole."""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph, Node, Value
from compiler.layout import TIME, Layout
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.passes.place.node import place_node
from compiler.passes.place.region import GradMark, GraphPlacer
from dsl.data import dataclass

_TRIALS = 3


@dataclass(slots=True)
class _Trial:
    """One attempt at a body: what enters, what leaves."""

    region: GraphPlacer
    inputs: list[Value]
    params: list[Value]
    natural: list[Layout]


@dataclass(frozen=True, slots=True)
class _Before:
    """How far a region and what is said of it had come before an attempt."""

    nodes: int
    choices: int
    moves: int
    findings: int
    reported: frozenset[tuple[str, str]]

    @staticmethod
    def of(region: GraphPlacer) -> _Before:
        shared = region.shared
        region.attempt()
        nodes, choices, moves = len(region.nodes), len(shared.choices), len(shared.moves)
        return _Before(nodes, choices, moves, len(shared.diagnostics), frozenset(shared.rules.reported))

    def restore(self, region: GraphPlacer) -> None:
        del region.nodes[self.nodes :], region.shared.choices[self.choices :], region.shared.moves[self.moves :]
        region.shared.diagnostics.forget(self.findings)
        region.rules.reported = set(self.reported)
        region.take_back()


def place_repeat(region: GraphPlacer, node: Node) -> None:
    """Append the placed loop. Accumulators may carry a pending sum (`_stays_pending`); all else enters resolved."""
    op = node.op
    assert isinstance(op, Repeat)
    layouts = [region.declared(p) for p in op.body.inputs[: op.carries]]
    before = _Before.of(region)
    trial = _try(region, node, op, layouts)
    for _ in range(_TRIALS - 1):
        better = [
            natural if _stays_pending(region, natural, outer) else layout
            for natural, layout, outer in zip(trial.natural, layouts, node.inputs, strict=False)
        ]
        if better == layouts:
            break
        layouts = better
        before.restore(region)
        trial = _try(region, node, op, layouts)
    region.undo = None
    _finish(region, node, op, trial, layouts)


def _stays_pending(region: GraphPlacer, natural: Layout, outer: Value) -> bool:
    """Whether a carry that an iteration gives in the layout `natural` and that begins as `outer` goes on like that.

    From zero on it costs nothing. A sum over micro-batches is ready in none of them, so it must, whatever it begins as.
    """
    if not natural.pending or any(fn != "sum" for _, fn in natural.pending):
        return False
    return TIME in dict(natural.pending) or _zero(region, outer)


def _zero(region: GraphPlacer, value: Value) -> bool:
    made = region.lazy.get(value.name)
    return made is not None and made.op.uniform() == 0


def _try(region: GraphPlacer, node: Node, op: Repeat, layouts: list[Layout]) -> _Trial:
    inner = GraphPlacer(region.shared, region.cls, region.axes, region)
    inputs: list[Value] = []
    params: list[Value] = []
    for outer, param, layout in zip(node.inputs, op.body.inputs, layouts, strict=False):
        region.reader, region.span = param.name, node.span
        inputs.append(region.demand(outer, layout))
        params.append(param)
        inner.define(param, layout)
        if _zero(region, outer):
            inner.zeros.add(param.name)
    for i in range(op.carries, op.carries + op.stacks):
        outer, param = node.inputs[i], op.body.inputs[i]
        region.reader = param.name
        got, layout = _stack(region, outer)
        inputs.append(got)
        params.append(param)
        inner.define(param, Layout(layout.dims[1:], layout.pending))
        if outer.name in region.weights:
            inner.weights[param.name] = Layout(region.weights[outer.name].dims[1:])
        if outer.name in region.constants and not param.type.dims:
            inner.constants.add(param.name)
    for outer, param in zip(
        node.inputs[op.carries + op.stacks :], op.body.inputs[op.carries + op.stacks :], strict=True
    ):
        inner.outer[param.name] = outer
        if outer.name in region.constants:
            inner.constants.add(param.name)
        if outer.name in region.weights:
            source = region.versions[outer.name][0]
            given, layout = source.value, source.layout
            if op.scan:  # gathered once, not at each position
                layout = region.weights[outer.name]
                region.reader = param.name
                given = region.demand(outer, layout)
            inner.weights[param.name] = region.weights[outer.name]
            inner.extra.append((given, param))
            inner.define(param, layout)
    for n in op.body.nodes:
        (place_repeat if isinstance(n.op, Repeat) else place_node)(inner, n)
    natural = [inner.natural(v) for v in op.body.outputs[: op.carries]]
    return _Trial(inner, inputs, params, natural)


def _stack(region: GraphPlacer, outer: Value) -> tuple[Value, Layout]:
    """The stack in a layout that keeps the loop dim whole and nothing pending."""
    if outer.name in region.weights:
        version = region.versions[outer.name][0]
        return version.value, version.layout
    for layout, _ in region.layouts(outer):
        if not layout.pending and not layout.dims[0]:
            return region.demand(outer, layout), layout
    declared = region.declared(outer)
    layout = Layout(((), *declared.dims[1:]))
    return region.demand(outer, layout), layout


def _finish(region: GraphPlacer, node: Node, op: Repeat, trial: _Trial, layouts: list[Layout]) -> None:
    inner = trial.region
    outputs: list[Value] = []
    results: list[Layout] = []
    for value, layout in zip(op.body.outputs[: op.carries], layouts, strict=True):
        inner.reader, inner.span = value.name, node.span
        outputs.append(inner.demand(value, layout))
    for value in op.body.outputs[op.carries :]:
        inner.reader = value.name
        got = _as_sum(inner, value) if op.scan else export(inner, value)
        layout = region.shared.layouts[got.name]
        outputs.append(got)
        results.append(layout)
    params = [*trial.params, *(p for _, p in inner.extra)]
    inputs = [*trial.inputs, *(outer for outer, _ in inner.extra)]
    body = Graph(op.body.name, tuple(params), tuple(inner.nodes), tuple(outputs))
    region.nodes.append(Node(replace(op, body=body), tuple(inputs), node.outputs, node.span))
    for out, layout in zip(node.outputs[: op.carries], layouts, strict=True):
        region.define(out, layout)
    for out, layout in zip(node.outputs[op.carries :], results, strict=True):
        region.define(out, Layout(((), *layout.dims), layout.pending))


def _as_sum(region: GraphPlacer, value: Value) -> Value:
    """What a scan gives at each position: a sum that is pending is reduced once outside, not at each position."""
    known = [layout for layout, _ in region.layouts(value)]
    if known and all(layout.pending and all(fn == "sum" for _, fn in layout.pending) for layout in known):
        return region.demand(value, known[0])
    return export(region, value)


def export(region: GraphPlacer, value: Value) -> Value:
    """What leaves a graph or body: gradients as they are stored, sums over axes that do not split them pending (unless
    a rule says otherwise), what states contain as they lie, everything else resolved."""
    if value.name in region.shared.contents:
        return region.demand(value, summed(region, value, region.shared.contents[value.name]))
    mark = region.shared.gradients.get(value.name)
    if mark is None or region.cls == "optimizer":
        return region.resolved(value)
    stored = region.shared.gradient_storage.get(mark.weight)
    natural = region.natural(value)
    dims = natural.dims if stored is None else stored.dims[len(stored.dims) - len(value.type.dims) :]
    split = {a for axes in dims for a in axes}
    waiting = (p for p in natural.pending if p[0] not in split)
    pending = tuple(p for p in waiting if p[0] == TIME or region.rules.waits(mark.weight, p[0]))
    return region.demand(value, Layout(dims, pending))


def summed(region: GraphPlacer, value: Value, layout: Layout) -> Layout:
    """The layout of what a state is to contain: as it lies, pending over the micro-batches where it is made so."""
    fn = region.natural(value).pending_on(TIME)
    return layout if fn is None or TIME in layout.split_axes else Layout(layout.dims, ((TIME, fn),))


def mark_contents(graph: Graph, contents: dict[str, Layout], marks: dict[str, Layout]) -> None:
    """Follow what states contain (by the names of values) into the loops that make it; fills `marks` by value name."""
    for node in graph.nodes:
        if not isinstance(node.op, Repeat):
            continue
        op = node.op
        inner = {}
        for out, inside in zip(node.outputs[op.carries :], op.body.outputs[op.carries :], strict=True):
            layout = contents.get(out.name)
            if layout is not None and not layout.dims[0]:
                inner[inside.name] = Layout(layout.dims[1:])
        if inner:
            marks.update(inner)
            mark_contents(op.body, inner, marks)


def mark_gradients(graph: Graph, marks: dict[str, GradMark]) -> None:
    """Follow weights' gradients back through ops that keep their dims, into loops too; fills `marks` by value name."""
    for node in reversed(graph.nodes):
        if isinstance(node.op, Repeat):
            op = node.op
            for i, out in enumerate(node.outputs):
                mark = marks.get(out.name)
                if mark is None:
                    continue
                inside = op.body.outputs[i]
                if i < op.carries:
                    marks[inside.name] = mark
                    marks[op.body.inputs[i].name] = mark
                    marks.setdefault(node.inputs[i].name, mark)
                else:
                    marks[inside.name] = GradMark(mark.weight, {k: a for k, a in mark.dims.items() if k != op.label})
            mark_gradients(op.body, marks)
            continue
        mark = marks.get(node.outputs[0].name)
        if mark is None:
            continue
        if isinstance(node.op, (Cast, Transpose)) or (
            isinstance(node.op, Map) and node.op.fn in ("add", "sub", "mul", "neg")
        ):
            names = set(node.outputs[0].type.names)
            for v in node.inputs:
                if set(v.type.names) == names:
                    marks.setdefault(v.name, mark)
        elif isinstance(node.op, Rename):
            back = {new: old for old, new in node.op.pairs}
            marks.setdefault(
                node.inputs[0].name, GradMark(mark.weight, {back.get(k, k): a for k, a in mark.dims.items()})
            )
