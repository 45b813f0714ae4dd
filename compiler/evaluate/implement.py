"""`implement SCOPE by FN(…)`: the function is evaluated for one device, checked, and takes the scope's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from compiler.evaluate.calls import CallRecord, bind, match_pattern
from compiler.evaluate.expressions import evaluate, tensor
from compiler.evaluate.frame import Frame
from compiler.evaluate.index import ModelIndex
from compiler.evaluate.scope import Making, Scope
from compiler.evaluate.session import Session, listed
from compiler.evaluate.statements import run
from compiler.evaluate.values import AxisRef, Bound, Broken, Defined, Skip, WeightVar, is_static, kind_of
from compiler.evaluate.written import ByHand, enter
from compiler.graph import Dim, Graph, Names, Type, Value
from compiler.implement.check import check_graph
from compiler.implement.logical import DeviceDim
from compiler.implement.pieces import of_dims
from compiler.implement.replacing import Implementation, ReplacedScope, replaced
from compiler.model import Model
from compiler.origin import Origin, within
from compiler.passes.copying import copy_graph
from compiler.strategy import ImplementRule, MeshAxis, SplitRule, Strategy
from compiler.walk import graph_values
from dsl import ast
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span


def implementation(
    session: Session,
    statement: ast.Implement,
    path: str,
    index: ModelIndex,
    scope: Scope,
    axes: Sequence[MeshAxis],
    splits: Sequence[SplitRule] = (),
) -> Implementation:
    """The local graph of the function, right as far as types see. Its device dims are named later (`named`).

    scope: the strategy's. axes: of the mesh so far; splits: the rules so far, which may say orders. Raises ParcError,
    or Skip for what is reported.
    """
    model = index.model
    record = _called(path, index, statement)
    entry = scope.module.find("function", statement.call.function)
    parameters = entry.item.parameters
    own = [p for p in parameters if p.target.name.id not in record.arguments]
    given = bind(statement.call, own, f"`{entry.name}`", lambda e: _static(e, scope))
    making = Making(session, Names(), record.making.precision, "implementation")
    orders = {r.dims[0]: r.axis for r in reversed(splits) if r.zigzag and within(path, r.scope)}
    making.by_hand = by_hand = ByHand(_weights(path, record), orders=orders)
    making.labels = Names({d for v in graph_values(model.graph) for d in v.type.names})
    frame = Frame(making.names, path)
    inner = Scope(entry.module, making, frame, path, "function")
    with session.calling(entry, statement.call.span):
        _bind(entry, record, given, inner, by_hand, statement.call.span)
        before = session.failures
        found = run(entry.item.body, inner)
        if session.failures > before:
            raise Skip
        if found is None:
            help = "end it with `return …`"
            raise fail("E0307", f"`{entry.name}` returns nothing", entry.item.name.span, help=help)
        results = [tensor(v, inner, entry.item.name.span, "what is returned") for v in found.values]
        _check_weights(by_hand, record, entry)
        used = {v.name: v.size for v in inner.vars.values() if isinstance(v, AxisRef)}
        sizes = {a.name: a.size for a in axes if a.name in used}
        params = [v for v, _, _ in by_hand.inputs]
        graph = _called_as_written(Graph(path, tuple(params), tuple(frame.builder.nodes), tuple(results)))
        spans = _returned(entry, len(results))
        entered = (of_dims(dims, lies) for (_, _, dims), lies in zip(by_hand.inputs, by_hand.lies, strict=True))
        pieces = check_graph(graph, entered, sizes, spans)
        dims = tuple(
            tuple((d, p.split(d)) for d in v.type.names if p.split(d))
            for v, p in zip(graph.outputs, pieces, strict=True)
        )
        _check_results(record, graph.outputs, dims, sizes, entry, spans)
    devices = tuple(DeviceDim(a, Dim(a, n)) for a, n in sizes.items())
    inputs = tuple((name, of) for _, name, of in by_hand.inputs)
    lies = tuple(by_hand.lies), tuple(p.zigzag() for p in pieces)
    return Implementation(path, graph, inputs, dims, devices, statement.span, lies)


def _called_as_written(graph: Graph) -> Graph:
    """The graph, in which each value's path is that of the variable: of what is assigned again, too (`x_1`)."""
    names = {v.name for v in graph_values(graph)}

    def path(v: Value) -> tuple[str, Origin]:
        stem, _, number = v.name.rpartition("_")
        return v.name, Origin(stem if number.isdigit() and stem in names else v.name)

    return copy_graph(graph, Names(), path)


