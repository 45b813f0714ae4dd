"""Taking rows of a table, adding rows up, and replacing rows.

Rows of all tables (one per combination of batched dims) are numbered consecutively: kernels work on a matrix of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from compiler.graph import Type
from compiler.ops.index import Scatter, ScatterAdd, Take
from dsl.data import dataclass
from runtime.backend import Kernel, Renewing
from runtime.torch.base import NARROW, STORAGE, Standpoint, TorchCall, Values, kernel


@dataclass(frozen=True, slots=True)
class _Rows:
    """Numbering of the rows of tables `batched dims + (rows,)` by the elements of an index."""

    index: Type
    batched: tuple[str, ...]  # dims of both table and index, in the table's order
    rows: int
    offset: Callable[[int], int]

    def number(self, ctx: TorchCall, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Row numbers of the shape of the index, and where they are inside the table (None: all)."""
        local = index.to(torch.int64)
        first = self.offset(ctx.micro)
        if first:
            local = local - first
        inside: Tensor | None = (local >= 0) & (local < self.rows)
        if index.device.type == "cpu" and bool(inside.all()):  # type: ignore[union-attr]
            inside = None
        stride, rank = self.rows, len(self.index.dims)
        for n in reversed(self.batched):
            axis, size = self.index.index(n), self.index.size(n)
            shape = [1] * rank
            shape[axis] = size
            local = local + (torch.arange(size, device=index.device) * stride).view(shape)
            stride *= size
        return local, inside


@dataclass(frozen=True, slots=True)
class _Table:
    """A table's dims in the order batched, rows, others; and the way back."""

    batched: tuple[str, ...]
    others: tuple[str, ...]
    there: tuple[int, ...]
    back: tuple[int, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def of(type: Type, dim: str, index: Type) -> _Table:
        batched = tuple(n for n in type.names if index.has(n))
        others = tuple(n for n in type.names if n != dim and n not in batched)
        natural = (*batched, dim, *others)
        return _Table(
            batched,
            others,
            tuple(type.index(n) for n in natural),
            tuple(natural.index(n) for n in type.names),
            tuple(type.size(n) for n in natural),
        )

    def width(self, type: Type) -> int:
        return prod(type.size(n) for n in self.others)


@kernel(Take)
def plan_take(op: Take, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans rows of a table by number; numbers of rows that lie elsewhere give zeros."""
    table, index = (v.type for v in ins)
    form = _Table.of(table, op.dim, index)
    width, rest = form.width(table), tuple(table.size(n) for n in form.others)
    rows = _Rows(index, form.batched, table.size(op.dim), where.offset(ins[0], table.index(op.dim)))

    def take(ctx: TorchCall, x: Tensor, i: Tensor) -> Tensor:
        number, inside = rows.number(ctx, i)
        matrix, flat = x.permute(form.there).reshape(-1, width), number.reshape(-1)
        if inside is None:
            return matrix.index_select(0, flat).view(*i.shape, *rest)
        there = inside.reshape(-1)
        found = matrix.index_select(0, torch.where(there, flat, 0))
        return torch.where(there[:, None], found, torch.zeros((), dtype=x.dtype, device=x.device)).view(*i.shape, *rest)

    return take


@kernel(ScatterAdd)
def plan_scatter_add(op: ScatterAdd, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans sums of rows by number, into zeros; 16-bit rows are added up in f32."""
    (src, index), out = (v.type for v in ins), outs[0].type
    form = _Table.of(out, op.dim.name, index)
    perm, width = tuple(src.index(n) for n in (*index.names, *form.others)), form.width(out)
    rows = _Rows(index, form.batched, out.size(op.dim.name), where.offset(outs[0], out.index(op.dim.name)))
    storage, count = STORAGE[out.dtype], prod(form.sizes[: len(form.batched) + 1])
    wide = torch.float32 if out.dtype in NARROW else storage

    def scatter_add(ctx: TorchCall, x: Tensor, i: Tensor) -> Tensor:
        number, inside = rows.number(ctx, i)
        values, keys = x.permute(perm).reshape(-1, width).to(wide), number.reshape(-1)
        if inside is not None:
            there = inside.reshape(-1)
            values = torch.where(there[:, None], values, torch.zeros((), dtype=wide, device=x.device))
            keys = torch.where(there, keys, 0)
        total = torch.zeros((count, width), dtype=wide, device=x.device).index_add_(0, keys, values)
        return total.to(storage).view(form.sizes).permute(form.back)

    return scatter_add


def next_to_each_other(numbers: Tensor) -> int | None:
    """The first of these numbers `[n]`, if each is the one before it and one; on a CPU."""
    found = numbers.tolist()
    return found[0] if found and found == list(range(found[0], found[0] + len(found))) else None


@kernel(Scatter)
def plan_scatter(op: Scatter, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a table in which the rows of these numbers are replaced; of rows named twice the last is kept."""
    table, src, index = (v.type for v in ins)
    form = _Table.of(table, op.dim, index)
    perm, width = tuple(src.index(n) for n in (*index.names, *form.others)), form.width(table)
    rows = _Rows(index, form.batched, table.size(op.dim), where.offset(ins[0], table.index(op.dim)))
    leading = form.sizes[: len(form.batched) + 1]
    count = prod(leading)
    alone = index.elements == prod(form.sizes[: len(form.batched)])  # each names a row of a table of its own
    at, along = table.index(op.dim), index.names[0] if len(index.dims) == 1 else ""
    straight = tuple(src.index(along if n == op.dim else n) for n in table.names) if along else ()

    def renew(ctx: TorchCall, x: Tensor, y: Tensor, i: Tensor) -> None:
        if straight and not form.batched and i.device.type == "cpu":
            first = next_to_each_other(i)
            if first is not None and 0 <= (first := first - rows.offset(ctx.micro)) <= rows.rows - len(i):
                x.narrow(at, first, len(i)).copy_(y.permute(straight))
                return
        number, inside = rows.number(ctx, i)
        keys, places = number.reshape(-1), torch.arange(number.numel(), device=x.device)
        if inside is not None:
            there = inside.reshape(-1)
            keys, places = keys[there], places[there]
        if not alone:
            # torch promises no order of writes: whose row is the last is found first, as a maximum.
            last = torch.full((count,), -1, dtype=torch.int64, device=x.device).scatter_reduce_(0, keys, places, "amax")
            chosen = last.index_select(0, keys) == places
            keys, places = keys[chosen], places[chosen]
        values = y.permute(perm).reshape(-1, width).index_select(0, places)
        table = x.permute(form.there)
        table[torch.unravel_index(keys, leading)] = values.view(-1, *form.sizes[len(leading) :])

    def scatter(ctx: TorchCall, x: Tensor, y: Tensor, i: Tensor) -> Tensor:
        out = x.clone()
        renew(ctx, out, y, i)
        return out

    return Renewing(scatter, renew)
