"""Kernels: what the ops compute, in numpy. `plan` prepares one call of an op; the closure is then called many times.

    kernel = plan(op, ins, outs, env)      # local types, lead axes, offsets: everything but the data
    with quiet():
        result = kernel(Context(micro=3, seed=7), *arrays)     # an array, or a tuple where the op has several results

A kernel registers itself: `@kernel(Op)` above its planner, in any module of this folder.

Kernels never write to their operands. Results may be views of operands (read-only where elements are shared), and may
lie in memory in another order than their dims: numpy's strides tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from compiler.ops.base import Op
from runtime.numpy.base import PLANNERS as PLANNERS
from runtime.numpy.base import STORAGE, CallContext, Env, Into, Kernel, LocalValue, quiet, rounded
from runtime.numpy.fused import Fused, fuse
from runtime.numpy.fused_plan import plan_fused
from runtime.numpy.summed import Summed, plan_summed
from runtime.numpy.unfolded import Unfolded, plan_unfolded, unfold

__all__ = [
    "PLANNERS",
    "STORAGE",
    "CallContext",
    "Env",
    "Into",
    "Kernel",
    "LocalValue",
    "fuse",
    "plan",
    "quiet",
    "rounded",
    "unfold",
]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")


def plan(op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """A closure that computes `op` on arrays of these local values; KeyError for ops that are not computation."""
    if isinstance(op, Fused):
        return plan_fused(op, ins, outs, env)
    if isinstance(op, Summed):
        return plan_summed(op, ins, outs, env)
    if isinstance(op, Unfolded):
        return plan_unfolded(op, ins, outs, env)
    return PLANNERS[type(op)](op, ins, outs, env)
