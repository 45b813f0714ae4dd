"""`lower`: a placed training graph becomes a program: relayouts turn into collectives, graphs into functions with effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compiler.graph import Graph, Names, Node, Value
from compiler.layout import TIME, Layout
from compiler.ops.comm import Relayout
from compiler.ops.effects import Accumulate, Input, Load, Read, Save, Write
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.program import (
    Affine,
    Axis,
    Body,
    DeviceClass,
    For,
    Function,
    InputDecl,
    Instr,
    LocalRepeat,
    Program,
    Run,
    Schedule,
    StateDecl,
    Update,
    Var,
)
from compiler.relayout import plan_relayout


class _Emitter:
    """Appends instructions; knows every value's layout and keeps names unique within the program."""

    def __init__(self, placed: Placed, names: Names) -> None:
        self.placed, self.names = placed, names
        self.instrs: list[Instr] = []
        self.renamed: dict[str, str] = {}

    def var(self, value: Value) -> Var:
        return Var(value.name, value.type, self.placed.layouts[value.name])

    def name(self, value: Value) -> str:
        return self.renamed.get(value.name, value.name)

    def effect(self, op: Input | Read | Load, value: Value, layout: Layout) -> None:
        """A value that comes out of a buffer, under a name of its own in each function."""
        name = self.names.fresh(value.name)
        if name != value.name:
            self.renamed[value.name] = name
        self.instrs.append(Instr(op, (), (Var(name, value.type, layout),)))

    def node(self, node: Node) -> None:
        if isinstance(node.op, Relayout):
            self._relayout(node, node.op.layout)
        elif isinstance(node.op, Repeat):
            self._repeat(node, node.op)
        else:
            inputs = tuple(self.name(v) for v in node.inputs)
            self.instrs.append(Instr(node.op, inputs, tuple(self.var(v) for v in node.outputs)))

    def _relayout(self, node: Node, target: Layout) -> None:
        source, out = node.inputs[0], node.output
        steps = plan_relayout(source.type, self.placed.layouts[source.name], target, self.placed.sizes)
        current = self.name(source)
        for i, step in enumerate(steps):
            name = out.name if i == len(steps) - 1 else self.names.fresh(f"{out.name}.via")
            self.instrs.append(Instr(step.op, (current,), (Var(name, out.type, step.layout),)))
            current = name
        if not steps:
            self.renamed[out.name] = current

    def _repeat(self, node: Node, op: Repeat) -> None:
        inner = _Emitter(self.placed, self.names)
        for n in op.body.nodes:
            inner.node(n)
        results = tuple(inner.name(v) for v in op.body.outputs)
        body = Body(tuple(inner.var(v) for v in op.body.inputs), tuple(inner.instrs), results)
        loop = LocalRepeat(op.label, op.count, body, op.carries, op.stacks, op.reverse)
        inputs = tuple(self.name(v) for v in node.inputs)
        self.instrs.append(Instr(loop, inputs, tuple(self.var(v) for v in node.outputs)))


def lower(placed: Placed) -> Program:
    """One class of devices: forward, backward and update function, buffers, schedule."""
    training = placed.training
    job = training.job
    names = Names(_own_names((placed.forward, placed.backward, placed.update)))
    states = _states(placed)
    functions = (
        Function("F", 0, _forward(placed, names)),
        Function("B", 0, _backward(placed, names)),
        Function("U", 0, _update(placed, names)),
    )
    count = placed.sizes.get(TIME, 1)
    axes = [Axis(TIME, count, "time")] if count > 1 else []
    axes += [Axis(a.name, a.size, "mesh") for a in job.strategy.mesh if a.size > 1]
    data = {v.name for g in (placed.forward, placed.backward) for v in g.inputs}
    inputs = tuple(
        InputDecl(i.value.name, i.value.type, i.low, i.high) for i in training.model.inputs if i.value.name in data
    )
    cls = DeviceClass((0,), (), states, functions, _sequential(count))
    return Program(job.name, tuple(axes), inputs, (cls,), job.seed, 1)


def _sequential(count: int) -> Schedule:
    """Gradient accumulation: F and B of each micro-batch in turn, then the update."""
    zero = Affine(0)
    if count == 1:
        return (Run("F", 0, zero, Affine(1)), Run("B", 0, zero, Affine(1)), Update())
    return (For(Affine(count), 1, (("F", 0, zero), ("B", 0, zero))), Update())


