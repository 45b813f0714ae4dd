"""An op whose result is added up over devices as it is computed: no device's addend stands anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import numpy as np

from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.index import ScatterAdd
from dsl.data import dataclass
from runtime.distribute import reduce_lead
from runtime.numpy.base import Array, CallContext, Env, Kernel, LocalValue


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
    every = replace(out, lead=tuple(sizes.get(i, n) for i, n in enumerate(out.lead)))
    each = plan(op.op, ins, (every,), env)

    def summed(ctx: CallContext, *operands: Array) -> Array:
        x: Array = each(ctx, *operands)
        for i, n in sizes.items():
            x = reduce_lead(x, i, n, "sum")
        return x

    return summed
