"""Caches of rows in the stacked executor: it has tables without them, for they change no value, and keeps account, for
each device, of which rows would be there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from compiler.ops.index import Take
from compiler.ops.rows import ReadRows, WriteRows
from compiler.program import StateDecl
from runtime.distribute import Array
from runtime.mesh import Mesh
from runtime.numpy import CallContext, Env, LocalValue
from runtime.numpy.cached import CachedTable

Tallies = dict[tuple[int, tuple[int, ...]], CachedTable]
"""By the slot of a buffer, and the place of a device in the mesh: a table whose rows have no columns."""

BY_ROW = (Take, ReadRows, WriteRows)


def tallied(
    op: Take | ReadRows | WriteRows, slot: int, decl: StateDecl, ins: Sequence[LocalValue], mesh: Mesh, env: Env
) -> Callable[[Any, CallContext, Array], None]:
    """Notes in the tallies of a group what an op asks of the caches of a buffer, by the numbers that it is given."""
    assert decl.cache is not None
    rows, count, lead = decl.cache.rows, ins[0].type.shape[0], mesh.lead
    offset = env.offset(ins[0], 0)

    def tally(g: Any, ctx: CallContext, numbers: Array) -> None:
        start = np.asarray(offset(ctx))
        first = start if start.ndim else start.reshape((1,) * lead)
        for where in product(*map(range, mesh.shape)):
            table = g.tallies.get((slot, where))
            if table is None:
                table = g.tallies[slot, where] = CachedTable(np.empty((count, 0), np.bool_), rows)
            own = numbers[_clipped(where, numbers.shape[:lead])].reshape(-1)
            local = own.astype(np.int64) - int(first[_clipped(where, first.shape)])
            there = local[(own >= 0) & (local >= 0) & (local < count)]
            if isinstance(op, Take):
                table.picked(there, 1)
            elif isinstance(op, ReadRows):
                table.to_renew(there)
            else:
                table.put(there, np.empty((len(there), 0), np.bool_))

    return tally


def _clipped(where: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same place in an array that is there once along an axis."""
    return tuple(i if n > 1 else 0 for i, n in zip(where, shape, strict=True))
