"""A second backend, in a few lines of plain Python: arrays are lists of numbers seen through strides.

It takes nothing from numpy but the definition of initial values, and arrays where logical ones go in or come out.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from compiler.graph import FLOATS, Type
from compiler.memory.tiers import FIRST
from compiler.model import Init
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.move import Move
from compiler.ops.reduce import Reduce
from compiler.ops.shape import Rename
from runtime.backend import Index, Kernel, Kernels, LocalValue, Position, Shape
from runtime.numpy.initial import init_array

kernel = Kernels()
Values = Sequence[LocalValue]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Numbers in a list, which other arrays may show as well."""

    cells: list[Any]
    start: int
    shape: Shape
    strides: Shape

    @staticmethod
    def of(values: list[Any], shape: Shape) -> Cells:
        """A new array, row-major."""
        strides, n = [], 1
        for size in reversed(shape):
            strides.append(n)
            n *= size
        assert len(values) == n
        return Cells(values, 0, shape, tuple(reversed(strides)))

    def along(self, shape: Shape, strides: Shape) -> Iterator[int]:
        """The places of elements in the list as a walk over `shape` meets them, the last dim fastest."""
        places = [self.start]
        for size, stride in zip(shape, strides, strict=True):
            places = [p + i * stride for p in places for i in range(size)]
        return iter(places)

    def places(self) -> Iterator[int]:
        return self.along(self.shape, self.strides)

    def values(self) -> list[Any]:
        return [self.cells[p] for p in self.places()]

    def seen(self, value: LocalValue, names: Sequence[str], sizes: Mapping[str, int]) -> list[Any]:
        """The elements as a walk over dims of these names meets them; those that the value lacks repeat it."""
        own = dict(zip(value.type.names, self.strides, strict=True))
        return [self.cells[p] for p in self.along(tuple(sizes[n] for n in names), tuple(own.get(n, 0) for n in names))]


class Lists:
    """The backend."""

    calls = 0

    def plan(self, op: Op, ins: Values, outs: Values, position: Position) -> Kernel:
        self.calls += 1
        return kernel.plan(op, ins, outs, position)

    def makes(self, op: Op) -> bool:
        return False

    def plan_over(
        self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position, operand: int
    ) -> Kernel | None:
        return None

    def context(self, micro: int, seed: int) -> tuple[int, int]:
        return micro, seed

    def initial(self, init: Init, name: str, type: Type, seed: int, region: Sequence[tuple[int, int]]) -> Cells:
        return self.from_host(init_array(init, name, type, seed, region), type.dtype)

    def empty(self, shape: Shape, dtype: str, memory: str = FIRST) -> Cells:
        return self.full(shape, dtype, -99)

    def full(self, shape: Shape, dtype: str, value: float, memory: str = FIRST) -> Cells:
        return Cells.of([_number(value, dtype)] * math.prod(shape), shape)

    def own(self, x: Cells) -> Cells:
        return self.copy(x)

    def copy(self, x: Cells) -> Cells:
        return Cells.of(x.values(), x.shape)

    def shape(self, x: Cells) -> Shape:
        return x.shape

    def part(self, x: Cells, index: Index) -> Cells:
        start, shape = x.start, list(x.shape)
        for i, s in enumerate(index):
            low, high, step = s.indices(x.shape[i])
            assert step == 1
            start, shape[i] = start + low * x.strides[i], max(0, high - low)
        return Cells(x.cells, start, tuple(shape), x.strides)

    def element(self, x: Cells, i: int) -> Cells:
        return Cells(x.cells, x.start + i * x.strides[0], x.shape[1:], x.strides[1:])

    def concat(self, parts: Sequence[Cells], dim: int) -> Cells:
        shape = list(parts[0].shape)
        shape[dim] = sum(p.shape[dim] for p in parts)
        out, at = self.empty(tuple(shape), "f64"), 0
        for p in parts:
            self.assign(self.part(out, (*(slice(None),) * dim, slice(at, at + p.shape[dim]))), p)
            at += p.shape[dim]
        return out

    def assign(self, into: Cells, x: Cells) -> None:
        assert into.shape[len(into.shape) - len(x.shape) :] == x.shape
        for place, value in zip(into.places(), x.values(), strict=True):
            into.cells[place] = value

    def accumulate(self, into: Cells, x: Cells, fn: str) -> None:
        assert into.shape[len(into.shape) - len(x.shape) :] == x.shape
        for place, value in zip(into.places(), x.values(), strict=True):
            into.cells[place] = max(into.cells[place], value) if fn == "max" else into.cells[place] + value

    def rounded(self, x: Cells, dtype: str) -> Cells:
        assert dtype not in ("bf16", "f16", "f32"), "these are Python's own numbers"
        return x

    def from_host(self, array: Any, dtype: str, memory: str = FIRST) -> Cells:
        return Cells.of([_number(v, dtype) for v in array.reshape(-1).tolist()], array.shape)

    def cached(self, x: Cells, rows: int) -> tuple[Cells, tuple[Cells, ...]]:
        return x, (x,)

    def to_host(self, x: Cells) -> Any:
        return np.array(x.values()).reshape(x.shape)


