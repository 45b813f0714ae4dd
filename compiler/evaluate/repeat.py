"""`repeat`: the body becomes a graph of its own; what it assigns of the outer tensors is carried."""

from __future__ import annotations

from compiler.evaluate import limits, static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.frame import Frame
from compiler.evaluate.scope import Scope
from compiler.evaluate.statements import assigned, run
from compiler.evaluate.values import Bound, Broken, Skip, WeightVar, kind_of
from compiler.graph import Graph, Node, Type, Value
from compiler.ops.elementwise import Transpose
from compiler.ops.repeat import Repeat
from dsl import ast
from dsl.diagnostics import fail


def repeat(statement: ast.Repeat, scope: Scope) -> None:
    """Evaluate the body once and append the loop."""
    count = static.integer(evaluate(statement.count, scope), "the count of `repeat`", statement.count.span, 1)
    if count > limits.MAX_COUNT:
        raise fail("E0908", f"`repeat` of {count} iterations, the most is 10^9", statement.count.span)
    scope.session.spend_node(statement.span)
    span = statement.label.span
    label = scope.making.named("label", statement.label.id, span, scope.making.labels)
    path = scope.child_path(label, span)
    scope.making.loop_labels[label] = statement.label.span
    frame = Frame(scope.making.names, path, scope.frame, label, count)
    inner = Scope(scope.module, scope.making, frame, path, scope.what)
    inner.in_repeat = inner.in_loop = True
    inner.vars, inner.dims, inner.rest = dict(scope.vars), dict(scope.dims), dict(scope.rest)

    carried: dict[str, tuple[Value, Value]] = {}  # name -> value outside, parameter
    for name in dict.fromkeys(n for s in statement.body for n in assigned(s)):
        value = scope.vars.get(name)
        if isinstance(value, WeightVar):
            value = scope.read(value, statement.span)
        if isinstance(value, Value):
            param = frame.param(name, value.type, statement.span)
            carried[name] = (value, param)
            frame.carried[param] = name, value
            inner.vars[name] = param

    before = scope.session.failures
    run(statement.body, inner)
    if scope.session.failures > before:
        scope.poison(n for s in statement.body for n in assigned(s) if n in scope.vars)
        raise Skip
    _check_statics(statement, scope, inner)
    _append(statement, scope, inner, frame, carried)


def _check_statics(statement: ast.Repeat, scope: Scope, inner: Scope) -> None:
    """Static values cannot change from iteration to iteration: the body is evaluated once."""
    for s in statement.body:
        for name in assigned(s):
            old, new = scope.vars.get(name), inner.vars.get(name)
            if old is None or isinstance(old, Value | WeightVar | Broken) or new is old or isinstance(new, Broken):
                continue
            message = f"`{name}` is {kind_of(old)}: the iterations of a `repeat` cannot change it"
            help = "only tensors are carried from iteration to iteration"
            if (begun := _begun_as_tensor(name, old, new, scope)) is not None:
                help += f": before the loop, write `{begun}`"
            raise fail("E0309", message, s.span, help=help)


def _begun_as_tensor(name: str, old: Bound, new: Bound | None, scope: Scope) -> str | None:
    """The assignment before the loop that makes a tensor of the number or boolean `old`, of the type that an iteration
    gives; in masters' type where that is a number (a counter)."""
    if isinstance(old, bool):
        tensor = Type("bool") if isinstance(new, bool) else new.type if isinstance(new, Value) else None
        if tensor is None or tensor.dtype != "bool" or any(scope.find_dim(d.name) != d for d in tensor.dims):
            return None
        return f"{name} = {'ones' if old else 'zeros'}({', '.join([*tensor.names, 'dtype = bool'])})"
    if not isinstance(old, int | float):
        return None
    if static.is_number(new):
        return f"{name} = zeros(dtype = master)" if old == 0 else f"{name} = full({old}, dtype = master)"
    if not isinstance(new, Value):
        return None
    if any(scope.find_dim(d.name) != d for d in new.type.dims):
        return None
    precision = scope.making.precision
    words = {precision.master: "master", precision.compute: "compute"} if new.type.dims else {}
    words = words or {precision.compute: "compute", precision.master: "master"}  # scalars are sums: losses
    word = words.get(new.type.dtype, new.type.dtype)
    arguments = ", ".join([*new.type.names, *([] if word == "compute" else [f"dtype = {word}"])])
    return (
        f"{name} = zeros({arguments})"
        if old == 0
        else f"{name} = full({', '.join(filter(None, [str(old), arguments]))})"
    )