# --- what is replaced -----------------------------------------------------------------------------------------


def _called(path: str, index: ModelIndex, statement: ast.Implement) -> CallRecord:
    """The call of the scope's function."""
    span = statement.scope.span
    calls = index.model.calls
    if path not in calls:
        inside = [p for p in calls if p.startswith(f"{path}.")] or list(calls)
        what = (
            "a loop" if path in index.paths_of_loops else "a tensor" if path in index.tensors else "a scope of a model"
        )
        help = did_you_mean(path, calls) or (f"functions are called at {listed(sorted(inside))}" if inside else None)
        raise fail("E0420", f"`{path}` is {what}: what is implemented is the call of a function", span, help=help)
    record: CallRecord = calls[path]
    if any(f.scan for f in record.frame.loops):
        raise fail("E0420", f"`{path}` is called at each position of a `scan`", span, help="implement what calls it")
    states = [s.declared.name for s in record.making.model_states if within(s.declared.name, path)]
    if states:
        message = f"`{path}` has the state `{states[0]}`, which an implementation cannot renew"
        raise fail("E0420", message, span, help="implement what it calls")
    for i, v in enumerate(record.results):
        if not isinstance(v, Value) or v not in record.frame.own or not within(v.origin.path, path):
            what = kind_of(v) if not isinstance(v, Value) else "something that is not made in it"
            message = f"result {i + 1} of `{path}` is {what}"
            raise fail("E0420", message, span, help="a scope that is implemented makes tensors")
    return record


def _weights(path: str, record: CallRecord) -> dict[str, Value | None]:
    """The weights below the path, as the graph has them in which the call stands."""
    loops = tuple(f.label for f in record.frame.loops)
    found: dict[str, Value | None] = {}
    for variable, weight in record.making.weights:
        if within(weight.name, path):
            found[weight.name] = variable.raw if weight.loops == loops else None
    return found


def _check_weights(by_hand: ByHand, record: CallRecord, entry: Defined) -> None:
    for path in by_hand.weights:
        variable = by_hand.variables.get(path)
        if variable is None or not variable.read:
            help = "declare it with the dims that it has, and use it: `weight …[…]`"
            message = f"`{entry.name}` does not use the weight `{path}` of the scope"
            raise fail("E0428", message, entry.item.name.span, help=help)


# --- arguments ------------------------------------------------------------------------------------------------


def _static(expr: ast.Expr, scope: Scope) -> Bound:
    value = evaluate(expr, scope)
    if not is_static(value):
        raise fail("E0421", f"an implementation is given axes and numbers here, not {kind_of(value)}", expr.span)
    return value


def _bind(
    entry: Defined, record: CallRecord, given: Mapping[str, Bound | None], inner: Scope, by_hand: ByHand, span: Span
) -> None:
    """What the scope's function was given is bound to parameters of the same names; axes and numbers first."""
    parameters = entry.item.parameters
    for p in parameters:
        name = p.target.name.id
        value = record.arguments[name] if name in record.arguments else given[name]
        if value is None:
            assert p.default is not None
            value = evaluate(p.default, inner)
        if isinstance(value, Broken):
            raise Skip
        inner.vars[name] = value
    for p in parameters:
        target = p.target
        name = target.name.id
        value = inner.vars[name]
        patterned = target.dims is not None or target.rest
        if not isinstance(value, Value | WeightVar):
            if patterned:
                help = f"the function that is replaced takes {listed(record.arguments)}"
                message = f"`{name}` of `{entry.name}` must be a tensor, got {kind_of(value)}"
                raise fail("E0421", message, p.span, help=help)
            continue
        whole = _seen(value, record)
        if whole is None:
            message = f"`{name}`, which is given to `{record.entry.name}`, is of no use there, so it is not at hand"
            raise fail("E0421", message, p.span, help="compute it in the implementation")
        named = target.dims or ()
        if target.axes and len(named) > len(whole.type.dims):
            message = f"`{name}` of `{entry.name}` has {len(named)} dims, there it is {whole.type}"
            raise fail("E0213", message, p.span)
        x = enter(target, whole.type, name, inner, by_hand, p.span)
        inner.vars[name] = x
        if patterned:
            match_pattern(target, x, inner, p.span, entry.name)


