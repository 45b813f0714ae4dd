"""`model`: the serial forward program as a graph."""

from __future__ import annotations

from dataclasses import replace

from compiler.evaluate.calls import bind_defaults
from compiler.evaluate.frame import Frame
from compiler.evaluate.frozen import Patterns
from compiler.evaluate.scope import Making, Scope
from compiler.evaluate.session import Session
from compiler.evaluate.statements import run
from compiler.evaluate.states import finish_states
from compiler.evaluate.values import Bound, Defined, Skip
from compiler.graph import Graph, Names
from compiler.model import Model, Precision
from compiler.origin import last
from compiler.passes.inference import inference
from compiler.passes.reached import reached
from dsl import ast
from dsl.diagnostics import fail


def build_model(
    session: Session,
    entry: Defined,
    arguments: dict[str, Bound | None],
    names: Names,
    precision: Precision,
    frozen: Patterns | None = None,
    infers: bool = False,
) -> tuple[Model, Model | None]:
    """The model with these arguments: in `train_step`, and in other entries where it asks whether it is `training`.

    frozen: its weights that are not trained. infers: the other is what computes its outputs; it needs no loss then.
    Raises ParcError or Skip (already reported).
    """
    spent = session.nodes, session.calls
    making = Making(session, names, precision, "model", frozen)
    making.infers = infers
    model = _made(making, entry, arguments)
    if not making.asks_training:
        return model, inference(model, entry.item.name.span) if infers else None
    session.nodes, session.calls = spent
    taken = Names([*(w.name for w in model.weights), *(s.name for s in model.states)])
    again = Making(session, taken, precision, "model", frozen, making)
    again.infers = infers
    other = _others(model, _made(again, entry, arguments))
    return model, inference(other, entry.item.name.span) if infers else other


def _others(model: Model, again: Model) -> Model:
    """The model of other entries than `train_step`, whose weights are those that training makes."""
    known = {w.name: w for w in model.weights}
    for w in again.weights:
        if w.name not in known or known[w.name].value.type != w.value.type:
            help = "declare it outside of the `if`: a weight that training does not have stays as it begins"
            raise fail("E0318", f"the weight `{w.name}` is not one of training's", w.value.span, help=help)
    kept = {s.name: s for s in model.states}
    for s in again.states:
        if s.name not in kept or kept[s.name].value.type != s.value.type:
            help = "declare it outside of the `if`: a state that training does not have stays as it begins"
            raise fail("E0318", f"the state `{s.name}` is not one of training's", s.value.span, help=help)
    return replace(again, weights=tuple(replace(w, trained=known[w.name].trained) for w in again.weights))


def _made(making: Making, entry: Defined, arguments: dict[str, Bound | None]) -> Model:
    item, session, names = entry.item, making.session, making.names
    assert isinstance(item, ast.Model)
    frame = Frame(names, "")
    scope = Scope(entry.module, making, frame, "", "model")
    for parameter in item.parameters:
        if parameter.target.dims is not None or parameter.target.rest:
            raise fail("E0302", "a model's parameters are numbers; tensors are `input`s", parameter.span)
    bind_defaults(item.parameters, arguments, scope)
    before = session.failures
    run(item.body, scope)
    if session.failures > before:
        raise Skip
    finish_states(scope)
    _check(making, entry)
    loss = () if making.loss is None else (making.loss[0],)
    states = tuple(s.declared for s in making.model_states)
    contents = [s.declared.value if s.final is None else s.final for s in making.model_states]
    step = (frame.used_step,) if frame.used_step else ()
    params = (
        *(i.value for i in making.inputs),
        *(w.value for _, w in making.weights),
        *(s.value for s in states),
        *step,
    )
    results = (*loss, *(value for _, value in (*making.metrics, *making.outputs)), *contents)
    graph = Graph(entry.name, params, tuple(frame.builder.nodes), results)
    _check_labels(making)
    found = reached(graph.nodes, loss)
    weights = tuple(replace(w, trained=w.trained and w.value in found) for _, w in making.weights)
    metrics, outputs = (tuple(n for n, _ in found) for found in (making.metrics, making.outputs))
    inputs, scored, pieces = tuple(making.inputs), bool(loss), tuple(making.pieces.values())
    return Model(entry.name, inputs, weights, graph, metrics, outputs, states, scored, making.calls, pieces)


def _check(making: Making, entry: Defined) -> None:
    session = making.session
    before = session.failures
    for variable, weight in making.weights:
        if not variable.read and making.training:
            help = "use it, or declare it only where it is used (`if`)"
            session.failed(fail("E0308", f"the weight `{weight.name}` is never used", weight.value.span, help=help))
    for state in making.model_states:
        if state.final is None and making.training and not making.asks_training:
            name = last(state.declared.name)
            message = f"the state `{state.declared.name}` is never changed"
            session.failed(
                fail("E0312", message, state.span, help=f"`{name} = …`, or a weight or a number in its place")
            )
    if making.loss is None and not making.infers:
        help = "end it with `loss …`, a scalar"
        session.failed(fail("E0303", f"the model `{entry.name}` has no loss", entry.item.name.span, help=help))
    if session.failures > before:
        raise Skip


def _check_labels(making: Making) -> None:
    """The label of a loop names the leading dim of what is stacked over it: no other dim may be called so."""
    for label, span in making.loop_labels.items():
        if label in making.dim_names:
            message = f"`{label}` is the label of a `repeat` and also the name of a dim"
            raise fail("E0306", message, span, help="rename one of them")
