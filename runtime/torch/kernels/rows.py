"""Lists of rows: each number once, and the rows of tables that it names."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from runtime.backend import Kernel, Renewing
from runtime.torch.base import NARROW, STORAGE, Standpoint, TorchCall, Values, kernel


@kernel(UniqueRows)
def plan_unique_rows(op: UniqueRows, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the rows of each number, added up, in the slots of the parts of the table that are here."""
    out = outs[0].type
    at = out.index(op.slot.name)
    columns = tuple(n for n in out.names if n != op.slot.name)
    width, sizes = prod(out.size(n) for n in columns), tuple(out.size(n) for n in columns)
    each, piece, slots = op.slot.size // op.parts, -(-op.dim.size // op.parts), out.size(op.slot.name)
    pairs = [(src.type, index.type) for src, index in zip(ins[::2], ins[1::2], strict=True)]
    perms = [(*map(src.index, index.names), *map(src.index, columns)) for src, index in pairs]
    offset, storage = where.offset(outs[0], at), STORAGE[out.dtype]
    wide = torch.float32 if out.dtype in NARROW else storage

    def unique(ctx: TorchCall, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        first = offset(ctx.micro) // each * piece
        last = min(first + slots // each * piece, op.dim.size)
        keys = torch.cat([i.reshape(-1) for i in tensors[1::2]]).to(torch.int64)
        values = torch.cat([x.permute(p).reshape(-1, width) for x, p in zip(tensors[::2], perms, strict=True)])
        inside = ((keys >= first) & (keys < last)).nonzero().reshape(-1)
        found, inverse = torch.unique(keys[inside], return_inverse=True)
        owner = (found - first) // piece
        places = owner * each + torch.arange(len(found), device=keys.device) - torch.searchsorted(owner, owner)
        rows = torch.zeros((slots, width), dtype=wide, device=values.device)
        rows.index_add_(0, places[inverse], values[inside].to(wide))
        numbers = torch.full((slots,), -1, dtype=torch.int32, device=keys.device)
        numbers[places] = found.to(torch.int32)
        return rows.to(storage).view(slots, *sizes).movedim(0, at), numbers

    return unique


@kernel(ReadRows)
def plan_read_rows(op: ReadRows, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans rows of a table by number, zeros for those that are not here."""
    table = ins[0].type
    at = table.index(op.dim)
    place = _places(table.size(op.dim), where.offset(ins[0], at))

    def read(ctx: TorchCall, x: Tensor, numbers: Tensor) -> Tensor:
        local, slots = place(ctx, numbers)
        out = torch.zeros(outs[0].type.shape, dtype=x.dtype, device=x.device)
        return out.index_copy_(at, slots, x.index_select(at, local))

    return read


@kernel(WriteRows)
def plan_write_rows(op: WriteRows, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a table in which the rows of these numbers are replaced."""
    table, rows, numbers = (v.type for v in ins)
    at = table.index(op.dim)
    place = _places(table.size(op.dim), where.offset(ins[0], at))
    perm = tuple(rows.index(numbers.names[0] if n == op.dim else n) for n in table.names)

    def renew(ctx: TorchCall, x: Tensor, new: Tensor, numbers: Tensor) -> None:
        local, slots = place(ctx, numbers)
        x.index_copy_(at, local, new.permute(perm).index_select(at, slots))

    def write(ctx: TorchCall, x: Tensor, new: Tensor, numbers: Tensor) -> Tensor:
        out = x.clone()
        renew(ctx, out, new, numbers)
        return out

    return Renewing(write, renew)


def _places(count: int, offset: Callable[[int], int]) -> Callable[[TorchCall, Tensor], tuple[Tensor, Tensor]]:
    """Where rows are in this piece of a table, of those that are there, and their slots."""

    def places(ctx: TorchCall, numbers: Tensor) -> tuple[Tensor, Tensor]:
        local = numbers.to(torch.int64) - offset(ctx.micro)
        slots = ((numbers >= 0) & (local >= 0) & (local < count)).nonzero().reshape(-1)
        return local[slots], slots

    return places
