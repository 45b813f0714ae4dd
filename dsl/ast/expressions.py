"""Expressions, and the root of all nodes."""

from __future__ import annotations

from dataclasses import field

from dsl.data import dataclass
from dsl.source import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Syntax:
    """Root of all syntax nodes. `span` does not take part in equality, so trees compare by meaning."""

    span: Span = field(default=NOWHERE, compare=False, kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Expr(Syntax):
    """Any expression."""


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """`8`, `3e-4`. `text` keeps the way it was written (for the printer)."""

    value: int | float
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Quantity(Expr):
    """`30 GB/s`, `1 us`: a number and a unit (the unit's meaning is in `dsl.units`).

    `text` keeps the way the number was written (for the printer).
    """

    value: int | float
    unit: str
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class String(Expr):
    """`"data/corpus.txt"`."""

    value: str


@dataclass(frozen=True, slots=True)
class Boolean(Expr):
    """`true`, `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name(Expr):
    """An identifier: a parameter, a value, a dim (its size, where a number is expected), a function."""

    id: str


@dataclass(frozen=True, slots=True)
class Attribute(Expr):
    """`pretrain.memory.peak`."""

    base: Expr
    name: str


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """`-x`, `not x`."""

    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """`+ - * / // % ** @`, comparisons `< <= > >= == !=`, and `and`, `or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Conditional(Expr):
    """`a if test else b`; `test` is known when the file is evaluated."""

    then: Expr
    test: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class ListExpr(Expr):
    """`[1, 2, 3]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Arrow(Expr):
    """`s -> t`, `d -> (h, k)`, `(h, k) -> d`: dims before and after, as an argument."""

    before: tuple[Name, ...]
    after: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Over(Expr):
    """`over v`, `over (h, w)`: the dims that an operation works along, as an argument.

    `over s -> s2` also names the dims of the result (`after`, else empty). `over (b, s) per microbatch`: for each
    micro-batch by itself, of which the first dim holds the samples.
    """

    dims: tuple[Name, ...]
    after: tuple[Name, ...] = ()
    per_microbatch: bool = False


@dataclass(frozen=True, slots=True)
class Range(Expr):
    """`0..n`: from the first (included) to the last (not included)."""

    low: Expr
    high: Expr


@dataclass(frozen=True, slots=True)
class Argument(Syntax):
    """One argument of a call; `name` for `name = value`."""

    value: Expr
    name: Name | None = None


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """`f(a, over v, lr = 1e-3) as label`: `label` names the scope of what the call makes."""

    function: Name
    arguments: tuple[Argument, ...]
    label: Name | None = None
