"""An op whose result is added up over devices as it is computed: no device's addend stands anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from compiler.graph import Type
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Reduce
from dsl.data import dataclass
from runtime.distribute import reduce_lead
from runtime.numpy.base import Array, CallContext, Env, Kernel, LocalValue
from runtime.numpy.disk import DiskArray
from runtime.numpy.sums import sum_over


@dataclass(frozen=True, slots=True)
class Summed(Op):
    """`op`, and the sum of its results over lead axes, by number: of size 1 along them, as the result is declared."""

    mnemonic: ClassVar[str] = "summed"
    op: Op
    leads: tuple[int, ...]


def inner(op: Op) -> Op:
    """The op itself, or the one whose results are added up."""
    return op.op if isinstance(op, Summed) else op


def plan_summed(op: Summed, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a product or a sum of rows over all devices at once; of other ops, the sum behind them."""
    from runtime.numpy import plan
    from runtime.numpy.contract import plan_product
    from runtime.numpy.index import plan_scatter_add_over

    (out,) = outs
    sizes = {i: env.sizes[env.lead_axes[i]] for i in op.leads}
    if isinstance(op.op, Contract):
        lead = tuple(1 if i in sizes else n for i, n in enumerate(np.broadcast_shapes(*(v.lead for v in ins))))
        # Of a value that is alike on all devices each of them is an addend.
        times = prod(n for i, n in sizes.items() if all(v.lead[i] == 1 for v in ins))
        product = plan_product(ins, out, lead, env)
        return product if times == 1 else lambda ctx, x, y: product(ctx, x, y) * np.asarray(times, x.dtype)
    if isinstance(op.op, ScatterAdd):
        return plan_scatter_add_over(op.op, ins, outs, env, sizes)
    if isinstance(op.op, Reduce) and op.op.fn == "sum" and all(ins[0].lead[i] == n for i, n in sizes.items()):
        axes = (*op.leads, *(env.lead + ins[0].type.index(d) for d in op.op.dims))
        left = [i for i in range(env.lead + len(ins[0].type.dims)) if i < env.lead or i not in axes]
        return lambda ctx, x: _at(sum_over(x, axes), left)
    every = replace(out, lead=tuple(sizes.get(i, n) for i, n in enumerate(out.lead)))
    each = plan(op.op, ins, (every,), env)

    def summed(ctx: CallContext, *operands: Any) -> Array:
        x: Array = each(ctx, *operands)
        for i, n in sizes.items():
            x = reduce_lead(x, i, n, "sum")
        return x

    whole = _whole_take(op.op, op.leads, ins, out, env) if isinstance(op.op, Take) else None
    if whole is None:
        return summed
    return lambda ctx, x, i: summed(ctx, x, i) if isinstance(x, DiskArray) else whole(ctx, x, i)


def _at(x: Array, axes: Sequence[int]) -> Array:
    """With these axes alone; others are of size 1."""
    return x.reshape(tuple([x.shape[i] for i in axes]))


def _whole_take(op: Take, leads: Sequence[int], ins: Sequence[LocalValue], out: LocalValue, env: Env) -> Kernel | None:
    """Rows of a table of which each device has a part: those of the parts in a row. None where it is another sum."""
    from runtime.numpy import plan

    table, index = ins
    at = table.type.index(op.dim)
    split = [env.lead_axes.index(a) if a in env.lead_axes else -1 for a in table.axes[at]]
    rows = prod(table.lead[i] for i in split if i >= 0) * table.type.size(op.dim)
    if sorted(split) != sorted(leads) or rows != table.logical.size(op.dim) or any(index.lead[i] != 1 for i in leads):
        return None
    lead, place = len(table.lead), len(table.lead) + at
    order = [i for i in range(lead) if i not in split] + list(range(lead, place)) + split
    order += list(range(place, lead + len(table.type.dims)))
    dims = tuple(replace(d, size=rows) if d.name == op.dim else d for d in table.type.dims)
    shape = (*(1 if i in split else n for i, n in enumerate(table.lead)), *(d.size for d in dims))
    axes = tuple(() if i == at else a for i, a in enumerate(table.axes))
    whole = LocalValue(Type(table.type.dtype, dims), shape[:lead], table.logical, axes)
    take = plan(op, (whole, index), (out,), env)
    return lambda ctx, x, i: take(ctx, x.transpose(order).reshape(shape), i)
