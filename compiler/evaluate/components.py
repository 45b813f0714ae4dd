"""A model that is called by another: its inputs are given, its outputs are what the call gives, its loss is let be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from compiler.evaluate.calls import bind, bind_defaults
from compiler.evaluate.expressions import evaluate, static_of, tensor
from compiler.evaluate.scope import Called, Scope
from compiler.evaluate.session import listed
from compiler.evaluate.values import Bound, CallResults, Defined, Skip
from dsl import ast
from dsl.diagnostics import ParcError, did_you_mean, fail


def call_model(expr: ast.Call, entry: Defined, scope: Scope) -> Bound:
    """Run the model's statements in a scope of its own; its outputs.

    Arguments are the model's, as behind `train`, and its inputs by name. One that the job freezes as a whole is not in
    training there.
    """
    from compiler.evaluate.statements import run
    from compiler.evaluate.states import finish_states

    item, session, making = entry.item, scope.session, scope.making
    if making.kind != "model":
        raise fail("E0114", f"`{entry.name}` is a model, which models and their functions call", expr.function.span)
    inputs = list(_inputs(item.body))
    given: dict[str, ast.Argument] = {}
    for a in expr.arguments:
        if a.name is not None and a.name.id in inputs:
            if a.name.id in given:
                raise fail("E0111", f"`{a.name.id}` is given twice", a.span)
            given[a.name.id] = a
    rest = tuple(a for a in expr.arguments if a not in given.values())
    arguments = _arguments(replace(expr, arguments=rest), entry, inputs, scope)
    called = Called(
        {n: (tensor(evaluate(a.value, scope), scope, a.value.span), a.value.span) for n, a in given.items()}
    )
    if any(c.entry is entry for c in session.stack):
        circle = " -> ".join([*(c.entry.name for c in session.stack), entry.name])
        raise fail("E0112", f"recursion: {circle}", expr.span, help="models cannot call themselves")
    session.spend_call(expr.span)
    path = scope.child_path(expr.label.id if expr.label else entry.name, expr.span)
    inner = Scope(entry.module, making, scope.frame, path, "model")
    inner.called = called
    before = making.still, making.lacking
    making.still = making.still or (making.frozen is not None and making.frozen.hold(path))
    making.lacking = {n: (entry.name, expr.span) for n in inputs if n not in given}
    try:
        with session.calling(entry, expr.span):
            bind_defaults(item.parameters, arguments, inner)
            failures = session.failures
            run(item.body, inner)
            if session.failures > failures:
                raise Skip
            unread = [n for n in given if n not in called.read]
            if unread:
                message = f"`{entry.name}` has no input `{unread[0]}` with these arguments"
                raise fail("E0109", message, given[unread[0]].span, help="leave it out")
            if not called.outputs:
                message = f"`{entry.name}` puts out nothing"
                help = "end it with `output …`: a call gives its outputs, in their order"
                raise fail("E0307", message, item.name.span, help=help)
            finish_states(inner)
            values = tuple(value for _, value in called.outputs)
            return values[0] if len(values) == 1 else CallResults(values)
    finally:
        making.still, making.lacking = before


def _inputs(body: Sequence[ast.Statement]) -> Iterator[str]:
    """All that the model may declare."""
    for statement in body:
        if isinstance(statement, ast.InputDecl):
            yield from (n.id for n in statement.names)
        elif isinstance(statement, ast.If):
            yield from _inputs((*statement.then, *statement.other))


def _arguments(expr: ast.Call, entry: Defined, inputs: Sequence[str], scope: Scope) -> dict[str, Bound | None]:
    """The model's own, which are numbers."""
    known = [p.target.name.id for p in entry.item.parameters]
    for a in expr.arguments:
        if a.name is not None and a.name.id not in known:
            help = did_you_mean(a.name.id, [*inputs, *known]) or f"its inputs are {listed(inputs)}"
            raise fail(
                "E0109", f"the model `{entry.name}` has no input or parameter `{a.name.id}`", a.name.span, help=help
            )
    what = f"the model `{entry.name}`"
    try:
        return bind(expr, entry.item.parameters, what, lambda e: static_of(evaluate(e, scope), e.span))
    except ParcError as error:
        named = f"its inputs are given by name: `{entry.name}({inputs[0]} = …)`" if inputs else None
        found = (replace(d, help=named) if d.code == "E0111" and named else d for d in error.diagnostics)
        raise ParcError(*found) from None
