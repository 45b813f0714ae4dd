"""Contractions as matrix products on views.

Every dim belongs to one of four groups: batch (in both operands and the result), rows (left and result), columns (right
and result), summed (both, not in the result). What only one operand has and the result lacks is summed first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from compiler.ops.contract import Contract
from dsl.data import dataclass
from runtime.backend import Kernel
from runtime.torch.base import NARROW, STORAGE, Standpoint, Values, aligned, kernel, maker, over, wrapped
from runtime.torch.fusing.ops import FusedProductSum


@maker(Contract)
@kernel(Contract)
def plan_contract(op: Contract, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans one matrix product of (batch, rows, summed) and (batch, summed, columns)."""
    left, right, out = _names(ins, outs)
    dtype, sizes = outs[0].type.dtype, _sizes(ins)
    alone = [[i for i, n in enumerate(x) if n not in y and n not in out] for x, y in ((left, right), (right, left))]
    first, second = ([n for i, n in enumerate(x) if i not in a] for x, a in zip((left, right), alone))
    run = _product(first, second, out, sizes)
    if any(alone):
        run = _summed(run, alone, dtype)
    if dtype == "int32":
        return _of_integers(run, prod(n for d, n in sizes.items() if d not in out), where.device.type == "cpu")
    return wrapped(run, dtype)


