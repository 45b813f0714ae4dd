"""Moves between memories."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.memory.tiers import FILES
from compiler.ops.move import Move
from runtime.backend import Renewing
from runtime.numpy.base import Array, CallContext, Env, Kernel, LocalValue, kernel
from runtime.numpy.disk import DiskArray, PartsArray


@kernel(Move)
def plan_move(op: Move, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """All memories of devices are this process's, but for those that are files."""
    if op.target in FILES:
        return Renewing(lambda ctx, x, *over: DiskArray.of(x, env.lead), _written)
    return lambda ctx, x, *over: x.read() if isinstance(x, PartsArray) else x


def _written(ctx: CallContext, x: Array, over: Array | DiskArray) -> None:
    over[...] = x