def _number(value: Any, dtype: str) -> Any:
    return float(value) if dtype in FLOATS else bool(value) if dtype == "bool" else int(value)


def _sizes(*values: LocalValue) -> dict[str, int]:
    return {d.name: d.size for v in values for d in v.type.dims}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg,
    "pow": operator.pow, "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "rsqrt": lambda x: 1 / math.sqrt(x),
    "tanh": math.tanh, "erf": math.erf, "cos": math.cos, "maximum": max, "minimum": min, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
    "where": lambda c, x, y: x if c else y,
}  # fmt: skip


@kernel(Map)
def plan_map(op: Map, ins: Values, outs: Values, position: Position) -> Kernel:
    names, sizes, f = outs[0].type.names, _sizes(*outs), FUNCTIONS[op.fn]

    def run(ctx: Any, *xs: Cells) -> Cells:
        columns = iter([x.seen(v, names, sizes) for x, v in zip(xs, ins, strict=True)])
        n = math.prod(outs[0].shape)
        rows = zip(*(next(columns) if s is None else [s] * n for s in op.slots), strict=True)
        return Cells.of([f(*row) for row in rows], outs[0].shape)

    return run


@kernel(Cast)
def plan_cast(op: Cast, ins: Values, outs: Values, position: Position) -> Kernel:
    return lambda ctx, x: Cells.of([_number(v, op.dtype) for v in x.values()], x.shape)


@kernel(Broadcast, Transpose)
def plan_view(op: Broadcast | Transpose, ins: Values, outs: Values, position: Position) -> Kernel:
    def run(ctx: Any, x: Cells) -> Cells:
        own = dict(zip(ins[0].type.names, x.strides, strict=True))
        return Cells(x.cells, x.start, outs[0].shape, tuple(own.get(n, 0) for n in outs[0].type.names))

    return run


@kernel(Rename, StopGradient, Move)
def plan_same(op: Op, ins: Values, outs: Values, position: Position) -> Kernel:
    return lambda ctx, x, *over: x


def _in_rows(values: list[Any], rows: int) -> Iterator[list[Any]]:
    n = len(values) // rows if rows else 0
    return (values[i * n : (i + 1) * n] for i in range(rows))


@kernel(Contract)
def plan_contract(op: Contract, ins: Values, outs: Values, position: Position) -> Kernel:
    sizes, kept = _sizes(*ins), outs[0].type.names
    names = (*kept, *(n for n in sizes if n not in kept))

    def run(ctx: Any, x: Cells, y: Cells) -> Cells:
        products = [a * b for a, b in zip(x.seen(ins[0], names, sizes), y.seen(ins[1], names, sizes), strict=True)]
        return Cells.of([math.fsum(r) for r in _in_rows(products, math.prod(outs[0].shape))], outs[0].shape)

    return run


