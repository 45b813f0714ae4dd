"""`optimizer`: one small graph per kind of weight, in master precision; what depends on the step alone is in f64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.evaluate import static
from compiler.evaluate.calls import bind, bind_defaults
from compiler.evaluate.expressions import evaluate, tensor
from compiler.evaluate.frame import Frame
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Making, Scope
from compiler.evaluate.session import Session
from compiler.evaluate.statements import run
from compiler.evaluate.values import Defined, Skip, WeightVar, is_static, plain
from compiler.graph import BEYOND_F32, Graph, Names, Type, Value
from compiler.loop_pieces import apart_in, by_path
from compiler.model import STEP_DTYPE, LoopPiece, Precision, Weight, WeightUpdate
from compiler.ops.elementwise import Cast, Transpose
from compiler.ops.index import Take
from compiler.origin import Origin
from dsl import ast
from dsl.diagnostics import fail

GIVEN = ("w", "g", "step")


def build_updates(
    session: Session,
    module: Module,
    use: ast.Call,
    weights: tuple[Weight, ...],
    names: Names,
    precision: Precision,
    model: Graph,
    pieces: Sequence[LoopPiece] = (),
) -> tuple[tuple[WeightUpdate, ...], float | None]:
    """The updates of all weights of the model's graph, and the norm to which gradients are clipped (None: not).

    pieces: of its loops. What is in one of their iterations by itself is renewed as it would be in the loop.
    """
    entry = module.find("optimizer", use.function)
    clip = _clip(module, use)
    rest = tuple(a for a in use.arguments if not (a.name and a.name.id == "clip"))
    call = ast.Call(use.function, rest, use.label, span=use.span)
    for parameter in entry.item.parameters:
        if parameter.target.name.id in (*GIVEN, "clip"):
            message = f"`{parameter.target.name.id}` is given to every optimizer"
            raise fail("E0102", message, parameter.span, help="choose another name")
    updates: list[WeightUpdate] = []
    kinds: dict[tuple[object, ...], tuple[WeightUpdate, Weight]] = {}
    taken, around = taken_rows(model), by_path(pieces)
    precision = Precision(precision.master, precision.master)
    for weight in weights:
        before = session.failures
        rows = taken.get(weight.value) if not apart_in(weight.name, around) else None
        kind = weight.value.type, weight.loops, rows
        if kind in kinds:
            updates.append(_same(*kinds[kind], weight, names))
            continue
        updates.append(_update(session, module, entry, call, weight, names, precision, rows))
        kinds[kind] = updates[-1], weight
        if session.failures > before:  # the next weight would fail likewise
            raise Skip
    return tuple(updates), clip


def taken_rows(graph: Graph) -> dict[Value, str]:
    """The tables of a graph of which rows are taken outside of loops, by number, and over which dim."""
    of = {n.outputs[0]: n.inputs[0] for n in graph.nodes if isinstance(n.op, Cast)}
    found: dict[Value, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Take):
            table = node.inputs[0]
            found.setdefault(of.get(table, table), node.op.dim)
    return found


def _clip(module: Module, use: ast.Call) -> float | None:
    from compiler.evaluate.statics import static_scope

    for argument in use.arguments:
        if argument.name and argument.name.id == "clip":
            value = evaluate(argument.value, static_scope(module))
            clip = float(static.number(value, "`clip`", argument.value.span))
            if clip <= 0:
                raise fail("E0206", f"`clip` must be above 0, got {clip}", argument.value.span)
            if clip >= BEYOND_F32:
                raise fail("E0206", f"`clip` must be below {BEYOND_F32:.4g}, got {clip}", argument.value.span)
            return clip
    return None


def _update(
    session: Session,
    module: Module,
    entry: Defined,
    call: ast.Call,
    weight: Weight,
    names: Names,
    precision: Precision,
    rows: str | None,
) -> WeightUpdate:
    """rows: the dim over which rows of the weight are taken."""
    making = Making(session, names, precision, "optimizer")
    making.owner = weight.name
    making.loop_labels = dict.fromkeys(weight.loops, weight.value.span)
    own = [n for n in weight.value.type.names if n not in weight.loops]
    making.taken = rows is not None
    making.rows = rows or next(iter(own), "")
    path = f"{weight.name}.update"
    frame = Frame(names, path)
    step = frame.param("step", Type(STEP_DTYPE))
    if precision.master != STEP_DTYPE:
        making.of_step.add(step)
    w = frame.param("w", weight.value.type, weight.value.span)
    g = making.gradient = frame.param("g", weight.value.type, weight.value.span)

    outside = Scope(module, making, frame, path, "optimizer")
    outside.vars["step"] = step
    arguments = bind(call, entry.item.parameters, f"the optimizer `{entry.name}`", lambda e: evaluate(e, outside))
    inner = Scope(entry.module, making, frame, path, "optimizer")
    with session.calling(entry, call.span):
        bind_defaults(entry.item.parameters, arguments, inner)
        inner.vars |= {"w": w, "g": g, "step": step}
        before = session.failures
        run(entry.item.body, inner)
        if session.failures > before:
            raise Skip
        finals = [_final("w", weight.value.type, inner, entry, w)]
        finals += [_final(name, s.value.type, inner, entry, s.value) for name, s in making.states.items()]
    states = tuple(making.states.values())
    touched = () if making.touched is None else (making.touched,)
    graph = Graph(path, (step, w, g, *(s.value for s in states), *touched), tuple(frame.builder.nodes), tuple(finals))
    return WeightUpdate(weight.name, states, graph)


def _same(update: WeightUpdate, of: Weight, weight: Weight, names: Names) -> WeightUpdate:
    """The update of another weight of the same type: the same graph with states of its own."""
    states = []
    for s in update.states:
        name = names.fresh(weight.name + s.name[len(of.name) :])
        states.append(replace(s, value=replace(s.value, name=name, origin=Origin(name)), of=weight.name))
    return WeightUpdate(weight.name, tuple(states), update.graph)


def _final(name: str, type: Type, scope: Scope, entry: Defined, before: Value) -> Value:
    """The new value of the weight or a state, of the same type."""
    value = plain(scope.vars[name])
    span = entry.item.name.span
    if value is before:
        what = "the weight `w`" if name == "w" else f"the state `{name}`"
        raise fail("E0312", f"the optimizer `{entry.name}` never changes {what}", span, help=f"`{name} = …`")
    if is_static(value) or not isinstance(value, (Value, WeightVar)):
        raise fail("E0312", f"`{name}` must stay a tensor of the weight's shape", span)
    x = scope.in_master(tensor(value, scope, span), span)
    if x.type == type:
        return x
    if x.type.dtype == type.dtype and set(x.type.dims) == set(type.dims):
        return scope.emit(Transpose(type.names), x, span=span, name=name)
    raise fail("E0312", f"`{name}` is {type} before the update and {x.type} after it", span)
