"""Taking rows of a table, and adding rows up.

Both number the rows of all tables (one per combination of lead axes and batched dims) consecutively and work on a
matrix of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from compiler.ops.index import Scatter, ScatterAdd, Take
from dsl.data import dataclass
from runtime.backend import Renewing
from runtime.numpy.base import Array, CallContext, Env, Kernel, LocalValue, Offset, finish, kernel, spread
from runtime.numpy.disk import PartsArray


@dataclass(frozen=True, slots=True)
class _Rows:
    """Numbering of the rows of stacked tables `lead + batched dims + (rows,)` by the elements of an index."""

    lead: int
    index_names: tuple[str, ...]
    batched: tuple[str, ...]  # dims of both table and index, in the table's order
    rows: int
    offset: Offset

    def number(self, ctx: CallContext, index: Array, table_lead: tuple[int, ...]) -> tuple[Array, Array | None]:
        """Row numbers (lead + index dims; leads broadcast), and where they are inside the table (None: all)."""
        rank = len(self.index_names)
        local = index - spread(self.offset(ctx), rank)
        inside: Array | None = (local >= 0) & (local < self.rows)
        if inside.all():  # type: ignore[union-attr]
            inside = None
        number: Array = local.astype(np.intp, copy=False)
        stride = self.rows
        for n in reversed(self.batched):
            axis = self.index_names.index(n)
            size = index.shape[self.lead + axis]
            number = number + spread(0, rank, axis, size) * stride
            stride *= size
        for i in reversed(range(self.lead)):
            n_lead = table_lead[i]
            if n_lead > 1:
                shape = [1] * (self.lead + rank)
                shape[i] = n_lead
                number = number + np.arange(n_lead).reshape(shape) * stride
            stride *= n_lead
        return number, inside


@kernel(Take)
def plan_take(op: Take, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans rows of a table by number; numbers of rows that lie elsewhere give zeros."""
    lead, (table, index) = env.lead, ins
    at = table.type.index(op.dim)
    batched = tuple(n for n in table.type.names if index.type.has(n))
    others = tuple(n for n in table.type.names if n != op.dim and n not in batched)
    perm = (*range(lead), *(lead + table.type.index(n) for n in (*batched, op.dim, *others)))
    width, rest = prod(table.type.size(n) for n in others), tuple(table.type.size(n) for n in others)
    rows = _Rows(lead, index.type.names, batched, table.type.size(op.dim), env.offset(table, at))

    offset, rank = rows.offset, len(index.type.names)

    def take(ctx: CallContext, x: Array | PartsArray, i: Array) -> Array:
        start = offset(ctx)
        if (
            not isinstance(x, PartsArray)
            and not batched
            and perm != tuple(range(len(perm)))
            and prod(i.shape[:lead]) == 1
            and np.size(start) == 1
        ):
            # Along a dim in the middle: a matrix of rows would be a copy of the whole table.
            local = i.reshape(i.shape[lead:]) - np.reshape(start, ())
            found = np.asarray(x).take(np.clip(local, 0, rows.rows - 1), axis=lead + at)
            inside = (local >= 0) & (local < rows.rows)
            if not inside.all():
                shape = (*(1,) * (lead + at), *inside.shape, *(1,) * (found.ndim - lead - at - rank))
                found = np.where(inside.reshape(shape), found, np.zeros((), x.dtype))
            return np.moveaxis(found, range(lead + at, lead + at + rank), range(lead, lead + rank))
        number, inside = rows.number(ctx, i, x.shape[:lead])
        parts = x.transpose(perm)

        def numbered(number: Array) -> Array:
            if isinstance(parts, PartsArray):
                return parts.picked(number, lead + len(batched) + 1).reshape(*number.shape, width)
            return parts.reshape(-1, width).take(number, axis=0)

        if inside is None:
            return numbered(number).reshape(number.shape + rest)
        inside = np.broadcast_to(inside, number.shape)
        out = np.zeros((*number.shape, width), x.dtype)
        out[inside] = numbered(number[inside])
        return out.reshape(number.shape + rest)

    return take


