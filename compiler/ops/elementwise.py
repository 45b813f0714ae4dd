"""Elementwise ops: maps that broadcast by dim name, casts, and changes of dims' order and presence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, pi, sqrt
from typing import ClassVar

from compiler.graph import DTYPES, FLOATS, Builder, Dim, Type, Value
from compiler.ops.base import Loop, Misuse, Op, OpError
from compiler.ops.common import (
    View,
    expect_distinct,
    expect_operands,
    expect_positive,
    listed,
    merged_sizes,
    pass_loops,
    transposed,
    unbroadcast,
)

Literal = float | int | bool | None

UNARY = ("neg", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos", "abs", "sign", "floor", "relu")
BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "floordiv", "mod")
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
LOGIC = ("and", "or", "not")
ARITY = dict.fromkeys(UNARY, 1) | dict.fromkeys((*BINARY, *COMPARE), 2) | {"and": 2, "or": 2, "not": 1, "where": 3}

_NO_CAST = "there is no implicit cast: `cast(x, compute)`"

INTEGERS = ("int32", "uint32")
_INTEGER_TOO = ("add", "sub", "mul", "neg", "abs", "sign", "maximum", "minimum", "relu", *COMPARE)
_INTEGER_ONLY = ("floordiv", "mod")
_NOT_FLOP = (*COMPARE, *LOGIC, "where")


@dataclass(frozen=True, slots=True)
class Map(Op):
    """`fn` elementwise. `slots`: None takes the next operand; a number or bool is a literal in that place.

    Operands broadcast by dim name. Dims of the result: those of the operand with most dims (the first such), then new
    ones as they come. Literals take the operands' dtype; float dtypes must agree, there is no implicit cast.
    """

    mnemonic: ClassVar[str] = "map"
    fn: str
    slots: tuple[Literal, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if self.fn not in ARITY:
            raise OpError("E0207", f"there is no elementwise function `{self.fn}`", f"there are {listed(ARITY)}")
        if len(self.slots) != ARITY[self.fn]:
            raise Misuse(f"{self.fn} takes {ARITY[self.fn]} operands, got {len(self.slots)}")
        expect_operands(self.fn, inputs, sum(s is None for s in self.slots))
        if not inputs:
            raise Misuse(f"{self.fn} needs at least one tensor among its operands")
        sizes = merged_sizes(self.fn, inputs)
        lead = max(inputs, key=lambda t: len(t.dims))
        names = dict.fromkeys((*lead.names, *(n for t in inputs for n in t.names)))
        return (Type(self._dtype(inputs), tuple(Dim(n, sizes[n]) for n in names)),)

    def _dtype(self, inputs: Sequence[Type]) -> str:
        fn, slots = self.fn, self.slots
        typed = list(inputs)
        if fn == "where":
            if slots[0] is not None or typed[0].dtype != "bool":
                got = "a literal" if slots[0] is not None else str(typed[0])
                raise OpError("E0202", f"where needs a bool tensor as its condition, got {got}")
            typed, slots = typed[1:], slots[1:]
            if not typed:
                raise OpError(
                    "E0202", "where of two literals has no dtype", "multiply the cast condition: `cast(c, f32) * 2.0`"
                )
        dtypes = list(dict.fromkeys(t.dtype for t in typed))
        if len(dtypes) > 1:
            raise OpError("E0202", f"{fn}: operands are {dtypes[0]} and {dtypes[1]}", _NO_CAST)
        self._check_dtype(dtypes[0], slots)
        return "bool" if fn in COMPARE or fn in LOGIC else dtypes[0]

    def _check_dtype(self, dtype: str, slots: Sequence[Literal]) -> None:
        fn = self.fn
        ok = (
            dtype == "bool"
            if fn in LOGIC
            else dtype in INTEGERS
            if fn in _INTEGER_ONLY
            else dtype in FLOATS
            or (dtype in INTEGERS and fn in (*_INTEGER_TOO, "where"))
            or (dtype == "bool" and fn in ("eq", "ne", "where"))
        )
        if not ok:
            want = "bool" if fn in LOGIC else "int32" if fn in _INTEGER_ONLY else "float"
            raise OpError("E0202", f"{fn} is not defined for {dtype}; it needs {want} operands", "cast first")
        for s in slots:
            if s is None:
                continue
            fits = isinstance(s, bool) if dtype == "bool" else not isinstance(s, bool)
            if not fits or (dtype in INTEGERS and s != int(s)):
                raise OpError("E0202", f"{fn}: the literal {s} does not fit an operand of dtype {dtype}")

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        fn, slots = self.fn, self.slots
        if fn == "neg":
            return (frozenset({0}),)
        if fn in ("add", "sub") and all(s is None or s == 0 for s in slots):
            return (frozenset(range(n_inputs)),)
        if fn == "mul":
            return tuple(frozenset({i}) for i in range(n_inputs))
        if fn == "div" and slots[0] is None:
            return (frozenset({0}),)
        if fn == "where" and slots[0] is None and all(s is None or s == 0 for s in slots[1:]):
            return (frozenset(range(1, n_inputs)),)
        return ()

    def vjp(
        self, b: Builder, inputs: Sequence[Value], outputs: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> list[Value | None]:
        g = cotangents[0]
        rule = _RULES.get(self.fn)
        if g is None or rule is None or not outputs[0].type.is_float:
            return [None] * len(inputs)
        operands = iter(inputs)
        slots = tuple(next(operands) if s is None else s for s in self.slots)
        grads = rule(_Maker(b), g, outputs[0], slots)
        return [grad for grad, slot in zip(grads, self.slots, strict=True) if slot is None]

    def differentiable(self, i: int) -> bool:
        return self.fn in _RULES

    def flops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return 0 if self.fn in _NOT_FLOP else outputs[0].elements

    def default_name(self, inputs: Sequence[Value]) -> str:
        return self.fn


Slot = Value | float | int | bool


class _Maker:
    """Writes maps as calls: `m("mul", x, 2.0)`."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def __call__(self, fn: str, *slots: Slot) -> Value:
        literals = tuple(None if isinstance(s, Value) else s for s in slots)
        return self.b.add(Map(fn, literals), *(s for s in slots if isinstance(s, Value)))

    def to(self, gradient: Value, x: Slot) -> Value | None:
        """The gradient summed to the dims of operand `x`; None where that is a literal."""
        return unbroadcast(self.b, gradient, x.type) if isinstance(x, Value) else None

    def product(self, g: Value, factor: Slot, x: Slot) -> Value | None:
        """`g * factor` summed to the dims of `x`: a contraction where dims go, so the product is never stored."""
        if not isinstance(x, Value):
            return None
        if isinstance(factor, Value):
            if any(not x.type.has(n) for n in (*g.type.names, *factor.type.names)):
                from compiler.ops.contract import Contract

                return self.b.add(Contract(x.type.names), g, factor)
            return self.to(self("mul", g, factor), x)
        # Sum first: the literal then multiplies the smaller tensor.
        return self("mul", unbroadcast(self.b, g, x.type), factor)


