"""Kernels: what the ops compute, in numpy. `plan` prepares one call of an op; the closure is then called many times.

    kernel = plan(op, ins, outs, env)      # local types, lead axes, offsets: everything but the data
    with quiet():
        result = kernel(Context(micro=3, seed=7), *arrays)     # an array, or a tuple where the op has several results

Kernels never write to their operands. Results may be views of operands (read-only where elements are shared), and may
lie in memory in another order than their dims: numpy's strides tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Cumsum, Reduce, TopK
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Slice, Split
from compiler.ops.window import Fold, Window
from runtime.numpy import contract, create, elementwise, index, reduce, shape, window
from runtime.numpy.base import STORAGE, Context, Env, Into, Kernel, LocalValue, quiet, rounded
from runtime.numpy.fused import Fused, fuse
from runtime.numpy.fused_plan import plan_fused

__all__ = ["PLANNERS", "STORAGE", "Context", "Env", "Into", "Kernel", "LocalValue", "fuse", "plan", "quiet", "rounded"]

PLANNERS: dict[type[Op], Callable[[Any, Sequence[LocalValue], Sequence[LocalValue], Env], Kernel]] = {
    Map: elementwise.plan_map,
    Cast: elementwise.plan_cast,
    Broadcast: elementwise.plan_broadcast,
    Transpose: elementwise.plan_transpose,
    StopGradient: elementwise.plan_same,
    Rename: elementwise.plan_same,
    Contract: contract.plan_contract,
    Reduce: reduce.plan_reduce,
    Cumsum: reduce.plan_cumsum,
    TopK: reduce.plan_top_k,
    Split: shape.plan_split,
    Merge: shape.plan_merge,
    Slice: shape.plan_slice,
    Pad: shape.plan_pad,
    Concat: shape.plan_concat,
    Flip: shape.plan_flip,
    Take: index.plan_take,
    ScatterAdd: index.plan_scatter_add,
    Iota: create.plan_iota,
    Full: create.plan_full,
    Random: create.plan_random,
    Window: window.plan_window,
    Fold: window.plan_fold,
}


def plan(op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """A closure that computes `op` on arrays of these local values; KeyError for ops that are not computation."""
    if isinstance(op, Fused):
        return plan_fused(op, ins, outs, env)
    return PLANNERS[type(op)](op, ins, outs, env)