@kernel(Reduce)
def plan_reduce(op: Reduce, ins: Values, outs: Values, position: Position) -> Kernel:
    names, sizes, fn = (*outs[0].type.names, *op.dims), _sizes(*ins), max if op.fn == "max" else math.fsum

    def run(ctx: Any, x: Cells) -> Cells:
        rows = _in_rows(x.seen(ins[0], names, sizes), math.prod(outs[0].shape))
        return Cells.of([_number(fn(r), outs[0].type.dtype) for r in rows], outs[0].shape)

    return run


def _indices(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    for at in np.ndindex(*(sizes[n] for n in names)):
        yield dict(zip(names, at, strict=True))


def _place(x: Cells, value: LocalValue, at: Mapping[str, int]) -> int:
    return x.start + sum(at[n] * s for n, s in zip(value.type.names, x.strides, strict=True))


@kernel(Take)
def plan_take(op: Take, ins: Values, outs: Values, position: Position) -> Kernel:
    table, index = ins
    first, rows = position.offset(table, table.type.index(op.dim)), table.type.size(op.dim)

    def run(ctx: Any, x: Cells, i: Cells) -> Cells:
        found = []
        for at in _indices(outs[0].type.names, _sizes(*outs)):
            row = i.cells[_place(i, index, at)] - first(ctx[0])
            found.append(x.cells[_place(x, table, {**at, op.dim: row})] if 0 <= row < rows else 0.0)
        return Cells.of(found, outs[0].shape)

    return run


@kernel(ScatterAdd)
def plan_scatter_add(op: ScatterAdd, ins: Values, outs: Values, position: Position) -> Kernel:
    (source, index), out, dim = ins, outs[0], op.dim.name
    first, rows = position.offset(out, out.type.index(dim)), out.type.size(dim)

    def run(ctx: Any, x: Cells, i: Cells) -> Cells:
        total = Cells.of([0.0] * math.prod(out.shape), out.shape)
        for at in _indices(source.type.names, _sizes(source)):
            row = i.cells[_place(i, index, at)] - first(ctx[0])
            if 0 <= row < rows:
                total.cells[_place(total, out, {**at, dim: row})] += x.cells[_place(x, source, at)]
        return total

    return run


@kernel(Iota)
def plan_iota(op: Iota, ins: Values, outs: Values, position: Position) -> Kernel:
    (n,), first = outs[0].shape, position.offset(outs[0], 0)
    return lambda ctx: Cells.of([position.start + first(ctx[0]) + i for i in range(n)], (n,))


@kernel(Full)
def plan_full(op: Full, ins: Values, outs: Values, position: Position) -> Kernel:
    return lambda ctx: Cells([_number(op.value, op.dtype)], 0, outs[0].shape, (0,) * len(outs[0].shape))


_ALL = 2**64 - 1


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _ALL
    return x ^ x >> 31


def _hashed(key: int, *words: int) -> int:
    for word in words:
        key = _mix((key + word) * 0x9E3779B97F4A7C15 + 0x94D049BB133111EB & _ALL)
    return key


@kernel(Random)
def plan_random(op: Random, ins: Values, outs: Values, position: Position) -> Kernel:
    out = outs[0]
    offsets = [position.offset(out, i) for i in range(len(out.type.dims))]
    strides = [math.prod(out.logical.shape[i + 1 :]) for i in range(len(out.type.dims))]

    def run(ctx: Any, *xs: Cells) -> Cells:
        key = _hashed(ctx[1] % 2**64, crc32(op.stream.encode()), *(x.values()[0] for x in xs))
        first = [f(ctx[0]) for f in offsets]
        found = []
        for at in np.ndindex(*out.shape):
            where = sum((a + f) * s for a, f, s in zip(at, first, strides, strict=True))
            found.append((_hashed(key, where) >> 11) * 2.0**-53)
        return Cells.of(found, out.shape)

    return run
