"""Expressions: static values are computed, tensors become nodes."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.evaluate import limits, static
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.evaluate.values import (
    Bound,
    CallResults,
    DimList,
    Static,
    WeightVar,
    Words,
    is_static,
    kind_of,
    plain,
)
from compiler.graph import Dim, Value
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from dsl import ast
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span
from dsl.units import Quantity

Want = tuple[str, ...] | None
"""Actual names of the dims that the result is to have (what `@` sums depends on it); None: not known."""

_MAPS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
    "and": "and",
    "or": "or",
}


def evaluate(expr: ast.Expr, scope: Scope, want: Want = None, hint: str | None = None) -> Bound:
    """The expression's value. `hint` names the node that makes it, if one is made for this expression."""
    session = scope.session
    session.enter(expr.span)
    try:
        match expr:
            case ast.Name():
                return scope.lookup(expr)
            case ast.Binary():
                return _binary(expr, scope, want, hint)
            case ast.Call():
                from compiler.evaluate.calls import call

                return call(expr, scope, want, hint)
            case ast.Unary():
                return _unary(expr, scope, want, hint)
            case ast.Conditional():
                test = static.boolean(evaluate(expr.test, scope), "the test of `if`", expr.test.span)
                session.decided(expr.span, test)
                return evaluate(expr.then if test else expr.other, scope, want, hint)
            case ast.ListExpr():
                return _list(expr, scope)
            case ast.Attribute():
                message = "values have no attributes: only `check` speaks of a job's results"
                raise fail("E0210", message, expr.span)
            case ast.Arrow() | ast.Over() | ast.Range():
                raise fail("E0210", "this can only be the argument of a function", expr.span)
            case ast.Number() if session.sizes is not None:
                return session.sizes.number(expr)
            case _:
                return literal_value(expr)
    finally:
        session.nesting -= 1


def _list(expr: ast.ListExpr, scope: Scope) -> Static:
    """A flat list: lists of lists could be of a size exponential in that of their text."""
    if len(expr.items) > limits.MAX_LIST:
        raise fail("E0909", f"a list of more than {limits.MAX_LIST:,} values", expr.span)
    values = tuple(static_of(evaluate(i, scope), i.span) for i in expr.items)
    for value, item in zip(values, expr.items):
        if isinstance(value, tuple):
            raise fail("E0210", "a list holds no other lists", item.span)
    return values


def literal_value(expr: ast.Expr) -> Static:
    """A literal's value; ValueError for any other expression."""
    match expr:
        case ast.Number() | ast.String() | ast.Boolean():
            return expr.value
        case ast.Quantity():
            return Quantity.of(expr.value, expr.unit)
        case ast.Unary(op="-"):
            return static.negated(literal_value(expr.operand), expr.span)
        case ast.ListExpr():
            return tuple(map(literal_value, expr.items))
    raise ValueError(expr)


def static_value(expr: ast.Expr, module: Module) -> Static:
    """An expression outside of any model: literals, parameters and functions of numbers."""
    from compiler.evaluate.statics import static_scope

    return static_of(evaluate(expr, static_scope(module)), expr.span)


def static_of(value: Bound, span: Span) -> Static:
    """The value if it is static, a dim as its size."""
    value = plain(value)
    if isinstance(value, (bool, int, float, str, Quantity, tuple)):
        return value
    raise fail("E0210", f"expected a value that is known when the file is evaluated, got {kind_of(value)}", span)


def tensor(value: Bound, scope: Scope, span: Span, what: str = "this") -> Value:
    """The value if it is a tensor; weights are read."""
    if isinstance(value, WeightVar):
        return scope.read(value, span)
    if isinstance(value, Value):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        help = "`full(value, dims…)` makes a tensor of a number"
        raise fail("E0210", f"{what} must be a tensor, got {kind_of(value)}", span, help=help)
    raise fail("E0210", f"{what} must be a tensor, got {kind_of(value)}", span)


