"""Maps, casts and views of dims. Operands broadcast by dim name; lead axes broadcast by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erf as exact_erf
from math import erfc as exact_erfc
from math import exp, pi, prod, sqrt
from typing import Any

import numpy as np

from compiler.ops.base import Op
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.shape import Rename
from runtime.backend import on_views
from runtime.numpy.base import (
    STORAGE,
    Array,
    CallContext,
    Env,
    Into,
    Kernel,
    LocalValue,
    aligned,
    empty_as,
    finish,
    kernel,
    literal,
    rounded,
)
from runtime.numpy.select import where


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


# For float32: erf(x) = tanh(x P(x^2)). P is fitted to atanh(erf(x)) / x where the relative error of erf is smallest
# (2.5e-7, rounding included); beyond, the product only grows, and tanh is 1.
_P32: tuple[float, ...] = (1.418521856e-07, -5.668475108e-06, 8.76373255e-05, -6.197846577e-04, -1.918307987e-04)
_P32 += (0.1027690558, 1.128379274)

# For float64: a Taylor series around the nearest of these nodes.
_STEP = 1 / 64
_MOST = 28.0  # erfc is 0 there
_NODES = np.arange(0, _MOST + _STEP, _STEP)
_ERF = np.array([exact_erf(x) for x in _NODES])
_ERFC = np.array([exact_erfc(x) for x in _NODES])
_SLOPE = np.array([2 / sqrt(pi) * exp(-x * x) for x in _NODES])
_TERMS = 8
_BLOCK = 16384


def erf(x: Array) -> Array:
    """The error function, to the precision of x's dtype."""
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    # Blocks, for the many temporaries to stay in the cache.
    scratch = np.empty((2, min(_BLOCK, flat.size)), np.float32) if x.dtype == np.float32 else None
    for i in range(0, flat.size, _BLOCK):
        part = flat[i : i + _BLOCK]
        if scratch is None:
            out[i : i + _BLOCK] = _taylor_erf(part)
        else:
            erf32(part, out[i : i + _BLOCK], scratch[0, : part.size], scratch[1, : part.size])
    return out.reshape(x.shape)


def erf32(x: Array, out: Array, square: Array, factor: Array) -> None:
    """For float32, into `out` (which may be x); `square` and `factor` are scratch of the same shape."""
    np.multiply(x, x, square)
    np.multiply(square, _P32[0], factor)
    np.add(factor, _P32[1], factor)
    for c in _P32[2:]:
        np.multiply(factor, square, factor)
        np.add(factor, c, factor)
    np.multiply(factor, x, out)
    np.tanh(out, out)


def _taylor_erf(x: Array) -> Array:
    nearest, rise = _from_node(np.minimum(np.abs(x), 6.0), _TERMS)
    signed: Array = np.copysign(_ERF[nearest] + rise, x)
    return signed


def _from_node(magnitude: Array, terms: int) -> tuple[Array, Array]:
    """The nearest node, and by how much erf is larger at `magnitude` than there."""
    node = np.rint(magnitude * (1 / _STEP))
    nearest = np.where(np.isnan(node), 0, node).astype(np.intp)
    at, d = _NODES[nearest], magnitude - node * _STEP
    # The n-th derivative of erf is slope * h_{n-1} with h_n = -2 (x h_{n-1} + (n-1) h_{n-2}).
    before, h, power, total = np.zeros_like(d), np.ones_like(d), d, d.copy()
    for n in range(1, terms):
        before, h = h, -2 * (at * h + (n - 1) * before)
        power = power * d / (n + 1)
        total += h * power
    return nearest, _SLOPE[nearest] * total


def erfc(x: Array) -> Array:
    """1 - erf(x), small values to full relative precision: computed in float64, whatever x's dtype."""
    wide = np.asarray(x, np.float64)
    nearest, rise = _from_node(np.minimum(np.abs(wide), _MOST), 2 * _TERMS)
    tail = _ERFC[nearest] - rise
    return np.asarray(np.where(wide < 0, 2 - tail, tail), x.dtype)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "neg": np.negative, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "rsqrt": _rsqrt, "tanh": np.tanh,
    "sigmoid": _sigmoid, "erf": erf, "log1p": np.log1p, "erfc": erfc, "sin": np.sin, "cos": np.cos,
    "abs": np.abs, "sign": np.sign,
    "floor": np.floor, "round": np.rint, "relu": _relu, "maximum": np.maximum, "minimum": np.minimum, "where": where,
    "floordiv": np.floor_divide, "mod": np.remainder, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
    "not": np.logical_not,
}  # fmt: skip
"""Each function of `Map` on arrays."""


