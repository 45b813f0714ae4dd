"""Contractions as matrix products on views.

Every dim, lead axes included, belongs to one of four groups: batch (in both operands and the result), rows (left and
result), columns (right and result), summed (both, not in the result). A lead axis that only the left operand has joins
the rows, so that data-parallel shards which meet one replicated weight become a single product.

The result is written in the declared order of dims where BLAS can do that; otherwise it lies in memory as the product
leaves it and is handed on as a transposed view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np

from compiler.ops.contract import Contract
from dsl.data import dataclass
from runtime.numpy.base import (
    Array,
    CallContext,
    Env,
    Into,
    Kernel,
    LocalValue,
    finish,
    inverse,
    kernel,
    laid,
)
from runtime.numpy.patches import LARGE, by_rows, by_terms, is_matrix
from runtime.numpy.winograd import rows_of, terms_of, windows_of

_SMALL = 64  # up to this size a contiguous copy of a transposed operand pays


@dataclass(frozen=True)
class _Operand:
    """Dims (lead axes of size 1 left out) of a value, in the order in which its array best lies in memory."""

    names: tuple[str, ...]
    sizes: dict[str, int]
    order: tuple[int, ...]  # the array's axes: lead axes of size 1 first, then `names`
    kept: tuple[int, ...]  # sizes of `names`

    @staticmethod
    def of(value: LocalValue, lead_axes: Sequence[str]) -> _Operand:
        names = (*(f"@{a}" for a in lead_axes), *value.type.names)
        left_out = [i for i, n in enumerate(value.lead) if n == 1]
        order = [i for i in laid(value) if i not in left_out]
        kept = tuple(value.shape[i] for i in order)
        found = tuple(names[i] for i in order)
        return _Operand(found, dict(zip(found, kept)), (*left_out, *order), kept)

    def seen(self, x: Array) -> Array:
        """The value's array with the axes `names`: a view."""
        return x.transpose(self.order).reshape(self.kept)

    def shown(self, x: Array) -> Array:
        """An array with the axes `names` as one of the value: a view."""
        ones = (1,) * (len(self.order) - len(self.kept))
        return x.reshape(ones + self.kept).transpose(inverse(self.order))