def _seen(value: Value | WeightVar, record: CallRecord) -> Value | None:
    """The argument as the graph has it in which the call stands; None where that does not use it."""
    frame = record.frame
    if isinstance(value, WeightVar):
        cast = value.casts.get(frame.home)
        value = value.raw if cast is None else cast
    return value if value in frame.own else frame.imports.get(value)


# --- results --------------------------------------------------------------------------------------------------


def _returned(entry: Defined, count: int) -> tuple[Span, ...]:
    """Where each result is returned, if that can be told."""
    found = [s for s in _returns(entry.item.body) if len(s.values) == count]
    if len(found) == 1:
        return tuple(v.span for v in found[0].values)
    return (entry.item.name.span,) * count


def _returns(body: Sequence[ast.Statement]) -> Iterator[ast.Return]:
    for s in body:
        if isinstance(s, ast.Return):
            yield s
        elif isinstance(s, ast.If):
            yield from _returns((*s.then, *s.other))


def _check_results(
    record: CallRecord,
    results: Sequence[Value],
    dims: Sequence[tuple[tuple[str, tuple[str, ...]], ...]],
    sizes: Mapping[str, int],
    entry: Defined,
    spans: Sequence[Span],
) -> None:
    """Together the pieces must be what the scope gives."""
    if len(results) != len(record.results):
        message = f"`{entry.name}` returns {len(results)} results, `{record.entry.name}` {len(record.results)}"
        raise fail("E0421", message, spans[0] if spans else entry.item.name.span)
    for v, of, wanted, span in zip(results, dims, record.results, spans, strict=True):
        assert isinstance(wanted, Value)
        whole = {d.name: d.size for d in v.type.dims}
        for d, axes in of:
            for a in axes:
                whole[d] *= sizes[a]
        if v.type.dtype != wanted.type.dtype or whole != {d.name: d.size for d in wanted.type.dims}:
            shown = Type(v.type.dtype, tuple(Dim(d, n) for d, n in whole.items()))
            message = f"together the pieces are {shown}, `{record.entry.name}` gives {wanted.type}"
            raise fail("E0421", message, span, notes=[("it gives it here", wanted.span)])


# --- all of a strategy ----------------------------------------------------------------------------------------


def named(found: Sequence[Implementation], index: ModelIndex) -> tuple[Implementation, ...]:
    """Each axis with a dim of its devices that no tensor has. Raises E0420 where scopes meet."""
    for k, one in enumerate(found):
        for other in found[:k]:
            if within(one.scope, other.scope) or within(other.scope, one.scope):
                notes = [("the other is here", other.span)]
                message = f"`{one.scope}` is implemented twice"
                raise fail("E0420", message, one.span, notes=notes, help="a scope is replaced with all that is in it")
    taken = set(index.dims) | {d for i in found for v in graph_values(i.graph) for d in v.type.names}
    names = Names(taken)
    dims: dict[str, str] = {}
    for i in found:
        for d in i.devices:
            if d.axis not in dims:
                dims[d.axis] = names.fresh(d.axis)
    return tuple(
        replace(i, devices=tuple(DeviceDim(d.axis, Dim(dims[d.axis], d.dim.size)) for d in i.devices)) for i in found
    )


def rule(found: Implementation, by: Span | None, span: Span) -> ImplementRule:
    """What later passes have to know."""
    weights = tuple((name, dims) for name, dims in found.inputs if within(name, found.scope))
    axes = tuple((d.axis, d.dim.name) for d in found.devices)
    return ImplementRule(found.scope, axes, weights, span, by)


def implemented(model: Model, found: Sequence[Implementation], strategy: Strategy) -> Model:
    """The model with all implementations in the places of their scopes. Raises E0420 where micro-batches have no part
    of a piece."""
    called = [i for i in found if i.scope in model.calls]
    return replaced(model, list(zip(called, [_place(i, model.calls[i.scope]) for i in called])), strategy)


def _place(what: Implementation, record: CallRecord) -> ReplacedScope:
    weights = _weights(what.scope, record)
    given: dict[str, Value] = {}
    for name, _ in what.inputs:
        argument = record.arguments.get(name)
        value = weights.get(name) if name in weights else None
        if value is None and isinstance(argument, Value | WeightVar):
            value = _seen(argument, record)
        assert value is not None, name
        given[name] = value
    results = tuple(v for v in record.results if isinstance(v, Value))
    return ReplacedScope(given, results)
