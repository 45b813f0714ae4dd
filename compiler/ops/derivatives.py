"""The derivative of every op, in terms of other ops. Rules stand here rather than in the classes, since those of ops
refer to one another in circles.

    @derivative(Flip)
    def _flip(op, b, g, inputs, outputs):
        return [b.add(Flip(op.dim), g)]

A rule gives the cotangents of the operands (None: zero, or the operand is no float). `g` is the cotangent of the first
result, a float. Operands and results may be used as values; those used are saved for the backward pass. Elementwise
functions have theirs in `ops.functions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compiler.graph import Builder, Dim, Type, Value
from compiler.ops.base import ByOp, Op
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Cast, Map, Transpose
from compiler.ops.functions import Slot
from compiler.ops.index import Scatter, ScatterAdd, Take
from compiler.ops.move import Move
from compiler.ops.reduce import Cumsum, Reduce, TopK
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Shift, Slice, Split
from compiler.ops.window import Fold, Window
from compiler.ops.zigzag import ZigZag

Values = Sequence[Value]
Cotangents = list[Value | None]
Rule = Callable[[Any, Builder, Value, Values, Values], Cotangents]

RULES: ByOp[Rule] = ByOp()
"""The rule of each op that has a derivative; `@derivative(Op)` above it enters it."""

derivative = RULES.of


def vjp(op: Op, b: Builder, inputs: Values, outputs: Values, cotangents: Sequence[Value | None]) -> Cotangents:
    """Cotangents of the inputs, built with `b`; None where an operand has none."""
    g, rule = cotangents[0], RULES.get(type(op))
    if g is None or rule is None or not g.type.is_float:
        return [None] * len(inputs)
    return rule(op, b, g, inputs, outputs)


def transposed(b: Builder, value: Value, names: tuple[str, ...]) -> Value:
    """The value with its dims in the order `names`."""
    return value if value.type.names == names else b.add(Transpose(names), value)


def unbroadcast(b: Builder, gradient: Value, target: Type) -> Value:
    """Sum the gradient over the dims that `target` lacks; dims in the order of `target`."""
    extra = tuple(n for n in gradient.type.names if not target.has(n))
    if extra:
        gradient = b.add(Reduce("sum", extra), gradient)
    return transposed(b, gradient, target.names)


# --- elementwise ----------------------------------------------------------------------------------------------


class _Maker:
    """`ops.functions.Maker` on a builder."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def __call__(self, fn: str, *slots: Slot) -> Value:
        literals = tuple(None if isinstance(s, Value) else s for s in slots)
        return self.b.add(Map(fn, literals), *(s for s in slots if isinstance(s, Value)))

    def to(self, gradient: Value, x: Slot) -> Value | None:
        return unbroadcast(self.b, gradient, x.type) if isinstance(x, Value) else None

    def product(self, g: Value, factor: Slot, x: Slot) -> Value | None:
        if not isinstance(x, Value):
            return None
        if isinstance(factor, Value):
            if any(not x.type.has(n) for n in (*g.type.names, *factor.type.names)):
                return self.b.add(Contract(x.type.names), g, factor)
            return self.to(self("mul", g, factor), x)
        # Sum first: the literal then multiplies the smaller tensor.
        return self("mul", unbroadcast(self.b, g, x.type), factor)


