"""Contractions as matrix products on views.

Every dim, lead axes included, belongs to one of four groups: batch (in both operands and the result), rows (left and
result), columns (right and result), summed (both, not in the result). A lead axis that only the left operand has joins
the rows, so that data-parallel shards which meet one replicated weight become a single product.

The result is written in the declared order of dims where BLAS can do that; otherwise it lies in memory as the product
leaves it and is handed on as a transposed view.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np

from compiler.ops.contract import Contract
from dsl.data import dataclass
from runtime.numpy.base import Array, CallContext, Env, Into, Kernel, LocalValue, finish, kernel

_SMALL = 64  # up to this size a contiguous copy of a transposed operand pays


@dataclass(frozen=True)
class _Operand:
    """Dims (lead axes of size 1 left out) of a value in the order in which its array has them."""

    names: tuple[str, ...]
    sizes: dict[str, int]
    full: tuple[int, ...]  # the array's whole shape
    kept: tuple[int, ...]  # its shape without lead axes of size 1

    @staticmethod
    def of(value: LocalValue, lead_axes: Sequence[str]) -> _Operand:
        lead = [(f"@{a}", n) for a, n in zip(lead_axes, value.lead, strict=True) if n > 1]
        pairs = [*lead, *((d.name, d.size) for d in value.type.dims)]
        return _Operand(tuple(n for n, _ in pairs), dict(pairs), value.shape, tuple(n for _, n in pairs))


@kernel(Contract)
def plan_contract(op: Contract, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans one matrix product: the operands as (batch, rows, contracted) and (batch, contracted, columns)."""
    left, right = (_Operand.of(v, env.lead_axes) for v in ins)
    lead = np.broadcast_shapes(*(v.lead for v in ins)) if env.lead else ()
    out = _Operand.of(LocalValue(outs[0].type, lead, outs[0].logical, outs[0].axes), env.lead_axes)
    return finish(_plan(left, right, out), outs[0].type.dtype)


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
            x, y = x.reshape(left.kept), y.reshape(right.kept)
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
        return Into(lambda ctx, x, y, out=None: kernel.run(ctx, y, x, out))
    return _matmul(left, right, out, rows, columns, batch, summed)


def _without(x: _Operand, axes: tuple[int, ...]) -> _Operand:
    names = tuple(n for i, n in enumerate(x.names) if i not in axes)
    shape = tuple(x.sizes[n] for n in names)
    return _Operand(names, x.sizes, shape, shape)


def _product(left: _Operand, right: _Operand, out: _Operand) -> Kernel:
    """Nothing is summed: an elementwise or outer product."""

    def view(x: _Operand) -> tuple[tuple[int, ...], tuple[int, ...]]:
        perm = tuple(x.names.index(n) for n in out.names if n in x.names)
        return perm, tuple(x.sizes.get(n, 1) for n in out.names)

    (perm_a, shape_a), (perm_b, shape_b) = view(left), view(right)

    def product(ctx: object, x: Array, y: Array) -> Array:
        x = x.reshape(left.kept).transpose(perm_a).reshape(shape_a)
        y = y.reshape(right.kept).transpose(perm_b).reshape(shape_b)
        return np.multiply(x, y).reshape(out.full)

    return product


def _einsum(left: _Operand, right: _Operand, out: _Operand) -> Kernel:
    """Sums of elementwise products: no dim belongs to one operand only, or the innermost is a batch."""
    letters = {n: i for i, n in enumerate(dict.fromkeys((*left.names, *right.names)))}
    subs = [[letters[n] for n in x.names] for x in (left, right, out)]
    if left.names == right.names and not out.names:

        def dot(ctx: object, x: Array, y: Array) -> Array:
            return np.asarray(np.vdot(x, y)).reshape(out.full)

        return dot

    def einsum(ctx: object, x: Array, y: Array) -> Array:
        x, y = x.reshape(left.kept), y.reshape(right.kept)
        return np.einsum(x, subs[0], y, subs[1], subs[2]).reshape(out.full)  # type: ignore[no-any-return]

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
    # Lead axes of one side only: the left's join the rows where that takes no copy; else, and the right's, they become
    # a batch that the other side is broadcast along.
    single = [n for n in columns if n.startswith("@")]
    if not _adjacent([left.names.index(n) for n in rows]):
        single += [n for n in rows if n.startswith("@")]
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
    left_kept, right_kept, full = left.kept, right.kept, out.full
    declared = memory == out.names  # the result lies in memory as it is declared

    def matmul(ctx: CallContext, x: Array, y: Array, out: Sequence[Array | None] | None = None) -> Array:
        a = x.reshape(left_kept).transpose(a_perm).reshape(a_shape)
        b = y.reshape(right_kept).transpose(b_perm).reshape(b_shape)
        item = a.itemsize
        if a.strides[-1] != item and a.strides[-2] != item:
            a = np.ascontiguousarray(a)
        if b.strides[-1] != item and (copy_b or b.strides[-2] != item):
            b = np.ascontiguousarray(b)
        given = out[0] if out and declared else None
        result = ctx.empty(memory_shape, a.dtype) if given is None else given.reshape(memory_shape)
        np.matmul(a, b, out=result.transpose(to_product).reshape(product_shape))
        return result.transpose(to_out).reshape(full) if given is None else given

    return Into(matmul)


def _matrix(
    x: _Operand, batch: list[str], first: Sequence[str], second: Sequence[str], m: int, n: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Permutation and shape that make the operand a stack of matrices; size 1 along a batch dim that it lacks."""
    order = [d for d in (*batch, *first, *second) if d in x.names]
    return tuple(x.names.index(d) for d in order), (*(x.sizes.get(d, 1) for d in batch), m, n)


def _memory_order(out: _Operand, rows: list[str], columns: list[str], batch: list[str]) -> tuple[str, ...]:
    """Declared order if BLAS can write it (rows and columns each adjacent, columns last), else the product's."""
    natural = (*batch, *rows, *columns)
    for order in (out.names, (*(d for d in batch if d.startswith("@")), *(d for d in rows if d.startswith("@")))):
        if len(order) != len(out.names):
            order = (*order, *(d for d in out.names if not d.startswith("@")))
        where = [order.index(d) for d in (*rows, *columns)]
        row_places, column_places = where[: len(rows)], where[len(rows) :]
        last = not column_places or column_places[-1] == len(order) - 1
        if _adjacent(row_places) and _adjacent(column_places) and last:
            return tuple(order)
    return natural


def _adjacent(places: Sequence[int]) -> bool:
    return all(b == a + 1 for a, b in pairwise(places))
