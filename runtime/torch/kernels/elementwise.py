"""Maps, casts and views of dims. Operands broadcast by dim name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compiler.ops import functions
from compiler.ops.base import Op
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.move import Move
from compiler.ops.shape import Rename
from runtime.backend import Kernel, on_views
from runtime.torch.base import (
    NARROW,
    STORAGE,
    UINT32,
    Standpoint,
    Values,
    aligned,
    expanded,
    kernel,
    maker,
    number,
    over,
    wrapped,
)


def _sign(x: Tensor) -> Tensor:
    found = torch.sign(x)
    return torch.where(torch.isnan(x), x, found) if x.is_floating_point() else found  # torch's sign of NaN is 0


def _integers(divide: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Division of integers that gives 0 where the divisor is 0 (torch raises an error there)."""

    def divided(x: Any, y: Any) -> Tensor:
        if isinstance(y, Tensor):
            zero = y == 0
            return torch.where(zero, torch.zeros_like(y), divide(x, torch.where(zero, torch.ones_like(y), y)))
        return divide(x, y) if y else torch.zeros_like(x)

    return divided


def _where(condition: Tensor, x: Any, y: Any) -> Tensor:
    return torch.where(condition, x, y)


def _either(fn: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A function of tensors only that a number may be an operand of."""

    def both(x: Any, y: Any) -> Tensor:
        if not isinstance(x, Tensor):
            x = torch.full((), x, dtype=y.dtype, device=y.device)
        elif not isinstance(y, Tensor):
            y = torch.full((), y, dtype=x.dtype, device=x.device)
        return fn(x, y)

    return both


def _pow(x: Any, y: Any) -> Tensor:
    return torch.pow(x, y)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in functions.FUNCTIONS if hasattr(torch, name)},
    "pow": _pow, "sign": _sign, "where": _where,
    "maximum": _either(torch.maximum), "minimum": _either(torch.minimum),
    "floordiv": _integers(lambda x, y: torch.div(x, y, rounding_mode="floor")), "mod": _integers(torch.remainder),
    "and": _either(torch.logical_and), "or": _either(torch.logical_or), "not": torch.logical_not,
}  # fmt: skip
"""Each function of `Map` on tensors: torch's own where it has one of that name, and does what ours does."""

SWAPPED = {"add": "add", "mul": "mul", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
"""f(number, x) as g(x, number)."""


def map_function(op: Map, dtype: str) -> Callable[..., Tensor]:
    """A function of tensors only: literals stand in their places, as numbers of `dtype`."""
    f, slots = FUNCTIONS[op.fn], op.slots
    if all(s is None for s in slots):
        return f
    match [None if s is None else number(s, dtype) for s in slots]:
        case [None, c]:
            return lambda x: f(x, c)
        case [c, None] if op.fn == "sub" and dtype != "bool":
            return lambda x: torch.rsub(x, c)
        case [c, None] if op.fn in SWAPPED:
            g = FUNCTIONS[SWAPPED[op.fn]]
            return lambda x: g(x, c)
        case [c, None] if op.fn == "div":
            return lambda x: torch.div(torch.full((), c, dtype=x.dtype, device=x.device), x)
        case [c, None]:
            return lambda x: f(c, x) if op.fn != "floordiv" and op.fn != "mod" else f(torch.full_like(x, c), x)
        case [None, None, c]:
            return lambda x, y: torch.where(x, y, c)
        case [None, c, None]:
            return lambda x, y: torch.where(x, c, y)
    raise AssertionError(f"{op}")


@maker(Map)
@kernel(Map)
def plan_map(op: Map, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans an elementwise function of operands that are aligned by dim name."""
    dtype = ins[-1].type.dtype
    return wrapped(_map(op, ins, outs, dtype), outs[0].type.dtype)


def _map(op: Map, ins: Values, outs: Values, dtype: str) -> Kernel:
    f = map_function(op, dtype)
    names = outs[0].type.names
    views = [aligned(v, names) for v in ins]
    if outs[0].type.shape and all(v.type.shape != outs[0].type.shape for v in ins):
        views = [expanded(v, names) if v.type.dims else None for v in ins]  # none of them has all dims
    return on_views(f, views)


_PLACED = {
    "add", "sub", "mul", "div", "maximum", "minimum", "exp", "log", "neg", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos",
}  # fmt: skip
"""Functions that torch writes where it is told, with the same bits."""


@over(Map)
def plan_map_over(op: Map, ins: Values, outs: Values, operand: int) -> Kernel | None:
    """Plans an elementwise function in the place of an operand of the result's type: floats, no scalars."""
    type, slots, names = outs[0].type, op.slots, outs[0].type.names
    if op.fn not in _PLACED or not type.is_float or not type.dims or any(v.type.dtype != type.dtype for v in ins):
        return None
    if ins[operand].type != type:
        return None
    f = getattr(torch, op.fn)
    literals = [number(s, type.dtype) for s in slots if s is not None]
    if not literals and len(ins) == 1:
        return lambda ctx, x: f(x, out=x)
    if not literals:
        views = [aligned(v, names) for v in ins]
        return on_views(lambda x, y: f(x, y, out=x) if operand == 0 else f(x, y, out=y), views)
    if op.fn in ("add", "mul") or (op.fn in ("sub", "div") and slots[0] is None):
        (c,) = literals
        return lambda ctx, x: f(x, c, out=x)
    return None


@kernel(Cast)
def plan_cast(op: Cast, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a change of dtype: rounded to what the target can hold."""
    source, target = ins[0].type.dtype, op.dtype
    if source == "f64" and target in NARROW:  # by way of f32, as the emulator does
        return lambda ctx, x: x.to(torch.float32).to(STORAGE[target])
    if target == "uint32":
        return lambda ctx, x: x.to(torch.int64) & UINT32
    storage = STORAGE[target]
    return lambda ctx, x: x.to(storage)


@kernel(Broadcast)
def plan_broadcast(op: Broadcast, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a view that repeats the operand along the dims that it lacks."""
    view, shape = expanded(ins[0], outs[0].type.names), outs[0].type.shape
    return lambda ctx, x: view(x).expand(shape)


@kernel(Transpose)
def plan_transpose(op: Transpose, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a view with the dims in another order."""
    perm = tuple(ins[0].type.index(n) for n in op.dims)
    return lambda ctx, x: x.permute(perm)


@kernel(StopGradient, Rename, Move)
def plan_same(op: Op, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """For ops that change names or memories only: all memories of a device are its own here."""
    return lambda ctx, x, *over: x
