"""Contractions as matrix products on views.

Every dim belongs to one of four groups: batch (in both operands and the result), rows (left and result), columns (right
and result), summed (both, not in the result). What only one operand has and the result lacks is summed first.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from compiler.ops.contract import Contract
from runtime.backend import Kernel
from runtime.torch.base import NARROW, STORAGE, Standpoint, Values, kernel, wrapped


@kernel(Contract)
def plan_contract(op: Contract, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans one matrix product of (batch, rows, summed) and (batch, summed, columns)."""
    left, right = (list(v.type.names) for v in ins)
    out, dtype = list(outs[0].type.names), outs[0].type.dtype
    sizes = {d.name: d.size for v in ins for d in v.type.dims}
    alone = [[i for i, n in enumerate(x) if n not in y and n not in out] for x, y in ((left, right), (right, left))]
    first, second = ([n for i, n in enumerate(x) if i not in a] for x, a in zip((left, right), alone))
    run = _product(first, second, out, sizes)
    if any(alone):
        run = _summed(run, alone, dtype)
    return wrapped(run, dtype)


def _summed(run: Kernel, alone: list[list[int]], dtype: str) -> Kernel:
    """Sum dims of one operand only before the product, in f32 at least: what is rounded is the result."""
    wide = torch.float32 if dtype in NARROW else STORAGE[dtype]
    a, b = alone

    def summed(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        x = x.sum(a, dtype=wide) if a else x.to(wide)
        y = y.sum(b, dtype=wide) if b else y.to(wide)
        return run(ctx, x, y).to(STORAGE[dtype])

    return summed


def _product(left: list[str], right: list[str], out: list[str], sizes: dict[str, int]) -> Kernel:
    batch = [n for n in out if n in left and n in right]
    rows = [n for n in out if n in left and n not in right]
    columns = [n for n in out if n in right and n not in left]
    # The larger operand keeps the order of its summed dims, the other may have to be copied.
    larger = left if prod(sizes[n] for n in left) >= prod(sizes[n] for n in right) else right
    inner = [n for n in larger if n in left and n in right and n not in out]
    m, n, k, count = (prod(sizes[d] for d in group) for group in (rows, columns, inner, batch))
    if not inner:
        return _outer(left, right, out)
    if not rows and not columns:  # nothing but sums of products
        return _dots(left, right, out, inner)
    if rows and columns and out[-1] in rows and (not batch or out[: len(batch)] == batch):
        # The result ends in rows of the left operand: with the operands exchanged it is written in its own order.
        swapped = _product(right, left, out, sizes)
        return lambda ctx, x, y: swapped(ctx, y, x)
    a_perm = tuple(left.index(d) for d in (*batch, *rows, *inner))
    b_perm = tuple(right.index(d) for d in (*batch, *inner, *columns))
    natural = [*batch, *rows, *columns]
    shape, order = tuple(sizes[d] for d in natural), tuple(natural.index(d) for d in out)
    a_shape, b_shape = ((count, m, k), (count, k, n)) if batch else ((m, k), (k, n))
    multiply = torch.bmm if batch else torch.mm
    a_still, b_still, still = (p == tuple(range(len(p))) for p in (a_perm, b_perm, order))

    def product(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        a = (x if a_still else x.permute(a_perm)).reshape(a_shape)
        b = (y if b_still else y.permute(b_perm)).reshape(b_shape)
        result = multiply(a, b).view(shape)
        return result if still else result.permute(order)

    return product


def _dots(left: list[str], right: list[str], out: list[str], inner: list[str]) -> Kernel:
    """Sums of elementwise products: a product of matrices would have single rows and columns."""
    axes = tuple(i for i, n in enumerate(left) if n in inner)
    perm, kept = tuple(right.index(n) for n in left), [n for n in left if n not in inner]
    order, still = tuple(kept.index(n) for n in out), kept == out

    def dots(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        wide = x * y.permute(perm) if x.dtype.itemsize > 2 else x.float() * y.permute(perm)
        result = wide.sum(axes, dtype=wide.dtype).to(x.dtype)
        return result if still else result.permute(order)

    return dots


def _outer(left: list[str], right: list[str], out: list[str]) -> Kernel:
    """Nothing is summed: an elementwise or outer product."""

    def view(names: list[str]) -> tuple[tuple[int, ...], tuple[object, ...]]:
        return tuple(names.index(n) for n in out if n in names), tuple(slice(None) if n in names else None for n in out)

    (a_perm, a_pick), (b_perm, b_pick) = view(left), view(right)
    return lambda ctx, x, y: x.permute(a_perm)[a_pick] * y.permute(b_perm)[b_pick]