def map_function(fn: str, slots: Sequence[Any], dtype: str) -> Callable[..., Array]:
    """A function of arrays only: literals stand in their places, in the storage type of operands of `dtype`."""
    f = FUNCTIONS[fn]
    if fn == "pow" and slots[0] is None and slots[1] is not None:
        f, slots = _power(slots[1]), (None,)
    if all(s is None for s in slots):
        return f
    literals = [None if s is None else literal(s, dtype) for s in slots]
    match literals:
        case [None, c]:
            return lambda x: f(x, c)
        case [c, None]:
            return lambda x: f(c, x)
        case [None, None, c]:
            return lambda x, y: f(x, y, c)
        case [None, c, None]:
            return lambda x, y: f(x, c, y)
    raise AssertionError(f"{fn} with literals {literals}")


def _power(p: float) -> Callable[[Array], Array]:
    """x ** p for a literal p: multiplication where that is exact and much faster than `np.power`."""
    if p == 2:
        return np.square
    if p == 3:
        return lambda x: np.square(x) * x
    if p == 0.5:
        return np.sqrt
    return lambda x: np.power(x, x.dtype.type(p))


def operand_dtype(op: Map, ins: Sequence[LocalValue]) -> str:
    """The dtype that literals take (for `where`: not the condition's)."""
    return ins[-1].type.dtype


@kernel(Map)
def plan_map(op: Map, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans an elementwise function of operands that are aligned by dim name."""
    f = map_function(op.fn, op.slots, operand_dtype(op, ins))
    views = [aligned(v, outs[0].type.names, env.lead) for v in ins]
    narrow = outs[0].type.dtype in ("bf16", "f16")
    if isinstance(f, np.ufunc) and not narrow and prod(outs[0].shape) >= _LARGE:
        return _large(f, views, ins, outs[0])
    return finish(on_views(f, views), outs[0].type.dtype)


_LARGE = 1 << 14
"""Elements from which on it matters where a result is put."""


def _large(
    f: np.ufunc, views: Sequence[Callable[[Array], Array] | None], ins: Sequence[LocalValue], out: LocalValue
) -> Into:
    """A map of arrays only that writes into memory of its executor."""
    shapes, empty = [v.shape for v in ins], empty_as(out)

    def into(ctx: CallContext, *xs: Array, out: Sequence[Array | None] | None = None) -> Array:
        operands = [x if v is None else v(x) for x, v in zip(xs, views)]
        if any(x.shape != s for x, s in zip(xs, shapes)):  # differs along an axis although it should not
            return np.asarray(f(*operands))
        given = out[0] if out else None
        return f(*operands, out=empty(ctx) if given is None else given)  # type: ignore[no-any-return]

    return Into(into)


@kernel(Cast)
def plan_cast(op: Cast, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a change of dtype, rounded to what the target can hold."""
    source, target, storage = ins[0].type.dtype, op.dtype, STORAGE[op.dtype]
    exact = source == target or (target == "f32" and source in ("bf16", "f16"))
    if exact:
        return lambda ctx, x: x
    if storage is STORAGE[source]:
        return lambda ctx, x: rounded(x, target)
    return finish(lambda ctx, x: x.astype(storage), target)


@kernel(Broadcast)
def plan_broadcast(op: Broadcast, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a read-only view that repeats the operand along the dims that it lacks."""
    view, shape = aligned(ins[0], outs[0].type.names, env.lead), outs[0].shape
    if view is None:
        return lambda ctx, x: x
    # New dims may be split over axes on which the operand is replicated: what is alike there still has their full size.
    return lambda ctx, x: np.broadcast_to(view(x), shape)


@kernel(Transpose)
def plan_transpose(op: Transpose, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a view with the dims in another order."""
    view = aligned(ins[0], op.dims, env.lead)
    return (lambda ctx, x: x) if view is None else (lambda ctx, x: view(x))


@kernel(StopGradient, Rename)
def plan_same(op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """For ops that change names only."""
    return lambda ctx, x: x