@derivative(Map)
def _map(op: Map, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    rule = op.function.rule
    if rule is None or not outputs[0].type.is_float:
        return [None] * len(inputs)
    operands = iter(inputs)
    slots = tuple(next(operands) if s is None else s for s in op.slots)
    grads = rule(_Maker(b), g, outputs[0], slots)
    return [grad for grad, slot in zip(grads, op.slots, strict=True) if slot is None]


@derivative(Cast)
def _cast(op: Cast, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    x = inputs[0].type
    if not x.is_float:
        return [None]
    return [g if x.dtype == op.dtype else b.add(Cast(x.dtype), g)]


@derivative(Broadcast)
def _broadcast(op: Broadcast, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [unbroadcast(b, g, inputs[0].type)]


@derivative(Transpose)
def _transpose(op: Transpose, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [transposed(b, g, inputs[0].type.names)]


# --- products and sums -----------------------------------------------------------------------------------------


@derivative(Contract)
def _contract(op: Contract, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    left, right = inputs
    if left is right:
        return [b.add(Map("mul", (None, 2.0)), _factor(b, g, left, right)), None]
    return [_factor(b, g, left, right), _factor(b, g, right, left)]


def _factor(b: Builder, g: Value, of: Value, other: Value) -> Value:
    """g contracted with the other operand; dims of which both are ignorant were summed alone: repeat along them."""
    known = tuple(n for n in of.type.names if g.type.has(n) or other.type.has(n))
    grad = b.add(Contract(known), g, other)
    return grad if known == of.type.names else b.add(Broadcast(of.type.dims), grad)


@derivative(Reduce)
def _reduce(op: Reduce, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    x = inputs[0]
    if not op.dims:
        return [g]
    if op.fn == "sum":
        return [b.add(Broadcast(x.type.dims), g)]
    # Equal shares for all elements that attain the maximum: symmetric, so it does not depend on how dims are split.
    hit = b.add(Map("eq", (None, None)), x, outputs[0])
    count = b.add(Reduce("sum", op.dims), b.add(Cast(g.type.dtype), hit))
    share = b.add(Map("div", (None, None)), g, count)
    return [b.add(Map("where", (None, None, 0.0)), hit, share)]


@derivative(Cumsum)
def _cumsum(op: Cumsum, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(Cumsum(op.dim, not op.reverse), g)]


@derivative(TopK)
def _top_k(op: TopK, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    x, index = inputs[0].type, outputs[1]
    if op.into.name == op.dim:  # the scattered dim and the index's must differ in name
        pairs = ((op.dim, f"{op.dim}.top"),)
        g, index = b.add(Rename(pairs), g), b.add(Rename(pairs), index)
    return [b.add(ScatterAdd(Dim(op.dim, x.size(op.dim)), x.names), g, index)]


# --- memories --------------------------------------------------------------------------------------------------


@derivative(Move)
def _move(op: Move, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(Move(op.target, op.source), g)]


# --- shapes ----------------------------------------------------------------------------------------------------


@derivative(Rename)
def _rename(op: Rename, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(Rename(tuple((new, old) for old, new in op.pairs)), g)]


@derivative(Split)
def _split(op: Split, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(Merge(tuple(d.name for d in op.into), op.dim), g)]


@derivative(Merge)
def _merge(op: Merge, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    x = inputs[0].type
    parts = tuple(Dim(n, x.size(n)) for n in op.dims)
    return [transposed(b, b.add(Split(op.into, parts), g), x.names)]


@derivative(Slice)
def _slice(op: Slice, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    length = (g.type.size(op.into) - 1) * op.step + 1
    high = inputs[0].type.size(op.dim) - op.start - length
    if op.step > 1:  # zeros between the elements: windows of one element each, so far apart
        one = f"{op.into}.one"
        wide = b.add(Broadcast((*g.type.dims, Dim(one, 1))), g)
        g = b.add(Fold(op.into, one, Dim(op.into, length), op.step), wide)
    return [b.add(Pad(op.into, op.start, high, 0.0, op.dim), g)]


@derivative(Pad)
def _pad(op: Pad, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    stop = op.low + inputs[0].type.size(op.dim)
    return [b.add(Slice(op.into, op.low, stop, op.dim), g)]


@derivative(Concat)
def _concat(op: Concat, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    grads: Cotangents = []
    start = 0
    for x in inputs:
        stop = start + x.type.size(op.dim)
        grads.append(b.add(Slice(op.into, start, stop, op.dim), g))
        start = stop
    return grads


@derivative(Flip)
def _flip(op: Flip, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(Flip(op.dim), g)]


@derivative(ZigZag)
def _zigzag(op: ZigZag, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(ZigZag(op.dim, op.parts, not op.back), g)]


@derivative(Shift)
def _shift(op: Shift, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    return [b.add(Shift(op.dim, -op.by, 0.0, op.around), g)]


# --- rows and windows --------------------------------------------------------------------------------------------


@derivative(Take)
def _take(op: Take, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    table, index = inputs
    return [b.add(ScatterAdd(Dim(op.dim, table.type.size(op.dim)), table.type.names), g, index), None]


@derivative(ScatterAdd)
def _scatter_add(op: ScatterAdd, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    src, index = inputs
    return [transposed(b, b.add(Take(op.dim.name), g, index), src.type.names), None]


@derivative(Scatter)
def _scatter(op: Scatter, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    table, src, index = inputs
    zeros = b.add(Full(0.0, src.type.dtype, src.type.dims))
    others = b.add(Scatter(op.dim), g, zeros, index)
    # Of rows that are named twice the last alone has a derivative: each writes its number, and looks whose is there.
    number = b.add(Full(0, "int32", index.type.dims))
    for d in index.type.dims:
        number = b.add(Map("mul", (None, d.size)), number)
        number = b.add(Map("add", (None, None)), number, b.add(Iota(d)))
    known = tuple(d for d in table.type.dims if d.name == op.dim or index.type.has(d.name))
    last = b.add(Scatter(op.dim), b.add(Full(-1, "int32", known)), number, index)
    mine = b.add(Map("eq", (None, None)), b.add(Take(op.dim), last, index), number)
    taken = transposed(b, b.add(Take(op.dim), g, index), src.type.names)
    return [others, transposed(b, b.add(Map("where", (None, None, 0.0)), mine, taken), src.type.names), None]


@derivative(Window)
def _window(op: Window, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    dim = Dim(op.dim, inputs[0].type.size(op.dim))
    return [b.add(Fold(op.out.name, op.kernel.name, dim, op.stride, op.pad, op.dilation), g)]


@derivative(Fold)
def _fold(op: Fold, b: Builder, g: Value, inputs: Values, outputs: Values) -> Cotangents:
    x = inputs[0].type
    out, kernel = (Dim(n, x.size(n)) for n in (op.out, op.kernel))
    back = b.add(Window(op.dim.name, out, kernel, op.stride, op.pad, 0.0, op.dilation), g)
    return [transposed(b, back, x.names)]
