"""Lists of rows: each number once, and the rows of tables that it names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from runtime.backend import Renewing
from runtime.numpy.base import Array, CallContext, Env, Kernel, LocalValue, kernel, rounded
from runtime.numpy.disk import DiskArray, PartsArray


@kernel(UniqueRows)
def plan_unique_rows(op: UniqueRows, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans the rows of each number, added up, in the slots of the parts of the table that are here."""
    lead, out = env.lead, outs[0]
    at = out.type.index(op.slot.name)
    columns = tuple(n for n in out.type.names if n != op.slot.name)
    width, sizes = prod(out.type.size(n) for n in columns), tuple(out.type.size(n) for n in columns)
    each, piece = op.slot.size // op.parts, -(-op.dim.size // op.parts)
    here = out.type.size(op.slot.name) // each
    perms = [
        (*(src.type.index(n) for n in index.type.names), *(src.type.index(n) for n in columns))
        for src, index in zip(ins[::2], ins[1::2], strict=True)
    ]
    offset, dtype = env.offset(out, at), out.type.dtype

    def unique(ctx: CallContext, *arrays: Array) -> tuple[Array, Array]:
        first = offset(ctx)
        spans = np.broadcast_shapes(*(a.shape[:lead] for a in arrays), np.shape(first) if lead else ())
        index_spans = np.broadcast_shapes(*(a.shape[:lead] for a in arrays[1::2]), np.shape(first) if lead else ())
        rows = np.zeros((*spans, here * each, width), arrays[0].dtype)
        found = np.full((*index_spans, here * each), -1, np.int32)
        for where in _positions(spans):
            picked = [_at(a, where, lead) for a in arrays]
            keys = np.concatenate([i.reshape(-1) for i in picked[1::2]])
            values = np.concatenate(
                [x.transpose(p).reshape(-1, width) for x, p in zip(picked[::2], perms, strict=True)]
            )
            part = int(_at(np.asarray(first), where, lead)) // each if lead else int(first) // each
            _fill(rows[where], found[_clipped(where, index_spans)], keys, values, (part, piece, each, op.dim.size))
        shaped = np.moveaxis(rows.reshape(*spans, here * each, *sizes), lead, lead + at)
        return rounded(shaped, dtype), found

    return unique


def _fill(rows: Array, found: Array, keys: Array, values: Array, where: tuple[int, int, int, int]) -> None:
    """Put sums of rows and their numbers into slots; where: the first part, rows and slots of each, rows of all."""
    part, piece, each, total = where
    first, parts = part * piece, len(found) // each
    last = min(first + parts * piece, total)
    inside = np.flatnonzero((keys >= first) & (keys < last))
    if not len(inside):
        return
    order = inside[np.argsort(keys[inside], kind="stable")]
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    numbers = ordered[starts]
    owner = (numbers - first) // piece
    slots = owner * each + np.arange(len(numbers)) - np.searchsorted(owner, owner)
    found[slots] = numbers
    rows[slots] = np.add.reduceat(values[order], starts, axis=0)


@kernel(ReadRows)
def plan_read_rows(op: ReadRows, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans rows of a table by number, zeros for those that are not here."""
    lead, table = env.lead, ins[0]
    at, count = table.type.index(op.dim), table.type.size(op.dim)
    offset = env.offset(table, at)

    def read(ctx: CallContext, x: Array | PartsArray, numbers: Array) -> Array:
        first = offset(ctx)
        spans = np.broadcast_shapes(x.shape[:lead], numbers.shape[:lead], np.shape(first) if lead else ())
        slots = numbers.shape[-1]
        out = np.zeros((*spans, *x.shape[lead : lead + at], slots, *x.shape[lead + at + 1 :]), x.dtype)
        for where in _positions(spans):
            local, inside = _local(numbers, first, where, lead, count)
            target: Array = np.moveaxis(out[where], at, 0)
            mine = _first(_at(x, where, lead), at)
            here = local[inside]
            target[inside] = mine.to_renew(here) if isinstance(mine, PartsArray) else mine[here]
        return out

    return read


@kernel(WriteRows)
def plan_write_rows(op: WriteRows, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a table in which the rows of these numbers are replaced."""
    lead, (table, rows, numbers) = env.lead, ins
    at, count = table.type.index(op.dim), table.type.size(op.dim)
    (slot,) = numbers.type.names
    names = tuple(slot if n == op.dim else n for n in table.type.names)
    perm = tuple(rows.type.index(n) for n in names)
    offset = env.offset(table, at)

    def put(ctx: CallContext, out: Array | PartsArray, new: Array, numbers: Array) -> None:
        first = offset(ctx)
        for where in _positions(out.shape[:lead]):
            local, inside = _local(numbers, first, where, lead, count)
            target, here = _first(out[where], at), local[inside]
            rows = np.moveaxis(_at(new, where, lead).transpose(perm), at, 0)[inside]
            if isinstance(target, PartsArray):
                target.put(here, rows)
            else:
                target[here] = rows

    def write(ctx: CallContext, x: Array | DiskArray, new: Array, numbers: Array) -> Array | DiskArray:
        first = offset(ctx)
        leads = (a.shape[:lead] for a in (x, new, numbers))
        spans = np.broadcast_shapes(*leads, np.shape(first) if lead else ())
        whole = np.broadcast_to(x, spans + x.shape[lead:])
        out = DiskArray.of(whole, lead) if isinstance(x, DiskArray) else whole.copy()
        put(ctx, out, new, numbers)
        return out

    return Renewing(write, put)


def _local(numbers: Array, first: Array | int, where: tuple[int, ...], lead: int, count: int) -> tuple[Array, Array]:
    """Where rows are in the piece of a device, and which of them are there."""
    start = int(_at(np.asarray(first), where, lead)) if lead else int(first)
    local = _at(numbers, where, lead).astype(np.intp) - start
    named = _at(numbers, where, lead) >= 0
    return local, np.flatnonzero(named & (local >= 0) & (local < count))


def _first(x: Any, axis: int) -> Any:
    """A view with this axis before the others."""
    return x.transpose((axis, *(i for i in range(x.ndim) if i != axis)))


def _positions(spans: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return product(*map(range, spans))


def _clipped(where: tuple[int, ...], spans: tuple[int, ...]) -> tuple[int, ...]:
    """The same place in an array that may be there once along an axis."""
    return tuple(i if n > 1 else 0 for i, n in zip(where, spans, strict=True))


def _at(x: Any, where: tuple[int, ...], lead: int) -> Any:
    """What a device has of a stacked array."""
    return x[_clipped(where, x.shape[:lead])] if x.ndim >= lead and lead else x
