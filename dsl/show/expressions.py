"""Expressions as documents for `dsl.layout`: parentheses stand only where precedence needs them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

from dsl import ast
from dsl.layout import Bracket, Doc

# The levels of the grammar's expression rules, loosest first.
_CONDITIONAL, _OR, _AND, _NOT, _COMPARISON, _SUM, _TERM, _FACTOR, _POWER, _POSTFIX = range(10)
_BINARY = {
    "or": (_OR, _OR, _AND),
    "and": (_AND, _AND, _NOT),
    "**": (_POWER, _POSTFIX, _FACTOR),
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), (_COMPARISON, _SUM, _SUM)),
    **dict.fromkeys(("+", "-"), (_SUM, _SUM, _TERM)),
    **dict.fromkeys(("*", "/", "//", "%", "@"), (_TERM, _TERM, _FACTOR)),
}
_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"})


def names(listed: Iterable[ast.Name]) -> str:
    return ", ".join(n.id for n in listed)


def _dims(dims: tuple[ast.Name, ...]) -> str:
    return dims[0].id if len(dims) == 1 else f"({names(dims)})"


def _number(value: float, text: str) -> str:
    if isinstance(value, int):
        return str(value)
    return (text or repr(value)).lower()


def expression(node: ast.Expr, least: int = _CONDITIONAL) -> Doc:
    """The expression, in parentheses if it binds looser than `least`."""
    level, doc = _spell(node)
    return doc if level >= least else [Bracket("(", (doc,), ")")]


@singledispatch
def _spell(node: ast.Expr) -> tuple[int, Doc]:
    """The level of the expression and its document."""
    raise TypeError(f"not an expression: {type(node).__name__}")


@_spell.register
def _(node: ast.Number) -> tuple[int, Doc]:
    return _POSTFIX, [_number(node.value, node.text)]


@_spell.register
def _(node: ast.Quantity) -> tuple[int, Doc]:
    return _POSTFIX, [f"{_number(node.value, node.text)} {node.unit}"]


@_spell.register
def _(node: ast.String) -> tuple[int, Doc]:
    return _POSTFIX, ['"' + node.value.translate(_ESCAPES) + '"']


@_spell.register
def _(node: ast.Boolean) -> tuple[int, Doc]:
    return _POSTFIX, ["true" if node.value else "false"]


@_spell.register
def _(node: ast.Name) -> tuple[int, Doc]:
    return _POSTFIX, [node.id]


@_spell.register
def _(node: ast.Attribute) -> tuple[int, Doc]:
    return _POSTFIX, [*expression(node.base, _POSTFIX), f".{node.name}"]


@_spell.register
def _(node: ast.Unary) -> tuple[int, Doc]:
    if node.op == "not":
        return _NOT, ["not ", *expression(node.operand, _NOT)]
    return _FACTOR, [node.op, *expression(node.operand, _FACTOR)]


@_spell.register
def _(node: ast.Binary) -> tuple[int, Doc]:
    level, left, right = _BINARY[node.op]
    return level, [*expression(node.left, left), f" {node.op} ", *expression(node.right, right)]


@_spell.register
def _(node: ast.Conditional) -> tuple[int, Doc]:
    then, test, other = expression(node.then, _OR), expression(node.test, _OR), expression(node.other)
    return _CONDITIONAL, [*then, " if ", *test, " else ", *other]


@_spell.register
def _(node: ast.ListExpr) -> tuple[int, Doc]:
    return _POSTFIX, [Bracket("[", tuple(expression(i) for i in node.items), "]")]


@_spell.register
def _(node: ast.Arrow) -> tuple[int, Doc]:
    return _CONDITIONAL, [f"{_dims(node.before)} -> {_dims(node.after)}"]


@_spell.register
def _(node: ast.Over) -> tuple[int, Doc]:
    after = f" -> {_dims(node.after)}" if node.after else ""
    return _CONDITIONAL, [f"over {_dims(node.dims)}{after}{' per microbatch' if node.per_microbatch else ''}"]


@_spell.register
def _(node: ast.Range) -> tuple[int, Doc]:
    return _CONDITIONAL, [*expression(node.low, _SUM), "..", *expression(node.high, _SUM)]


@_spell.register
def _(node: ast.Call) -> tuple[int, Doc]:
    label = f" as {node.label.id}" if node.label else ""
    return _POSTFIX, [node.function.id, Bracket("(", tuple(_argument(a) for a in node.arguments), ")"), label]


def _argument(node: ast.Argument) -> Doc:
    return [f"{node.name.id} = " if node.name else "", *expression(node.value)]


def use_call(node: ast.Call) -> Doc:
    """A call where a bare name means a call without arguments."""
    return expression(node) if node.arguments else [node.function.id]


def expressions(nodes: Iterable[ast.Expr]) -> Doc:
    doc: Doc = []
    for node in nodes:
        doc += [", " if doc else "", *expression(node)]
    return doc
