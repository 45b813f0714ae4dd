"""Makes the expressions of the syntax tree: one method per rule of `grammar.lark`."""

from __future__ import annotations

from typing import cast

from dsl import ast
from dsl.builder.shared import Children, NameList, RuleBase, every
from dsl.lexer import Token, split_quantity, unquote


class Expressions(RuleBase):
    """Methods of expressions and of what stands in them."""

    def range(self, c: Children) -> ast.Range:
        low, high = cast(ast.Expr, c[0]), cast(ast.Expr, c[2])
        return self._deeper(ast.Range(low, high, span=self._span(c)), (low, high))

    def conditional(self, c: Children) -> ast.Conditional:
        then, test, other = cast(ast.Expr, c[0]), cast(ast.Expr, c[2]), cast(ast.Expr, c[4])
        return self._deeper(ast.Conditional(then, test, other, span=self._span(c)), (then, test, other))

    def binary(self, c: Children) -> ast.Binary:
        left, op, right = cast(ast.Expr, c[0]), cast(Token, c[1]).text, cast(ast.Expr, c[2])
        return self._deeper(ast.Binary(op, left, right, span=self._span(c)), (left, right))

    def unary(self, c: Children) -> ast.Unary:
        operand = cast(ast.Expr, c[1])
        return self._deeper(ast.Unary(cast(Token, c[0]).text, operand, span=self._span(c)), (operand,))

    def attribute(self, c: Children) -> ast.Attribute:
        base = cast(ast.Expr, c[0])
        return self._deeper(ast.Attribute(base, cast(Token, c[2]).text, span=self._span(c)), (base,))

    def name(self, c: Children) -> ast.Name:
        return self._name(c[0])

    def number(self, c: Children) -> ast.Number:
        text = cast(Token, c[0]).text
        return ast.Number(int(text) if text.isdigit() else float(text), text, span=self._span(c))

    def quantity(self, c: Children) -> ast.Quantity:
        text, unit = split_quantity(cast(Token, c[0]).text)
        value = int(text) if text.isdigit() else float(text)
        return ast.Quantity(value, unit, text, span=self._span(c))

    def string(self, c: Children) -> ast.String:
        return ast.String(unquote(cast(Token, c[0]).text), span=self._span(c))

    def true(self, c: Children) -> ast.Boolean:
        return ast.Boolean(True, span=self._span(c))

    def false(self, c: Children) -> ast.Boolean:
        return ast.Boolean(False, span=self._span(c))

    def list(self, c: Children) -> ast.ListExpr:
        items = every(ast.Expr, c)
        return self._deeper(ast.ListExpr(items, span=self._span(c)), items)

    def group(self, c: Children) -> ast.Syntax:
        return cast(ast.Syntax, c[1])

    def call(self, c: Children) -> ast.Call:
        arguments = every(ast.Argument, c)
        made = ast.Call(self._name(c[0]), arguments, span=self._span(c))
        return self._deeper(made, tuple(a.value for a in arguments))

    def labelled(self, c: Children) -> ast.Call:
        call = cast(ast.Call, c[0])
        made = ast.Call(call.function, call.arguments, self._name(c[2]), span=self._span(c))
        return self._deeper(made, tuple(a.value for a in call.arguments))

    def argument(self, c: Children) -> ast.Argument:
        return ast.Argument(cast(ast.Expr, c[0]), span=self._span(c))

    def keyword_argument(self, c: Children) -> ast.Argument:
        return ast.Argument(cast(ast.Expr, c[2]), self._name(c[0]), span=self._span(c))

    def over(self, c: Children) -> ast.Over:
        dims, *after = (n.names for n in every(NameList, c))
        return ast.Over(dims, after[0] if after else (), span=self._span(c))

    def over_each(self, c: Children) -> ast.Over:
        return ast.Over(every(NameList, c)[0].names, per_microbatch=True, span=self._span(c))

    def arrow(self, c: Children) -> ast.Arrow:
        return ast.Arrow(self._dims(c[0]), cast(NameList, c[2]).names, span=self._span(c))

    def dims(self, c: Children) -> NameList:
        return c[0] if isinstance(c[0], NameList) else NameList((self._name(c[0]),), span=self._span(c))

    def tuple_(self, c: Children) -> NameList:
        return NameList(self._ids(c), span=self._span(c))
