"""Calls of functions: arguments meet parameters, patterns bind dims, the body runs in a scope of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from compiler.evaluate.builtins import BUILTINS, call_builtin
from compiler.evaluate.expressions import Want, evaluate, tensor
from compiler.evaluate.frame import Frame
from compiler.evaluate.modules import suggest_std
from compiler.evaluate.scope import Making, Scope
from compiler.evaluate.session import Session, listed
from compiler.evaluate.values import BROKEN, Bound, Broken, CallResults, Defined, DimList, Skip, kind_of
from compiler.evaluate.written import MESSAGES, state_pieces
from compiler.graph import Dim, Value
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError, did_you_mean, fail, plural
from dsl.source import Span

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class CallRecord:
    """A call of a function in a model: what a strategy may put an implementation in the place of."""

    entry: Defined
    arguments: dict[str, Bound]
    results: tuple[Bound, ...]
    frame: Frame
    making: Making


def call(expr: ast.Call, scope: Scope, want: Want = None, hint: str | None = None) -> Bound:
    """The value of a call of a built-in or of the file's (or a used file's) function or model."""
    name = expr.function.id
    entry = scope.module.entries.get(("function", name))
    if entry is None:
        model = scope.module.entries.get(("model", name))
        if model is not None and name not in BUILTINS:
            from compiler.evaluate.components import call_model

            return call_model(expr, model, scope)
        if name in BUILTINS:
            return call_builtin(expr, scope, want, hint)
        raise _unknown(expr, scope)
    arguments = bind(expr, entry.item.parameters, f"`{name}`", lambda e: _argument(e, scope))
    return call_function(expr, entry, arguments, scope)


def built(
    session: Session,
    entry: Defined,
    span: Span,
    arguments: dict[str, Bound | None],
    scope: Scope,
    make: Callable[[Session, Defined, Scope], T],
) -> T:
    """What `make` makes of a device or a cluster, with its parameters bound in `scope`. Raises Skip for what failed,
    which is reported with the place of the use."""
    with session.calling(entry, span):
        bind_defaults(entry.item.parameters, arguments, scope)
        return make(session, entry, scope)


def call_function(expr: ast.Call, entry: Defined, arguments: dict[str, Bound | None], scope: Scope) -> Bound:
    """Run the function's body; the value that it returns."""
    from compiler.evaluate.statements import run
    from compiler.evaluate.states import finish_states

    session = scope.session
    if any(c.entry is entry for c in session.stack):
        circle = " -> ".join([*(c.entry.name for c in session.stack), entry.name])
        help = "functions cannot call themselves; `repeat` is the loop of the language"
        raise fail("E0112", f"recursion: {circle}", expr.span, help=help)
    session.spend_call(expr.span)
    label = expr.label.id if expr.label else entry.name
    inner = Scope(entry.module, scope.making, scope.frame, scope.child_path(label, expr.span), "function")
    inner.in_repeat = scope.in_repeat
    with session.calling(entry, expr.span):
        _bind_patterns(expr, entry, arguments, inner, scope)
        bound = {p.target.name.id: inner.vars[p.target.name.id] for p in entry.item.parameters}
        before = session.failures
        result = run(entry.item.body, inner)
        if session.failures > before:
            raise Skip
        if result is None:
            message = f"`{entry.name}` returns nothing"
            raise fail("E0307", message, entry.item.name.span, help="end it with `return …`")
        finish_states(inner)
        if scope.making.kind == "model":
            record = CallRecord(entry, bound, result.values, scope.frame, scope.making)
            scope.making.calls[inner.path] = record
        return result.values[0] if len(result.values) == 1 else result


def _argument(expr: ast.Expr, scope: Scope) -> Bound:
    """An argument's value; after an error, the others are looked at too."""
    if isinstance(expr, ast.Over):
        if expr.after:
            raise fail("E0210", "only built-in functions take `->`", expr.span)
        if expr.per_microbatch:
            raise fail("E0210", "only built-in functions are taken per micro-batch", expr.span)
        dims = scope.dim_list(expr.dims)
        return dims[0] if len(dims) == 1 else DimList(dims)
    if isinstance(expr, (ast.Arrow, ast.Range)):
        raise fail("E0210", "only built-in functions take this as an argument", expr.span)
    value = evaluate(expr, scope)
    if isinstance(value, CallResults):
        raise fail("E0216", f"this gives {len(value.values)} results, one is expected", expr.span)
    return value