def _add(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    return [m.to(g, s[0]), m.to(g, s[1])]


def _sub(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    right = m.to(g, s[1])
    return [m.to(g, s[0]), None if right is None else m("neg", right)]


def _mul(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    if s[0] is s[1]:
        return [m("mul", m("mul", g, s[0]), 2.0), None]
    return [m.product(g, s[1], s[0]), m.product(g, s[0], s[1])]


def _div(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    a, d = s
    if not isinstance(d, Value):
        summed = m.to(g, a)
        return [None if summed is None else m("div", summed, d), None]
    # d(a/d)/dd = -(g/d) (a/d): shares g/d with the numerator's.
    quotient = m("div", g, d)
    right = m.product(quotient, y, d)
    return [m.to(quotient, a), None if right is None else m("neg", right)]


def _pow(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
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


def _extreme(first: str) -> Callable[[_Maker, Value, Value, Sequence[Slot]], list[Value | None]]:
    """maximum/minimum: the gradient goes to the larger (smaller), half to each where they are equal."""

    def rule(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
        shared = m("where", m("eq", s[0], s[1]), m("mul", g, 0.5), g)
        left = m("where", m(first, s[0], s[1]), shared, 0.0)
        right = m("sub", g, left) if isinstance(s[1], Value) else g
        return [m.to(left, s[0]), m.to(right, s[1])]

    return rule


def _where(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    c, a, d = s
    return [
        None,
        m.to(m("where", c, g, 0.0), a) if isinstance(a, Value) else None,
        m.to(m("where", c, 0.0, g), d) if isinstance(d, Value) else None,
    ]


def _sigmoid(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    t = m("mul", g, y)
    return [m("sub", t, m("mul", t, y))]


def _erf(m: _Maker, g: Value, y: Value, s: Sequence[Slot]) -> list[Value | None]:
    # 2/sqrt(pi) exp(-x^2), the factor taken into the exponent to save a pass.
    return [m("mul", g, m("exp", m("sub", log(2 / sqrt(pi)), m("mul", s[0], s[0]))))]


_RULES: dict[str, Callable[[_Maker, Value, Value, Sequence[Slot]], list[Value | None]]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "maximum": _extreme("ge"),
    "minimum": _extreme("le"),
    "where": _where,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "neg": lambda m, g, y, s: [m("neg", g)],
    "exp": lambda m, g, y, s: [m("mul", g, y)],
    "log": lambda m, g, y, s: [m("div", g, s[0])],
    "sqrt": lambda m, g, y, s: [m("div", m("mul", g, 0.5), y)],
    "rsqrt": lambda m, g, y, s: [m("mul", m("mul", g, m("mul", m("mul", y, y), y)), -0.5)],
    "tanh": lambda m, g, y, s: [m("sub", g, m("mul", m("mul", g, y), y))],
    "sin": lambda m, g, y, s: [m("mul", g, m("cos", s[0]))],
    "cos": lambda m, g, y, s: [m("neg", m("mul", g, m("sin", s[0])))],
    "abs": lambda m, g, y, s: [m("mul", g, m("sign", s[0]))],
    "relu": lambda m, g, y, s: [m("where", m("gt", y, 0.0), g, 0.0)],
}


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """To another dtype: floats round to nearest even, floats to integers truncate, to bool: not zero."""

    mnemonic: ClassVar[str] = "cast"
    dtype: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("cast", inputs, 1)
        if self.dtype not in DTYPES:
            raise OpError("E0207", f"there is no dtype `{self.dtype}`", f"there are {listed(DTYPES)}")
        return (inputs[0].with_dtype(self.dtype),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),) if self.dtype in FLOATS else ()

    def vjp(
        self, b: Builder, inputs: Sequence[Value], outputs: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> list[Value | None]:
        g, x = cotangents[0], inputs[0].type
        if g is None or not (x.is_float and outputs[0].type.is_float):
            return [None]
        return [g if x.dtype == self.dtype else b.add(Cast(x.dtype), g)]

    def flops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return 0

    def cheap(self) -> bool:
        # To the wide dtypes only: casting down again would mean to keep the wider operand.
        return self.dtype in ("f64", "f32")


@dataclass(frozen=True, slots=True)
class Broadcast(View):
    """The operand repeated along the dims that it lacks; the result has exactly `dims` in this order."""

    mnemonic: ClassVar[str] = "broadcast"
    dims: tuple[Dim, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("broadcast", inputs, 1)
        out = Type(inputs[0].dtype, self.dims)
        expect_distinct("broadcast", out.names)
        expect_positive("broadcast", self.dims)
        missing = [n for n in inputs[0].names if not out.has(n)]
        if missing:
            raise OpError("E0204", f"broadcast of {inputs[0]}: the result {out} lacks dim {listed(missing)}")
        merged_sizes("broadcast", (inputs[0], out))
        return (out,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def vjp(
        self, b: Builder, inputs: Sequence[Value], outputs: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> list[Value | None]:
        g = cotangents[0]
        return [None if g is None or not g.type.is_float else unbroadcast(b, g, inputs[0].type)]


@dataclass(frozen=True, slots=True)
class Transpose(View):
    """The same tensor with its dims in the order `dims`."""

    mnemonic: ClassVar[str] = "transpose"
    dims: tuple[str, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("transpose", inputs, 1)
        expect_distinct("transpose", self.dims)
        x = inputs[0]
        if set(self.dims) != set(x.names):
            raise OpError("E0204", f"transpose to {listed(self.dims)}: the operand {x} has dims {listed(x.names)}")
        return (Type(x.dtype, tuple(Dim(n, x.size(n)) for n in self.dims)),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def vjp(
        self, b: Builder, inputs: Sequence[Value], outputs: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> list[Value | None]:
        g = cotangents[0]
        return [None if g is None or not g.type.is_float else transposed(b, g, inputs[0].type.names)]


@dataclass(frozen=True, slots=True)
class StopGradient(View):
    """The operand itself; no derivative passes."""

    mnemonic: ClassVar[str] = "stop_gradient"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("stop_gradient", inputs, 1)
        return (inputs[0],)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, outputs[0].names)

    def differentiable(self, i: int) -> bool:
        return False