def _append(
    statement: ast.Repeat, scope: Scope, inner: Scope, frame: Frame, carried: dict[str, tuple[Value, Value]]
) -> None:
    used = {v for node in frame.builder.nodes for v in node.inputs}
    results = {name: inner.vars[name] for name in carried}
    used.update(v for name, v in results.items() if isinstance(v, Value) and v is not carried[name][1])
    params, initials, finals, names = [], [], [], []
    for name, (outside, param) in carried.items():
        result = results[name]
        if isinstance(result, WeightVar):
            result = inner.read(result, statement.span)
        if not isinstance(result, Value):
            message = f"`{name}` is a tensor before the `repeat` and {kind_of(result)} after an iteration"
            raise fail("E0301", message, statement.label.span)
        if result is param:
            if param in used:
                frame.imports[outside] = param  # nothing changes it: an invariant
            continue
        result = frame.local(result)
        if result.type != param.type:
            result = _matched(name, result, param, statement, inner)
        params.append(param)
        initials.append(outside)
        finals.append(result)
        names.append(name)
    if not finals:
        if any(isinstance(scope.vars.get(n), Broken) for s in statement.body for n in assigned(s)):
            raise Skip
        if not scope.making.training:  # it computes something in training only
            return
        message = f"nothing that `repeat` computes is used: `{statement.label.id}` assigns no variable from before it"
        raise fail("E0310", message, statement.label.span, help="assign what it carries before the loop: `x = …`")
    stacks = [(s, p) for s, p in frame.stacks if p in used or p in finals]
    imports = [(o, p) for o, p in frame.imports.items() if p in used or p in finals]
    body = Graph(
        frame.path,
        (*params, *(p for _, p in stacks), *(p for _, p in imports)),
        tuple(frame.builder.nodes),
        tuple(finals),
    )
    op = Repeat(frame.label, frame.count, body, len(finals), len(stacks))
    outer = scope.frame
    operands = [outer.local(v) for v in (*initials, *(s for s, _ in stacks), *(o for o, _ in imports))]
    types = op.infer(*(v.type for v in operands))
    outer.builder.scope = scope.path
    outputs = tuple(outer.builder.value(n, t, statement.span) for n, t in zip(names, types, strict=True))
    outer.builder.nodes.append(Node(op, tuple(operands), outputs, statement.span))
    outer.own.update(outputs)
    for name, value in zip(names, outputs):
        scope.assign(name, value)


def _matched(name: str, result: Value, param: Value, statement: ast.Repeat, inner: Scope) -> Value:
    """The carried value with its dims in the order in which it came."""
    if result.type.dtype == param.type.dtype and sorted(map(str, result.type.dims)) == sorted(
        map(str, param.type.dims)
    ):
        return inner.emit(Transpose(param.type.names), result, span=statement.span, name=name)
    message = f"`{name}` is {param.type} before an iteration of `{statement.label.id}` and {result.type} after it"
    help = "it must keep its dims and its dtype"
    if result.type.dims == param.type.dims:
        help = f"cast it where it is assigned last: `cast(…, {param.type.dtype})`"
    last = [s for s in statement.body if name in assigned(s)][-1]
    raise fail("E0301", message, last.span, help=help)
