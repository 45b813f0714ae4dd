"""The elementwise functions: everything about one is its row here, and its kernel (`runtime.numpy.elementwise`).

    Function("log1p", 1, math.log1p, lambda m, g, y, s: [m("div", g, m("add", s[0], 1.0))])

A derivative is written with `m(name, *operands)`, which adds an elementwise node, and `m.to`/`m.product`, which also
sum to the dims of an operand; it is given the cotangent `g`, the result `y` and the operands `s` (values or literals).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import log, pi, sqrt
from typing import Protocol

from compiler.graph import FLOATS, RANGES, Value
from dsl.data import dataclass

Literal = float | int | bool | None
Slot = Value | float | int | bool
Number = int | float

INTEGERS = tuple(RANGES)
_NUMBERS = (*FLOATS, *INTEGERS)
_ANY = (*_NUMBERS, "bool")


class Maker(Protocol):
    """Writes maps as calls: `m("mul", x, 2.0)`."""

    def __call__(self, fn: str, *slots: Slot) -> Value:
        """A node of that function."""
        ...

    def to(self, gradient: Value, x: Slot) -> Value | None:
        """The gradient summed to the dims of operand `x`; None where that is a literal."""
        ...

    def product(self, g: Value, factor: Slot, x: Slot) -> Value | None:
        """`g * factor` summed to the dims of `x`: a contraction where dims go, so the product is never stored."""
        ...


Rule = Callable[[Maker, Value, Value, Sequence[Slot]], list[Value | None]]


@dataclass(frozen=True, slots=True)
class ElementwiseFunction:
    """One elementwise function.

    operands: how many; value: of static numbers (None: the evaluator's operators do that); rule: its derivative (None:
    it has none); takes: dtypes of operands; test: it gives bools; exact: its results are never rounded; positive: it is
    defined for positive numbers only; builtin: a function of the language (not an operator).
    """

    name: str
    operands: int
    value: Callable[..., Number] | None = None
    rule: Rule | None = None
    takes: tuple[str, ...] = FLOATS
    test: bool = False
    exact: bool = False
    positive: bool = False
    builtin: bool = True


def _add(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    return [m.to(g, s[0]), m.to(g, s[1])]


def _sub(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    right = m.to(g, s[1])
    return [m.to(g, s[0]), None if right is None else m("neg", right)]


def _mul(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    if s[0] is s[1]:
        return [m("mul", m("mul", g, s[0]), 2.0), None]
    return [m.product(g, s[1], s[0]), m.product(g, s[0], s[1])]


def _div(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    a, d = s
    if not isinstance(d, Value):
        summed = m.to(g, a)
        return [None if summed is None else m("div", summed, d), None]
    # d(a/d)/dd = -(g/d) (a/d): shares g/d with the numerator's.
    quotient = m("div", g, d)
    right = m.product(quotient, y, d)
    return [m.to(quotient, a), None if right is None else m("neg", right)]


def _pow(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    x, p = s
    dx: Value | None = None
    dp: Value | None = None
    if isinstance(x, Value):
        if isinstance(p, Value):
            dx = m.product(g, m("mul", m("pow", x, m("sub", p, 1.0)), p), x)
        else:
            lower: Value = x if p == 2 else m("pow", x, p - 1)
            dx = m("mul", m("mul", g, lower), float(p))
    if isinstance(p, Value):
        if isinstance(x, Value):
            # 0^p and negative bases have no derivative in p; `where` keeps log's nan out.
            slope = m("mul", y, m("log", x))
            dp = m.product(g, m("where", m("gt", x, 0.0), slope, 0.0), p)
        else:
            dp = m("mul", m("mul", g, y), log(x) if x > 0 else 0.0)
    return [dx, dp]


def _extreme(first: str) -> Rule:
    """maximum/minimum: the gradient goes to the larger (smaller), half to each where they are equal."""

    def rule(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
        shared = m("where", m("eq", s[0], s[1]), m("mul", g, 0.5), g)
        left = m("where", m(first, s[0], s[1]), shared, 0.0)
        right = m("sub", g, left) if isinstance(s[1], Value) else g
        return [m.to(left, s[0]), m.to(right, s[1])]

    return rule


def _where(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    c, a, d = s
    return [
        None,
        m.to(m("where", c, g, 0.0), a) if isinstance(a, Value) else None,
        m.to(m("where", c, 0.0, g), d) if isinstance(d, Value) else None,
    ]


def _sigmoid(m: Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    t = m("mul", g, y)
    return [m("sub", t, m("mul", t, y))]


def _bell(m: Maker, x: Slot) -> Value:
    """2/sqrt(pi) exp(-x^2), the slope of erf; the factor is taken into the exponent to save a pass."""
    return m("exp", m("sub", log(2 / sqrt(pi)), m("mul", x, x)))


def _static_sigmoid(x: Number) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


_LIST = (
    ElementwiseFunction("neg", 1, None, lambda m, g, y, s: [m("neg", g)], _NUMBERS, exact=True, builtin=False),
    ElementwiseFunction("exp", 1, math.exp, lambda m, g, y, s: [m("mul", g, y)]),
    ElementwiseFunction("log", 1, math.log, lambda m, g, y, s: [m("div", g, s[0])], positive=True),
    ElementwiseFunction("sqrt", 1, math.sqrt, lambda m, g, y, s: [m("div", m("mul", g, 0.5), y)], positive=True),
    ElementwiseFunction(
        "rsqrt",
        1,
        lambda x: 1.0 / math.sqrt(x),
        lambda m, g, y, s: [m("mul", m("mul", g, m("mul", m("mul", y, y), y)), -0.5)],
        positive=True,
    ),
    ElementwiseFunction("tanh", 1, math.tanh, lambda m, g, y, s: [m("sub", g, m("mul", m("mul", g, y), y))]),
    ElementwiseFunction("sigmoid", 1, _static_sigmoid, _sigmoid),
    ElementwiseFunction("erf", 1, math.erf, lambda m, g, y, s: [m("mul", g, _bell(m, s[0]))]),
    ElementwiseFunction("log1p", 1, math.log1p, lambda m, g, y, s: [m("div", g, m("add", s[0], 1.0))], positive=True),
    ElementwiseFunction("erfc", 1, math.erfc, lambda m, g, y, s: [m("neg", m("mul", g, _bell(m, s[0])))]),
    ElementwiseFunction("sin", 1, math.sin, lambda m, g, y, s: [m("mul", g, m("cos", s[0]))]),
    ElementwiseFunction("cos", 1, math.cos, lambda m, g, y, s: [m("neg", m("mul", g, m("sin", s[0])))]),
    ElementwiseFunction("abs", 1, abs, lambda m, g, y, s: [m("mul", g, m("sign", s[0]))], _NUMBERS, exact=True),
    ElementwiseFunction("sign", 1, lambda x: (x > 0) - (x < 0), None, _NUMBERS, exact=True),
    ElementwiseFunction("floor", 1, math.floor, None, exact=True),
    ElementwiseFunction("round", 1, round, None, exact=True),  # halves to even
    ElementwiseFunction(
        "relu",
        1,
        lambda x: max(x, 0),
        lambda m, g, y, s: [m("where", m("gt", y, 0.0), g, 0.0)],
        _NUMBERS,
        exact=True,
    ),
    ElementwiseFunction("add", 2, None, _add, _NUMBERS, builtin=False),
    ElementwiseFunction("sub", 2, None, _sub, _NUMBERS, builtin=False),
    ElementwiseFunction("mul", 2, None, _mul, _NUMBERS, builtin=False),
    ElementwiseFunction("div", 2, None, _div, positive=True, builtin=False),
    ElementwiseFunction("pow", 2, None, _pow, positive=True),
    ElementwiseFunction("maximum", 2, max, _extreme("ge"), _NUMBERS, exact=True),
    ElementwiseFunction("minimum", 2, min, _extreme("le"), _NUMBERS, exact=True),
    ElementwiseFunction("floordiv", 2, None, None, INTEGERS, exact=True, builtin=False),
    ElementwiseFunction("mod", 2, None, None, INTEGERS, exact=True, builtin=False),
    *(ElementwiseFunction(fn, 2, None, None, _NUMBERS, True, True, builtin=False) for fn in ("lt", "le", "gt", "ge")),
    *(ElementwiseFunction(fn, 2, None, None, _ANY, True, True, builtin=False) for fn in ("eq", "ne")),
    *(ElementwiseFunction(fn, 2, None, None, ("bool",), True, True, builtin=False) for fn in ("and", "or")),
    ElementwiseFunction("not", 1, None, None, ("bool",), True, True, builtin=False),
    ElementwiseFunction("where", 3, None, _where, _ANY, exact=True, builtin=False),
)

FUNCTIONS: dict[str, ElementwiseFunction] = {f.name: f for f in _LIST}
"""Each elementwise function by its name."""