@kernel(ScatterAdd)
def plan_scatter_add(op: ScatterAdd, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans sums of rows by number, into zeros."""
    return plan_scatter_add_over(op, ins, outs, env, {})


def plan_scatter_add_over(
    op: ScatterAdd, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env, summed: Mapping[int, int]
) -> Kernel:
    """Plans sums of rows by number, of all devices along the lead axes `summed` (with their sizes) into one table."""
    lead, (src, index), out = env.lead, ins, outs[0]
    batched = tuple(n for n in out.type.names if index.type.has(n))
    others = tuple(n for n in out.type.names if n != op.dim.name and n not in batched)
    perm = (*range(lead), *(lead + src.type.index(n) for n in (*index.type.names, *others)))
    width, natural = prod(src.type.size(n) for n in others), (*batched, op.dim.name, *others)
    back = (*range(lead), *(lead + natural.index(n) for n in out.type.names))
    sizes = tuple(out.type.size(n) for n in natural)
    size = out.type.size(op.dim.name)
    rows = _Rows(lead, index.type.names, batched, size, env.offset(out, out.type.index(op.dim.name)))
    table_rows = prod(sizes[: len(batched) + 1])

    def scatter_add(ctx: CallContext, x: Array, i: Array) -> Array:
        source = x.transpose(perm)
        rank = len(index.type.names)
        offset = rows.offset(ctx)
        spans = np.broadcast_shapes(x.shape[:lead], i.shape[:lead], np.shape(offset) if lead else ())
        tables = tuple(1 if axis in summed else n for axis, n in enumerate(spans))
        number, inside = rows.number(ctx, i, tables)
        number = np.broadcast_to(number, spans + i.shape[lead:])
        source = np.broadcast_to(source, spans + source.shape[lead:])
        if inside is None:
            values, keys = source.reshape(-1, width), number.reshape(-1)
        else:
            inside = np.broadcast_to(inside, number.shape)
            values, keys = source.reshape(*source.shape[: lead + rank], width)[inside], number[inside]
        total = add_rows(values, keys, prod(tables) * table_rows)
        times = prod(n for axis, n in summed.items() if spans[axis] == 1)  # alike on all devices: each adds it
        if times != 1:
            total *= np.asarray(times, total.dtype)
        return total.reshape(tables + sizes).transpose(back)

    return finish(scatter_add, out.type.dtype)


@kernel(Scatter)
def plan_scatter(op: Scatter, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a table in which the rows of these numbers are replaced."""
    lead, (table, src, index) = env.lead, ins
    batched = tuple(n for n in table.type.names if index.type.has(n))
    others = tuple(n for n in table.type.names if n != op.dim and n not in batched)
    there = (*range(lead), *(lead + table.type.index(n) for n in (*batched, op.dim, *others)))
    perm = (*range(lead), *(lead + src.type.index(n) for n in (*index.type.names, *others)))
    at, rank = table.type.index(op.dim), len(index.type.names)
    size, offset = table.type.size(op.dim), env.offset(table, at)
    rest: tuple[Any, ...] = (slice(None),) * len(others)

    def put(ctx: CallContext, out: Array, y: Array, i: Array) -> None:
        spans = out.shape[:lead]
        if rank == 1 and not batched and i.size <= FEW and prod(spans) == i.size // i.shape[-1] == 1:
            first, rows, new = spread(offset(ctx), rank), out.transpose(there), y.transpose(perm)
            for k, number in enumerate((i - first).reshape(-1).tolist()):
                if 0 <= number < size:
                    rows[(..., number, *rest)] = new[(..., k, *rest)]
            return
        local = np.broadcast_to(i - spread(offset(ctx), rank), spans + i.shape[lead:])
        inside = (local >= 0) & (local < size)
        source = np.broadcast_to(y.transpose(perm), spans + tuple(y.shape[p] for p in perm[lead:]))
        where: list[Array] = [_along(local.ndim, k, n) for k, n in enumerate(spans)]
        where += [_along(local.ndim, lead + index.type.index(n), table.type.size(n)) for n in batched]
        chosen = [*np.broadcast_arrays(*where, local)]
        if not inside.all():
            chosen, source = [c[inside] for c in chosen], source[inside]
        out.transpose(there)[tuple(chosen)] = source  # of rows named twice the last is kept

    def scatter(ctx: CallContext, x: Array, y: Array, i: Array) -> Array:
        shift = offset(ctx)
        spans = np.broadcast_shapes(*(a.shape[:lead] for a in (x, y, i)), np.shape(shift) if lead else ())
        out = np.broadcast_to(x, spans + x.shape[lead:]).copy()
        put(ctx, out, y, i)
        return out

    return Renewing(scatter, put)


def _along(rank: int, axis: int, size: int) -> Array:
    """0, 1, 2, … along one of so many axes."""
    shape = [1] * rank
    shape[axis] = size
    return np.arange(size).reshape(shape)


_ONE_HOT_ROWS = 64
FEW = 8
"""Rows that are put one by one."""


def add_rows(values: Array, keys: Array, count: int) -> Array:
    """`count` rows; row k is the sum of the rows of `values` whose key is k, added in their order (deterministic)."""
    width = values.shape[1]
    out = np.zeros((count, width), values.dtype)
    if not len(keys):
        return out
    if width == 1 and values.dtype.kind == "f":
        out[:, 0] = np.bincount(keys, values[:, 0], count)
        return out
    if count <= _ONE_HOT_ROWS and values.dtype.kind == "f":
        one_hot = (keys[None, :] == np.arange(count)[:, None]).astype(values.dtype)
        np.matmul(one_hot, values, out=out)
        return out
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    out[ordered[starts]] = np.add.reduceat(values[order], starts, axis=0)
    return out