def elementwise(
    fn: str, operands: Sequence[Bound], spans: Sequence[Span], scope: Scope, span: Span, hint: str | None
) -> Bound:
    """An elementwise function of tensors and numbers, at least one of them a tensor."""
    slots: list[float | int | bool | None] = []
    inputs: list[Value] = []
    is_float = any(_dtype(o) for o in operands)
    for operand, place in zip(operands, spans, strict=True):
        _has_size(operand, scope, place)
        operand = plain(operand)
        if isinstance(operand, (bool, int, float)):
            real = is_float and not isinstance(operand, bool)
            slots.append(float(operand) if real else operand)
        else:
            if not isinstance(operand, (Value, WeightVar)):
                raise fail("E0210", f"`{fn}` is not defined for {kind_of(operand)}", place)
            inputs.append(tensor(operand, scope, place))
            slots.append(None)
    return scope.emit(Map(fn, tuple(slots)), *inputs, span=span, name=hint)


def _has_size(operand: Bound, scope: Scope, span: Span) -> None:
    """Refuse to reckon with a dim whose size is known at run time only."""
    if isinstance(operand, Dim) and operand.name in scope.making.counts:
        message = f"the size of `{operand.name}` is known at run time only"
        raise fail("E0220", message, span, help="reckon with the tensor that it was declared with")


def _dtype(operand: Bound) -> bool:
    """Whether the operand is a tensor of floats."""
    if isinstance(operand, WeightVar):
        return True
    return isinstance(operand, Value) and operand.type.is_float


def _unary(expr: ast.Unary, scope: Scope, want: Want, hint: str | None) -> Bound:
    value = evaluate(expr.operand, scope, want)
    fn = "neg" if expr.op == "-" else "not"
    if isinstance(value, (Value, WeightVar)):
        return elementwise(fn, [value], [expr.operand.span], scope, expr.span, hint)
    known = static_of(value, expr.operand.span)
    if fn == "neg":
        return static.negated(known, expr.span)
    return not static.boolean(known, "the operand of `not`", expr.operand.span)


def _binary(expr: ast.Binary, scope: Scope, want: Want, hint: str | None) -> Bound:
    if expr.op == "@":
        return _contract(expr, scope, want, hint)
    left = evaluate(expr.left, scope, want)
    if expr.op in ("and", "or") and isinstance(left, bool) and left == (expr.op == "or"):
        return left
    right = evaluate(expr.right, scope, want)
    if is_static(left) and is_static(right):
        _has_size(left, scope, expr.left.span)
        _has_size(right, scope, expr.right.span)
        return static.binary(expr.op, static_of(left, expr.span), static_of(right, expr.span), expr.span)
    for value, side in ((left, expr.left), (right, expr.right)):
        if isinstance(value, (CallResults, DimList, Words)):
            raise fail("E0210", f"`{expr.op}` is not defined for {kind_of(value)}", side.span)
    fn = _MAPS[expr.op]
    if fn == "mul" and left is right and isinstance(left, WeightVar):
        left = right = scope.read(left, expr.left.span)
    return elementwise(fn, [left, right], [expr.left.span, expr.right.span], scope, expr.span, hint)


def _contract(expr: ast.Binary, scope: Scope, want: Want, hint: str | None) -> Value:
    sides = []
    for side in (expr.left, expr.right):
        value = evaluate(side, scope)
        if is_static(value):
            raise fail("E0210", "`@` needs tensors on both sides", side.span, help="numbers multiply with `*`")
        sides.append(tensor(value, scope, side.span, "an operand of `@`"))
    a, c = sides
    shared = [n for n in a.type.names if c.type.has(n)]
    if not shared and want is None:
        message = f"`@` multiplies {a.type} and {c.type}, which share no dim"
        names = [n for n in a.type.names if (s := did_you_mean(n, c.type.names)) and s]
        help = f"rename one first: `rename(x, {names[0]} -> …)`" if names else "`*` multiplies without summing"
        raise fail("E0215", message, expr.span, help=help)
    summed = [n for n in shared if want is None or n not in want]
    kept = [n for n in dict.fromkeys((*a.type.names, *c.type.names)) if n not in summed]
    if want is not None:
        kept = [n for n in want if n in kept] + [n for n in kept if n not in want]
    return scope.emit(Contract(tuple(kept)), a, c, span=expr.span, name=hint)


__all__ = ["Want", "elementwise", "evaluate", "listed", "literal_value", "static_of", "static_value", "tensor"]
