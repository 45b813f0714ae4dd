"""Statements of functions, models and optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.evaluate import dtypes, static
from compiler.evaluate.checks import require_here
from compiler.evaluate.expressions import evaluate, static_of, tensor
from compiler.evaluate.initial import initializer
from compiler.evaluate.ranges import Extent
from compiler.evaluate.run_time import cleared, declare_bounded, is_bounded
from compiler.evaluate.scope import Called, Scope, check_dim, check_size
from compiler.evaluate.session import listed
from compiler.evaluate.states import model_states
from compiler.evaluate.values import BROKEN, Bound, Broken, CallResults, Skip, WeightVar, is_static, kind_of
from compiler.evaluate.written import not_by_hand, own_weight, state_pieces
from compiler.graph import FLOATS, RANGES, Dim, Type, Value
from compiler.loop_pieces import whole_path
from compiler.model import DataInput, Init, State, Weight
from compiler.ops.elementwise import Cast, Transpose
from compiler.origin import Origin, Role
from dsl import ast
from dsl.diagnostics import ParcError, fail
from dsl.source import Span


def run(body: Sequence[ast.Statement], scope: Scope) -> CallResults | None:
    """Run statements up to a `return`; its values. Errors are reported, and the rest is looked at all the same; but
    behind a `check` that does not hold nothing is: what relies on it would be wrong for that reason alone."""
    for i, statement in enumerate(body):
        with scope.session.nested(statement.span):
            try:
                result = _run(statement, scope)
            except (ParcError, Skip) as error:
                scope.session.failed(error)
                scope.poison(assigned(statement))
                if isinstance(statement, ast.Check):
                    return None
                continue
        if result is not None:
            if i + 1 < len(body):
                scope.session.failed(fail("E0307", "nothing runs after `return`", body[i + 1].span))
            return result
    return None


def assigned(statement: ast.Statement) -> list[str]:
    """The names that a statement would have given values."""
    match statement:
        case ast.Assign() | ast.WeightDecl():
            return [t.name.id for t in statement.targets]
        case ast.InputDecl() | ast.StateDecl():
            return [n.id for n in statement.names]
        case ast.DimDecl():
            return [n.id for n, _ in statement.dims]
        case ast.Repeat() | ast.Scan():
            return [n for s in statement.body for n in assigned(s)]
        case ast.If():
            return [n for s in (*statement.then, *statement.other) for n in assigned(s)]
    return []


def _run(statement: ast.Statement, scope: Scope) -> CallResults | None:
    match statement:
        case ast.Assign():
            _assign(statement, scope)
        case ast.DimDecl():
            for name, size in statement.dims:
                declare_dim(name, size, scope)
        case ast.If():
            test = static.boolean(evaluate(statement.test, scope), "the test of `if`", statement.test.span)
            scope.session.decided(statement.span, test)
            return run(statement.then if test else statement.other, scope)
        case ast.Return():
            return _return(statement, scope)
        case ast.Repeat() | ast.Scan():
            from compiler.evaluate.repeat import repeat, scan

            if scope.what == "optimizer":
                raise _misplaced(statement, "a loop", scope)
            if isinstance(statement, ast.Repeat):
                repeat(statement, scope)
            else:
                scan(statement, scope)
        case ast.WeightDecl():
            if scope.making.by_hand is not None:
                for target in statement.targets:
                    scope.assign(target.name.id, own_weight(target, scope, scope.making.by_hand))
                return None
            if scope.making.kind != "model":
                raise _misplaced(statement, "a weight", scope)
            for target in statement.targets:
                _weight(target, statement, scope)
        case ast.InputDecl():
            if scope.what != "model" or scope.in_repeat:
                raise _misplaced(statement, "an input", scope)
            if scope.called is None:
                _input(statement, scope)
            else:
                _given(statement, scope, scope.called)
        case ast.StateDecl():
            if scope.what == "optimizer":
                _state(statement, scope)
            elif scope.making.kind == "model":
                model_states(statement, scope)
            else:
                raise _misplaced(statement, "a state", scope)
        case ast.Check():
            require_here(statement, scope)
        case ast.Loss() | ast.Metric():
            if scope.what != "model" or scope.in_repeat:
                raise _misplaced(statement, "a loss or metric", scope)
            if scope.called is None:  # what a model is trained for is no affair of those that call it
                _scalar(statement, scope)
        case ast.Output():
            if scope.what != "model" or scope.in_repeat:
                raise _misplaced(statement, "an output", scope)
            for name in statement.names:
                _output(name, scope)
        case _:
            raise AssertionError(statement)
    return None


def _misplaced(statement: ast.Statement, what: str, scope: Scope) -> ParcError:
    where = "a `repeat`" if scope.in_repeat and scope.what == "model" else f"{_article(scope.what)} {scope.what}"
    return fail("E0302", f"{what} cannot stand in {where}", statement.span)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


# --- dims and assignments -----------------------------------------------------------------------------------


def declare_dim(name: ast.Name, size: ast.Expr, scope: Scope) -> None:
    """`dim f = width`: the dim is called `f`, here and in strategies."""
    if is_bounded(size):
        return declare_bounded(name, size, scope)
    value = static.integer(evaluate(size, scope), f"the size of dim `{name.id}`", size.span)
    check_dim(value, name.id, size.span)
    known = scope.dims.get(name.id)
    if known is not None and known.size != value:
        message = f"dim `{name.id}` has size {known.size} already, now {value}"
        raise fail("E0203", message, name.span, help="dims of one name are of one size; choose another name")
    if name.id in scope.making.counts:
        raise fail(
            "E0220", f"the size of dim `{name.id}` is known at run time only", name.span, help="choose another name"
        )
    scope.making.dim_names.add(name.id)
    scope.dims[name.id] = Dim(name.id, value)
    if name.id in scope.vars and scope.vars[name.id] is BROKEN:
        del scope.vars[name.id]


def _check_once(names: Sequence[str], what: str, span: Span) -> None:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        help = "a dim that a function is given is not called as one that it makes: `rename(x, t -> s)` before the call"
        raise fail("E0205", f"{what} would have dim `{twice}` twice", span, help=help)


def _want(target: ast.Target, scope: Scope) -> tuple[str, ...] | None:
    """Actual names of the dims that the target states; with `...` those it stands for come first.

    The right-hand side may be what makes a dim known (`rename`), so unknown names are taken as they are.
    """
    if target.dims is None and not target.rest:
        return None
    names = tuple(scope.dim(n).name if scope.knows_dim(n) else n.id for n in target.dims or ())
    _check_once(names, f"`{target.name.id}`", target.span)
    return (*(n for n in scope.rest if n not in names), *names) if target.rest else names


def _assign(statement: ast.Assign, scope: Scope) -> None:
    targets = statement.targets
    single = targets[0] if len(targets) == 1 else None
    want = _want(single, scope) if single else None
    value = evaluate(statement.value, scope, want, targets[0].name.id)
    values: tuple[Bound, ...] = value.values if isinstance(value, CallResults) else (value,)
    if len(values) != len(targets):
        message = f"{len(targets)} names for {len(values)} result{'s' * (len(values) != 1)}"
        raise fail("E0216", message, statement.span)
    for target, one in zip(targets, values):
        scope.assign(target.name.id, _checked(target, one, scope, statement.value.span))


def _checked(target: ast.Target, value: Bound, scope: Scope, span: Span) -> Bound:
    """The value with its dims in the stated order; an error if they are others."""
    if target.dims is None and not target.rest:
        return value
    if target.axes:
        x = _checked(replace(target, axes=()), value, scope, span)
        return state_pieces(target, tensor(x, scope, span), scope, target.span)
    if is_static(value):
        shown = ", ".join(n.id for n in target.dims or ())
        help = f"`full(value, {shown})` is a tensor of a number" if shown else None
        raise fail("E0208", f"`{target.name.id}` is to be a tensor, got {kind_of(value)}", span, help=help)
    x = tensor(value, scope, span)
    want = tuple(d.name for d in scope.dim_list(target.dims or (), {target.name.id: x}))
    if target.rest:
        want = (*(n for n in x.type.names if n not in want), *want)
    extra = [n for n in x.type.names if n not in want]
    missing = [n for n in want if not x.type.has(n)]
    if extra or missing:
        raise _wrong_dims(target, x, extra, missing, span)
    if x.type.names == want:
        return x
    return scope.emit(Transpose(want), x, span=span, name=target.name.id)


def _wrong_dims(target: ast.Target, x: Value, extra: list[str], missing: list[str], span: Span) -> ParcError:
    parts = [f"{listed(extra)} too much"] if extra else []
    parts += [f"{listed(missing)} missing"] if missing else []
    help = None
    if extra and missing and len(extra) == len(missing):
        help = f"`rename(…, {extra[0]} -> {missing[0]})`, if they are the same positions"
    elif extra:
        over = extra[0] if len(extra) == 1 else f"({', '.join(extra)})"
        help = f"`sum(…, over {over})` sums it; `@` sums a dim that both operands have"
    elif missing:
        help = "a dim comes into a tensor by an operand that has it"
    message = f"`{target.name.id}` should have the dims stated, but the result is {x.type}: {', '.join(parts)}"
    return fail("E0208", message, target.span, notes=[("this is the result", span)], help=help)


def _return(statement: ast.Return, scope: Scope) -> CallResults:
    if scope.what != "function" or scope.in_loop:
        raise fail("E0302", "`return` stands in functions, outside of `repeat`", statement.span)
    values = []
    for expr in statement.values:
        value = evaluate(expr, scope, None, "out")
        if isinstance(value, CallResults):
            if len(statement.values) > 1:
                raise fail("E0216", f"this gives {len(value.values)} results, one is expected", expr.span)
            return value
        values.append(value)
    return CallResults(tuple(values))


# --- what a model consists of --------------------------------------------------------------------------------


def _weight(target: ast.Target, statement: ast.WeightDecl, scope: Scope) -> None:
    if target.axes:
        raise not_by_hand(target.span, f"the weight `{target.name.id}` in pieces")
    if target.dims is None or target.rest:
        help = f"`weight {target.name.id}[…]`, with its dims, or `{target.name.id}[]` for a single number"
        raise fail("E0208", f"the weight `{target.name.id}` needs dims", target.span, help=help)
    making, name = scope.making, target.name.id
    init = initializer(statement.init, scope)
    own = scope.dim_list(target.dims)
    frames = [f for f in scope.frame.loops if not f.scan]  # positions that are scanned share it
    loops = tuple(f.loop for f in frames)
    path = making.named("weight", f"{scope.path}.{name}" if scope.path else name, target.span, making.names)
    frozen = making.frozen is not None and making.frozen.hold(whole_path(path, making.pieces))
    # What no update renews needs no more than is computed with.
    type = Type(making.precision.compute if frozen else making.precision.master, (*loops, *own))
    _check_once(type.names, f"the weight `{name}`", target.span)
    check_size(type, f"the weight `{name}`", target.span)
    scope.session.spend_node(target.span)
    declared = Value(path, type, target.span, Origin(path))
    scope.frame.outermost.own.add(declared)
    part = declared
    for frame in frames:
        frame.builder.scope = ""
        part = frame.slice_of(part, f"{declared.name.removeprefix(frame.path + '.')}.slice")
    variable = WeightVar(declared, part)
    making.weights.append((variable, Weight(declared, init, tuple(d.name for d in loops), not frozen)))
    scope.assign(name, variable)


def _declared(statement: ast.InputDecl, scope: Scope) -> Type:
    known = scope.making.dtypes()
    if statement.dtype.id not in known:
        help = dtypes.meant(statement.dtype.id, known)
        raise fail("E0207", f"there is no dtype `{statement.dtype.id}`", statement.dtype.span, help=help)
    type = Type(known[statement.dtype.id], scope.dim_list(statement.dims))
    if len(set(type.names)) != len(type.names):
        raise fail("E0205", "a dim twice", statement.span)
    return type


def _input(statement: ast.InputDecl, scope: Scope) -> None:
    type = _declared(statement, scope)
    low = high = None
    if statement.range is not None:
        if type.dtype in FLOATS or type.dtype == "bool":
            raise fail("E0202", f"a range bounds integers, the input is {type.dtype}", statement.range.span)
        bounds = (statement.range.low, statement.range.high)
        low, high = (static.integer(evaluate(e, scope), "a bound", e.span) for e in bounds)
        least, most = RANGES[type.dtype]
        for bound, end, at in ((low, low, bounds[0]), (high, high - 1, bounds[1])):
            if not least <= end <= most:
                message = f"{bound} as a bound of {type.dtype}, which reaches from {least} to {most}"
                raise fail("E0206", message, at.span, help=f"ranges of {type.dtype} lie within {least}..{most + 1}")
        if low >= high:
            raise fail("E0206", f"the range {low}..{high} is empty", statement.range.span)
    for name in statement.names:
        if name.id in scope.vars and isinstance(scope.vars[name.id], Value):
            raise fail("E0102", f"there are two inputs `{name.id}`", name.span)
        check_size(type, f"the input `{name.id}`", name.span)
        value = scope.frame.param(name.id, type, name.span)
        scope.making.inputs.append(DataInput(value, low, high))
        if low is not None and high is not None:
            scope.making.extents[value] = Extent(low, high - 1, sources=frozenset({value.origin}), at=name.span)
        scope.assign(name.id, cleared(value, scope, name.span))


def _given(statement: ast.InputDecl, scope: Scope, called: Called) -> None:
    """Inputs of a model that another calls: their declaration says what they must be."""
    type = _declared(statement, scope)
    for name in statement.names:
        if name.id not in called.given:
            continue  # whoever reads it will say so
        value, span = called.given[name.id]
        called.read.add(name.id)
        notes = [("it is declared here", statement.span)]
        message = f"`{name.id}` is {type}, given is {value.type}"
        if value.type.dtype != type.dtype:
            raise fail("E0202", message, span, notes=notes, help=f"`cast(…, {statement.dtype.id})`")
        extra, missing = ([n for n in a.names if not b.has(n)] for a, b in ((value.type, type), (type, value.type)))
        if set(value.type.dims) != set(type.dims):
            renames = len(extra) == len(missing) > 0
            help = f"`rename(…, {extra[0]} -> {missing[0]})`, if they are the same" if renames else None
            raise fail("E0213", message, span, notes=notes, help=help)
        if value.type != type:
            value = scope.emit(Transpose(type.names), value, span=span, name=name.id)
        scope.assign(name.id, value)


def _state(statement: ast.StateDecl, scope: Scope) -> None:
    init = initializer(statement.init, scope) if statement.init else Init("zeros")
    if statement.dtype is not None or not all(t.dims is None or _by_row(t) for t in statement.targets):
        help = "`state m ~ zeros`; `state s[rows] ~ zeros` has one number for each row"
        raise fail("E0312", "an optimizer's state has the shape of the weight", statement.span, help=help)
    w = scope.vars["w"]
    if isinstance(w, Broken):
        raise Skip
    if not isinstance(w, Value):
        raise fail("E0312", "`w` must stay a tensor of the weight's shape", statement.span)
    owner, making = scope.making.owner, scope.making
    for target in statement.targets:
        name = target.name
        if name.id in scope.vars:
            raise fail("E0102", f"there are two `{name.id}`", name.span)
        path = scope.making.names.fresh(f"{owner}.{name.id}")
        dims = [d for d in w.type.dims if target.dims is None or d.name == making.rows or d.name in making.loop_labels]
        value = Value(path, Type(w.type.dtype, tuple(dims)), name.span, Origin(path))
        scope.frame.own.add(value)
        scope.making.states[name.id] = State(value, init, Role.OPTIMIZER, owner)
        scope.assign(name.id, value)


def _by_row(target: ast.Target) -> bool:
    """Whether it is one number for each row of the weight."""
    return not target.rest and [n.id for n in target.dims or ()] == ["rows"]


def _scalar(statement: ast.Loss | ast.Metric, scope: Scope) -> None:
    making = scope.making
    loss = isinstance(statement, ast.Loss)
    name = "loss" if isinstance(statement, ast.Loss) else statement.name.id
    if loss and making.loss is not None:
        notes = [("the first is here", making.loss[1])]
        raise fail("E0304", "a model has one loss", statement.span, notes=notes, help="add the parts: `loss a + b`")
    if any(n == name for n, _ in (*making.metrics, *making.outputs)) or (not loss and name == "loss"):
        raise fail("E0102", f"there are two metrics `{name}`", statement.span)
    x = tensor(evaluate(statement.value, scope, (), name), scope, statement.value.span, f"the {name}")
    if x.type.dims:
        over = x.type.names[0] if len(x.type.names) == 1 else f"({', '.join(x.type.names)})"
        help = f"`mean(…, over {over})` makes a scalar of it"
        raise fail("E0305", f"`{name}` must be a scalar, got {x.type}", statement.value.span, help=help)
    if not x.type.is_float and loss:
        raise fail("E0305", f"the loss must be a float, got {x.type}", statement.value.span)
    if x.type.dtype != making.precision.master:
        x = scope.emit(Cast(making.precision.master), x, span=statement.span, name=name)
    if loss:
        making.loss = (x, statement.span)
    else:
        making.metrics.append((name, x))


def _output(name: ast.Name, scope: Scope) -> None:
    making, called = scope.making, scope.called
    outputs, others = (making.outputs, making.metrics) if called is None else (called.outputs, [])
    if any(n == name.id for n, _ in (*outputs, *others)):
        raise fail("E0102", f"there are two results `{name.id}`", name.span)
    x = tensor(scope.lookup(name), scope, name.span, "an output")
    outputs.append((name.id, cleared(x, scope, name.span) if called is None else x))


__all__ = ["declare_dim", "run", "static_of"]
