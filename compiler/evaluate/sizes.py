"""Other sizes in a file's place: what `verify --small` evaluates again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from compiler.evaluate.session import is_std
from compiler.evaluate.values import Static
from dsl import ast
from dsl.data import dataclass
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class Stated:
    """A whole number that a file states (or `-D`): a parameter's, with its name, or a literal's."""

    span: Span
    value: int
    name: str = ""


@dataclass(slots=True)
class Sizes:
    """Whole numbers in place of those that are stated, by their places; a job is then evaluated without its cluster and
    its data, which fit the stated sizes only.

    stated: every number that was asked for, but for those of the standard library. decided: the outcome of every `if`,
    in order. bare: without the optimizer, which takes most of the time.
    """

    instead: Mapping[Span, int] = field(default_factory=dict)
    stated: dict[Span, Stated] = field(default_factory=dict)
    decided: list[tuple[Span, bool]] = field(default_factory=list)
    bare: bool = False

    def number(self, expr: ast.Number) -> int | float:
        """A literal's value."""
        value = expr.value
        if not isinstance(value, int) or is_std(expr.span):
            return value
        return self._of(Stated(expr.span, value))

    def param(self, param: ast.Param, value: Static) -> Static:
        """The value of a parameter that depends on no other."""
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        return self._of(Stated(param.name.span, value, param.name.id))

    def _of(self, found: Stated) -> int:
        self.stated.setdefault(found.span, found)
        return self.instead.get(found.span, found.value)


def constant(expr: ast.Expr) -> bool:
    """Whether an expression has the same value whatever the parameters are."""
    match expr:
        case ast.Number() | ast.Quantity() | ast.String() | ast.Boolean():
            return True
        case ast.Unary():
            return constant(expr.operand)
        case ast.Binary():
            return constant(expr.left) and constant(expr.right)
    return False