@kernel(Contract)
def plan_contract(op: Contract, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans one matrix product: the operands as (batch, rows, contracted) and (batch, contracted, columns)."""
    lead = np.broadcast_shapes(*(v.lead for v in ins)) if env.lead else ()
    return plan_product(ins, outs[0], lead, env)


def plan_product(ins: Sequence[LocalValue], out: LocalValue, lead: tuple[int, ...], env: Env) -> Kernel:
    """Plans the product; lead axes that are of size 1 in `lead`, the result's, are summed over."""
    left, right = (_Operand.of(v, env.lead_axes) for v in ins)
    result = _Operand.of(replace(out, lead=lead), env.lead_axes)
    if out.type.dtype == "int32":
        sizes = left.sizes | right.sizes
        return _of_integers(_plan(left, right, result), prod(n for d, n in sizes.items() if d not in result.names))
    return finish(_plan(left, right, result), out.type.dtype)


def _of_integers(run: Kernel, terms: int) -> Kernel:
    """A product of so many terms in floats, which BLAS multiplies, where these hold every sum exactly."""

    def product(ctx: CallContext, x: Array, y: Array) -> Array:
        most = terms * _largest(x) * _largest(y)
        if most >= 2**31:  # it may be taken modulo 2^32
            return run(ctx, x, y)  # type: ignore[no-any-return]
        wide = np.float32 if most <= 2**24 else np.float64
        return run(ctx, x.astype(wide), y.astype(wide)).astype(np.int32)  # type: ignore[no-any-return]

    return product


def _largest(x: Array) -> int:
    """The largest size of whole numbers."""
    return max(int(x.max(initial=0)), -int(x.min(initial=0)))


def _plan(left: _Operand, right: _Operand, out: _Operand) -> Kernel:
    alone = [
        tuple(i for i, n in enumerate(x.names) if n not in y.names and n not in out.names)
        for x, y in ((left, right), (right, left))
    ]
    if any(alone):  # dims of one operand only that are summed: sum first
        a, b = (_without(x, axes) for x, axes in zip((left, right), alone))
        inner = _plan(a, b, out)
        axes_a, axes_b = alone

        def sum_first(ctx: object, x: Array, y: Array) -> Array:
            x, y = left.seen(x), right.seen(y)
            x = x.sum(axis=axes_a, dtype=x.dtype) if axes_a else x
            y = y.sum(axis=axes_b, dtype=y.dtype) if axes_b else y
            return inner(ctx, x, y)  # type: ignore[no-any-return]

        return sum_first
    summed = tuple(n for n in left.names if n in right.names and n not in out.names)
    if not summed:
        return _product(left, right, out)
    rows = [n for n in out.names if n not in right.names]
    columns = [n for n in out.names if n not in left.names]
    batch = [n for n in out.names if n in left.names and n in right.names]
    innermost = left.names[-1] in batch and right.names[-1] in batch
    if innermost or not (rows or columns):
        return _einsum(left, right, out)
    local = [n for n in out.names if n not in batch and not n.startswith("@")]
    local_rows = [n for n in rows if n in local]
    if local_rows and local[0] in columns:  # columns come first: swap, so that the result is written row by row
        kernel = _matmul(right, left, out, columns, rows, batch, summed)
        return Into(lambda ctx, x, y, out=None: kernel.run(ctx, y, x, out), kernel.order)
    return _matmul(left, right, out, rows, columns, batch, summed)


def _without(x: _Operand, axes: tuple[int, ...]) -> _Operand:
    names = tuple(n for i, n in enumerate(x.names) if i not in axes)
    return _Operand(names, x.sizes, tuple(range(len(names))), tuple(x.sizes[n] for n in names))


def _product(left: _Operand, right: _Operand, out: _Operand) -> Kernel:
    """Nothing is summed: an elementwise or outer product."""

    def view(x: _Operand) -> tuple[tuple[int, ...], tuple[int, ...]]:
        perm = tuple(x.names.index(n) for n in out.names if n in x.names)
        return perm, tuple(x.sizes.get(n, 1) for n in out.names)

    (perm_a, shape_a), (perm_b, shape_b) = view(left), view(right)

    def product(ctx: object, x: Array, y: Array) -> Array:
        x = left.seen(x).transpose(perm_a).reshape(shape_a)
        y = right.seen(y).transpose(perm_b).reshape(shape_b)
        return out.shown(np.multiply(x, y))

    return product


def _einsum(left: _Operand, right: _Operand, out: _Operand) -> Kernel:
    """Sums of elementwise products: no dim belongs to one operand only, or the innermost is a batch."""
    letters = {n: i for i, n in enumerate(dict.fromkeys((*left.names, *right.names)))}
    subs = [[letters[n] for n in x.names] for x in (left, right, out)]
    if left.names == right.names and not out.names:

        def dot(ctx: object, x: Array, y: Array) -> Array:
            return out.shown(np.asarray(np.vdot(left.seen(x), right.seen(y))))

        return dot

    def einsum(ctx: object, x: Array, y: Array) -> Array:
        return out.shown(np.einsum(left.seen(x), subs[0], right.seen(y), subs[1], subs[2]))

    return einsum


def _matmul(
    left: _Operand,
    right: _Operand,
    out: _Operand,
    rows: list[str],
    columns: list[str],
    batch: list[str],
    summed: tuple[str, ...],
) -> Into:
    # Lead axes of one side only join its rows or columns where that takes no further copy; else they become a batch
    # that the other side is broadcast along.
    single: list[str] = []
    for names, places in ((rows, [left.names]), (columns, [right.names, out.names])):
        local = [n for n in names if not n.startswith("@")]
        own = places[0]  # where its own dims are apart, it is copied in any case
        if not all(_adjacent([p.index(n) for n in names]) for p in places) and (
            names is columns or _adjacent([own.index(n) for n in local])
        ):
            single += [n for n in names if n.startswith("@")]
    rows = [n for n in rows if n not in single]
    columns = [n for n in columns if n not in single]
    batch = [n for n in out.names if n in batch or n in single]
    # Order of summed dims: the larger operand keeps its own, the other may have to be copied.
    larger = left if prod(left.kept) >= prod(right.kept) else right
    inner = [n for n in larger.names if n in summed]
    sizes = left.sizes | right.sizes
    m, n, k = (prod(sizes[d] for d in group) for group in (rows, columns, inner))
    count = tuple(sizes[d] for d in batch)

    memory = _memory_order(out, rows, columns, batch)
    memory_shape = tuple(sizes[d] for d in memory)
    to_product = tuple(memory.index(d) for d in (*batch, *rows, *columns))
    to_out = tuple(memory.index(d) for d in out.names)
    product_shape = (*count, m, n)

    a_perm, a_shape = _matrix(left, batch, rows, inner, m, k)
    b_perm, b_shape = _matrix(right, batch, inner, columns, k, n)
    copy_b = k <= _SMALL and n <= _SMALL
    # What is no matrix in memory is made into one block by block: the operand with more rows by its rows.
    in_blocks = not batch and m * k >= LARGE
    by_row = m >= k
    declared = memory == out.names  # the result lies in memory as it is declared
    seen, shown = out.seen, out.shown

    def matmul(ctx: CallContext, x: Array, y: Array, out: Sequence[Array | None] | None = None) -> Array:
        whole = left.seen(x).transpose(a_perm)
        apart = in_blocks and not is_matrix(whole, len(rows))
        a = whole if apart else whole.reshape(a_shape)
        b = right.seen(y).transpose(b_perm).reshape(b_shape)
        item = a.itemsize
        if not apart and a.strides[-1] != item and a.strides[-2] != item:
            a = np.ascontiguousarray(a)
        if b.strides[-1] != item and (copy_b or b.strides[-2] != item):
            b = np.ascontiguousarray(b)
        given = out[0] if out and declared else None
        result = None if given is None else seen(given)
        if result is None or not result.flags.c_contiguous:
            given, result = None, ctx.empty(memory_shape, a.dtype)
        target = result.transpose(to_product).reshape(product_shape)
        if apart:
            places, inside = range(len(rows)), range(len(rows), a.ndim)
            windows = windows_of(a, *((places, inside) if by_row else (inside, places)), n)
            if windows is None:
                (by_rows if by_row else by_terms)(ctx, a, len(rows), b, target)
            else:
                (rows_of if by_row else terms_of)(ctx, windows, b, target)
        else:
            np.matmul(a, b, out=target)
        return shown(result.transpose(to_out)) if given is None else given

    ones = len(out.order) - len(out.names)
    axis = dict(zip(out.names, out.order[ones:]))
    return Into(matmul, (*out.order[:ones], *(axis[d] for d in memory)))


def _matrix(
    x: _Operand, batch: list[str], first: Sequence[str], second: Sequence[str], m: int, n: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Permutation and shape that make the operand a stack of matrices; size 1 along a batch dim that it lacks."""
    order = [d for d in (*batch, *first, *second) if d in x.names]
    return tuple(x.names.index(d) for d in order), (*(x.sizes.get(d, 1) for d in batch), m, n)


def _memory_order(out: _Operand, rows: list[str], columns: list[str], batch: list[str]) -> tuple[str, ...]:
    """Declared order if BLAS can write it (rows and columns each adjacent, columns last), else the product's."""
    natural = (*batch, *rows, *columns)
    devices_first = sorted(out.names, key=lambda d: not d.startswith("@"))
    for order in (out.names, devices_first):
        where = [order.index(d) for d in (*rows, *columns)]
        row_places, column_places = where[: len(rows)], where[len(rows) :]
        last = not column_places or column_places[-1] == len(order) - 1
        if _adjacent(row_places) and _adjacent(column_places) and last:
            return tuple(order)
    return natural


def _adjacent(places: Sequence[int]) -> bool:
    return all(b == a + 1 for a, b in pairwise(places))