def _of_integers(run: Kernel, terms: int, look: bool) -> Kernel:
    """A product of so many terms in f64, where that holds every sum exactly. look: whether others may be computed as
    integers, which only processors do."""

    def product(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        if look and terms * _largest(x) * _largest(y) >= 2**31:
            return run(ctx, x, y)
        return run(ctx, x.double(), y.double()).to(torch.int64).to(torch.int32)

    return product


def _largest(x: Tensor) -> int:
    """The largest size of whole numbers."""
    return int(x.to(torch.int64).abs().max()) if x.numel() else 0


def _summed(run: Kernel, alone: list[list[int]], dtype: str) -> Kernel:
    """Sum dims of one operand only before the product, in f32 at least: what is rounded is the result."""
    a, b = alone

    def summed(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        wide = torch.float32 if dtype in NARROW else x.dtype
        x = x.sum(a, dtype=wide) if a else x.to(wide)
        y = y.sum(b, dtype=wide) if b else y.to(wide)
        return run(ctx, x, y).to(x.dtype if dtype == "int32" else STORAGE[dtype])

    return summed


@dataclass(frozen=True, slots=True)
class Matrices:
    """A contraction as one product of matrices, or of `count` of them: how both operands are viewed, and the result.

    shape: of the result with its dims in the order batch, rows, columns; order: from there to that of its own dims;
    still: of left, right and result, whether their dims are in order. swapped: the operands are exchanged.
    """

    perms: tuple[tuple[int, ...], tuple[int, ...]]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    flat: tuple[int, ...]
    shape: tuple[int, ...]
    order: tuple[int, ...]
    still: tuple[bool, bool, bool]
    swapped: bool = False

    @staticmethod
    def of(left: list[str], right: list[str], out: list[str], sizes: dict[str, int]) -> Matrices | None:
        """Of operands whose dims are in each other or in the result; None where nothing is summed, or all the rest."""
        batch = [n for n in out if n in left and n in right]
        rows = [n for n in out if n in left and n not in right]
        columns = [n for n in out if n in right and n not in left]
        # The larger operand keeps the order of its summed dims, the other may have to be copied.
        larger = left if prod(sizes[n] for n in left) >= prod(sizes[n] for n in right) else right
        inner = [n for n in larger if n in left and n in right and n not in out]
        if not inner or not (rows or columns):
            return None
        if rows and columns and out[-1] in rows and (not batch or out[: len(batch)] == batch):
            # The result ends in rows of the left operand: with the operands exchanged it is written in its own order.
            found = Matrices.of(right, left, out, sizes)
            return None if found is None else replace(found, swapped=True)
        m, n, k, count = (prod(sizes[d] for d in group) for group in (rows, columns, inner, batch))
        a_perm = tuple(left.index(d) for d in (*batch, *rows, *inner))
        b_perm = tuple(right.index(d) for d in (*batch, *inner, *columns))
        natural = [*batch, *rows, *columns]
        shape, order = tuple(sizes[d] for d in natural), tuple(natural.index(d) for d in out)
        lead = (count,) if batch else ()
        shapes = (*lead, m, k), (*lead, k, n)
        a_still, b_still, still = (p == tuple(range(len(p))) for p in (a_perm, b_perm, order))
        return Matrices((a_perm, b_perm), shapes, (*lead, m, n), shape, order, (a_still, b_still, still))

    def views(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """From the operands to matrices."""
        (a_perm, b_perm), (a_shape, b_shape), (a_still, b_still, _) = self.perms, self.shapes, self.still

        def view(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            a = (x if a_still else x.permute(a_perm)).reshape(a_shape)
            return a, (y if b_still else y.permute(b_perm)).reshape(b_shape)

        return (lambda x, y: view(y, x)) if self.swapped else view


def _product(left: list[str], right: list[str], out: list[str], sizes: dict[str, int]) -> Kernel:
    of = Matrices.of(left, right, out, sizes)
    if of is None:
        inner = [n for n in left if n in right and n not in out]
        return _dots(left, right, out, inner) if inner else _outer(left, right, out)
    view, shape, order, still = of.views(), of.shape, of.order, of.still[2]
    multiply = torch.bmm if len(of.flat) == 3 else torch.mm

    def product(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        result = multiply(*view(x, y)).view(shape)
        return result if still else result.permute(order)

    return product


@maker(FusedProductSum)
@kernel(FusedProductSum)
def plan_product_sum(op: FusedProductSum, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a product that is added to something of its shape, or of that of its last dims."""
    of = _matrices(ins[1:], outs)
    if ins[0].type != outs[0].type:
        return _biased(op, of, ins, outs, where)
    if of is None:
        product = plan_contract(op.product, ins[1:], outs, where)
        return lambda ctx, c, x, y: c + product(ctx, x, y)
    view, flat, shape, order, still = of.views(), of.flat, of.shape, of.order, of.still[2]
    add, back = torch.baddbmm if len(flat) == 3 else torch.addmm, _inverse(order)

    def product_sum(ctx: object, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
        result = add((c if still else c.permute(back)).reshape(flat), *view(x, y)).view(shape)
        return result if still else result.permute(order)

    return product_sum


@over(FusedProductSum)
def plan_product_sum_over(op: FusedProductSum, ins: Values, outs: Values, operand: int) -> Kernel | None:
    """Plans a product that is added to something where that is."""
    of = _matrices(ins[1:], outs)
    if of is None or operand != 0 or ins[0].type != outs[0].type:
        return None
    view, flat, still, back = of.views(), of.flat, of.still[2], _inverse(of.order)
    add = Tensor.baddbmm_ if len(flat) == 3 else Tensor.addmm_
    product = _product(*_names(ins[1:], outs), _sizes(ins[1:]))

    def product_sum(ctx: object, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
        place = c if still else c.permute(back)
        if not place.is_contiguous():
            return c.add_(product(ctx, x, y))
        add(place.view(flat), *view(x, y))
        return c

    return product_sum


def _biased(op: FusedProductSum, of: Matrices | None, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """A product that is added to each of its rows' own."""
    out = outs[0].type.names
    if of is None or len(of.flat) == 3 or not of.still[2] or ins[0].type.elements != of.flat[1]:
        product, view = plan_contract(op.product, ins[1:], outs, where), aligned(ins[0], out)
        return lambda ctx, c, x, y: product(ctx, x, y) + (c if view is None else view(c))
    views, shape = of.views(), of.shape
    return lambda ctx, c, x, y: torch.addmm(c.reshape(-1), *views(x, y)).view(shape)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))


def _matrices(ins: Values, outs: Values) -> Matrices | None:
    left, right, out = _names(ins, outs)
    if any(n not in out and (n not in left or n not in right) for n in (*left, *right)):
        return None
    return Matrices.of(left, right, out, _sizes(ins))


def _names(ins: Values, outs: Values) -> tuple[list[str], list[str], list[str]]:
    left, right, out = (list(v.type.names) for v in (*ins, *outs))
    return left, right, out


def _sizes(ins: Values) -> dict[str, int]:
    return {d.name: d.size for v in ins for d in v.type.dims}


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