def _states(placed: Placed) -> tuple[StateDecl, ...]:
    training = placed.training
    found = [
        StateDecl(w.name, "weight", w.value.type, placed.weights[w.name], 0, w.init, logical=w.name)
        for w in training.model.weights
    ]
    for s in training.states:
        role = "optimizer" if s.of is not None else "counter"
        found.append(StateDecl(s.name, role, s.value.type, placed.states[s.name], 0, s.init, logical=s.name))
    for w, g, layout in zip(training.model.weights, training.gradients, placed.accumulators, strict=True):
        found.append(StateDecl(_gradient(w.name), "gradient", g.type, layout, logical=w.name))
    scalars = ("loss", *training.model.metrics)
    for name, v in zip(scalars, training.forward.outputs, strict=False):
        role = "loss" if name == "loss" else "metric"
        found.append(StateDecl(name, role, v.type, Layout(tuple(() for _ in v.type.dims)), logical=name))
    outputs = training.update.outputs[len(training.update.outputs) - len(training.reports) :] if training.reports else ()
    for name, v in zip(training.reports, outputs, strict=True):
        found.append(StateDecl(name, "report", v.type, Layout(tuple(() for _ in v.type.dims)), logical=name))
    for v, kept in zip(training.saved, placed.kept, strict=True):
        found.append(StateDecl(v.name, "saved", v.type, placed.layouts[kept.name], logical=v.name))
    return tuple(found)


def _gradient(weight: str) -> str:
    return f"{weight}.grad"


def _enter(emit: _Emitter, placed: Placed, inputs: Sequence[Value], nodes: Iterable[Node], outputs: Iterable[Value]) -> None:
    """Effects for the inputs that the function reads: saved values, weights, states, data."""
    training = placed.training
    used = {v.name for n in nodes for v in n.inputs} | {v.name for v in outputs}
    weights = set(placed.weights)
    states = set(placed.states)
    saved = {v.name: s.name for v, s in zip(placed.kept, training.saved, strict=True)}
    for v in inputs:
        if v.name not in used:
            continue
        if v.name in saved:
            emit.effect(Load(saved[v.name]), v, placed.layouts[v.name])
        elif v.name in weights:
            emit.effect(Read(v.name), v, placed.weights[v.name])
        elif v.name in states and v.name != "step":
            emit.effect(Read(v.name), v, placed.states[v.name])
        else:
            emit.effect(Input(v.name), v, placed.layouts[v.name])


def _forward(placed: Placed, names: Names) -> Body:
    emit = _Emitter(placed, names)
    graph = placed.forward
    _enter(emit, placed, graph.inputs, graph.nodes, graph.outputs)
    for n in graph.nodes:
        emit.node(n)
    scalars = ("loss", *placed.training.model.metrics)
    for name, v in zip(scalars, graph.outputs, strict=False):
        emit.instrs.append(Instr(Accumulate(name), (emit.name(v),), ()))
    for v, saved in zip(graph.outputs[len(scalars) :], placed.training.saved, strict=True):
        emit.instrs.append(Instr(Save(saved.name), (emit.name(v),), ()))
    return Body((), tuple(emit.instrs), ())


def _backward(placed: Placed, names: Names) -> Body:
    emit = _Emitter(placed, names)
    graph = placed.backward
    _enter(emit, placed, graph.inputs, graph.nodes, graph.outputs)
    for n in graph.nodes:
        emit.node(n)
    for w, v in zip(placed.training.model.weights, graph.outputs, strict=True):
        emit.instrs.append(Instr(Accumulate(_gradient(w.name)), (emit.name(v),), ()))
    return Body((), tuple(emit.instrs), ())


def _update(placed: Placed, names: Names) -> Body:
    emit = _Emitter(placed, names)
    graph, training = placed.update, placed.training
    used = {v.name for n in graph.nodes for v in n.inputs} | {v.name for v in graph.outputs}
    gradients = {g.name: w.name for g, w in zip(placed.totals, training.model.weights, strict=True)}
    layouts = {g: layout for g, layout in zip(gradients, placed.accumulators, strict=True)}
    for v in graph.inputs:
        if v.name not in used:
            continue
        if v.name in gradients:
            emit.effect(Read(_gradient(gradients[v.name])), v, layouts[v.name])
        elif v.name in placed.weights:
            emit.effect(Read(v.name), v, placed.weights[v.name])
        else:
            emit.effect(Read(v.name), v, placed.states[v.name])
    for n in graph.nodes:
        emit.node(n)
    targets = [w.name for w in training.model.weights] + [s.name for s in training.states]
    for name, v in zip(targets, graph.outputs, strict=False):
        emit.instrs.append(Instr(Write(name), (emit.name(v),), ()))
    for name, v in zip(training.reports, graph.outputs[len(targets) :], strict=True):
        emit.instrs.append(Instr(Write(name), (emit.name(v),), ()))
    return Body((), tuple(emit.instrs), ())


def _own_names(graphs: Iterable[Graph]) -> Iterable[str]:
    """Names of what nodes compute and bodies take (function inputs get their names from the effects)."""

    def walk(nodes: Iterable[Node]) -> Iterable[str]:
        for n in nodes:
            yield from (v.name for v in n.outputs)
            if isinstance(n.op, Repeat):
                yield from (v.name for v in n.op.body.inputs)
                yield from walk(n.op.body.nodes)

    for g in graphs:
        yield from walk(g.nodes)