def bind(
    expr: ast.Call, parameters: Sequence[ast.Parameter], what: str, value_of: Callable[[ast.Expr], Bound]
) -> dict[str, Bound | None]:
    """Arguments by parameter's name; None where the default counts."""
    names = [p.target.name.id for p in parameters]
    given: dict[str, Bound | None] = {}
    position = 0
    failed: list[ParcError | Skip] = []
    for argument in expr.arguments:
        if argument.name is not None:
            name = argument.name.id
            if name not in names:
                help = did_you_mean(name, names) or (f"it takes {listed(names)}" if names else "it takes no arguments")
                raise fail("E0109", f"{what} has no parameter `{name}`", argument.name.span, help=help)
        elif position < len(names):
            name = names[position]
            position += 1
        else:
            help = f"it takes {listed(names)}" if names else "it takes no arguments"
            raise fail("E0111", f"one argument too many for {what}", argument.span, help=help)
        if name in given:
            raise fail("E0111", f"`{name}` is given twice", argument.span)
        try:
            given[name] = value_of(argument.value)
        except (ParcError, Skip) as error:
            failed.append(error)
            given[name] = BROKEN
    if failed:
        diagnostics: list[Diagnostic] = [d for e in failed if isinstance(e, ParcError) for d in e.diagnostics]
        if diagnostics:
            raise ParcError(*diagnostics)
        raise Skip
    missing = [p.target.name.id for p in parameters if p.default is None and p.target.name.id not in given]
    if missing:
        raise fail("E0110", f"{what} needs {listed(missing)}", expr.span)
    return {name: given.get(name) for name in names}


def bind_defaults(parameters: Sequence[ast.Parameter], arguments: dict[str, Bound | None], inner: Scope) -> None:
    """Put the arguments into the scope; defaults see the parameters before them."""
    for parameter in parameters:
        name = parameter.target.name.id
        if name in inner.vars:
            raise fail("E0102", f"there are two parameters `{name}`", parameter.span)
        value = arguments[name]
        if value is None:
            assert parameter.default is not None
            value = evaluate(parameter.default, inner)
        inner.vars[name] = value


def _bind_patterns(
    expr: ast.Call, entry: Defined, arguments: dict[str, Bound | None], inner: Scope, outer: Scope
) -> None:
    """Bind the tensors, and the local names of their dims."""
    bind_defaults(entry.item.parameters, arguments, inner)
    spans = _argument_spans(expr, entry)
    for parameter in entry.item.parameters:
        target = parameter.target
        value = inner.vars[target.name.id]
        if target.dims is None and not target.rest:
            continue
        span = spans.get(target.name.id, expr.span)
        if isinstance(value, Broken):
            raise Skip
        inner.vars[target.name.id] = x = tensor(value, outer, span, f"`{target.name.id}` of `{entry.name}`")
        match_pattern(target, x, inner, span, entry.name)
        if target.axes:
            inner.vars[target.name.id] = state_pieces(target, x, inner, span)


def match_pattern(target: ast.Target, x: Value, inner: Scope, span: Span, what: str) -> None:
    """Bind the pattern's local names to the dims of `x`, in order.

    In an implementation a name may be met again with another size: pieces of a dim and the whole have one name, of
    which the first size counts (types look whether they meet).
    """
    pieces = inner.making.by_hand is not None
    names = target.dims or ()
    dims = x.type.dims
    if len(names) != len(dims) and not (target.rest and len(names) <= len(dims)):
        wanted = ", ".join((["..."] if target.rest else []) + [n.id for n in names])
        message = f"`{target.name.id}` of `{what}` is [{wanted}], the argument has {plural(len(dims), 'dim')}: {x.type}"
        raise fail("E0213", message, span, notes=[("the pattern is here", target.span)])
    first = len(dims) - len(names)
    inner.rest.update(dict.fromkeys(d.name for d in dims[:first]))
    for name, dim in zip(names, dims[first:]):
        known = inner.dims.get(name.id)
        if pieces and known is not None and known.name == dim.name:
            continue
        if known is not None and known != dim:
            message = (
                f"`{name.id}` of `{what}` is {_show(known)} in one argument and {_show(dim)} in `{target.name.id}`"
            )
            raise fail("E0214", message, span, notes=[("the pattern is here", target.span)])
        inner.dims[name.id] = dim


def _show(dim: Dim) -> str:
    return f"`{dim.name}` of size {dim.size}"


def _argument_spans(expr: ast.Call, entry: Defined) -> dict[str, Span]:
    names = iter(p.target.name.id for p in entry.item.parameters)
    spans = {}
    for argument in expr.arguments:
        name = argument.name.id if argument.name else next(names, "")
        spans[name] = argument.value.span
    return spans


def _unknown(expr: ast.Call, scope: Scope) -> ParcError:
    name = expr.function.id
    if name in ("normal", "constant"):
        message = f"`{name}` is no function"
        return fail("E0103", message, expr.function.span, help="initialisers stand after `~` of a weight")
    kinds = scope.module.kinds(name)
    if kinds:
        return fail("E0114", f"`{name}` is a {kinds[0]}, not a function", expr.function.span)
    if name in scope.vars:
        message = f"`{name}` is {kind_of(scope.vars[name])}, not a function"
        return fail("E0114", message, expr.function.span)
    known = [*BUILTINS, *(n for k, n in scope.module.entries if k == "function")]
    found = suggest_std("function", name)
    help = f"`use {found[0]} ({name})`" if found and found[1] == name else did_you_mean(name, known)
    if scope.making.by_hand is not None and not (found and found[1] == name):
        near = [m for m in MESSAGES if name in m or m in name]
        help = f"did you mean `{near[0]}`?" if near else help
        help = f"{help + ' ' if help else ''}messages are {listed(MESSAGES, most=16)}"
    if help is None and found:
        help = f"did you mean `{found[1]}` of `{found[0]}`?"
    return fail("E0103", f"there is no function `{name}`", expr.function.span, help=help)
