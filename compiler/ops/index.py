"""Indexing: take rows of a table, and its adjoint, which adds rows up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

from compiler.graph import FLOATS, Dim, Type
from compiler.ops.base import Derive, Loop, Op, OpError
from compiler.ops.common import (
    expect_dim,
    expect_distinct,
    expect_dtype,
    expect_operands,
    listed,
    merged_sizes,
    names_of,
    pass_loops,
    rest,
    same_name_loop,
)
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Take(Op):
    """`result[i…, r…] = table[dim = index[i…], r…]`; operands table, index (int32).

    Result dims: the index's, then the table's others. Dims of both are matched (batched). An index outside the table
    gives 0, so that the pieces of a table split along `dim` sum to the whole's result.
    """

    mnemonic: ClassVar[str] = "take"
    builtin: ClassVar[str] = "take"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"),)
    reaches: ClassVar[int | None] = 0
    dim: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("take", inputs, 2)
        table, index = inputs
        expect_dim("take", table, self.dim)
        expect_dtype("take", index, ("int32",), "int32 indices")
        if index.has(self.dim):
            raise OpError(
                "E0205", f"take over `{self.dim}`: the index has a dim `{self.dim}` too", "rename the index's dim first"
            )
        merged_sizes("take", inputs)
        others = tuple(d for d in table.dims if d.name != self.dim and not index.has(d.name))
        return (Type(table.dtype, (*index.dims, *others)),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        table = Loop("sum", inputs[0].size(self.dim), (self.dim, None), (None,), placed=True)
        return (*pass_loops(inputs, outputs, outputs[0].names), table)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def sees_padding(self, i: int) -> bool:
        return False  # no index names a row that is not there


@dataclass(frozen=True, slots=True)
class ScatterAdd(Op):
    """The adjoint of `take`: `result[dim = index[i…], r…] += src[i…, r…]`; operands src, index (int32).

    `dims`: the result's dims in order, `dim` among them. Dims of the index that are among them are matched (batched),
    its others are summed. src has all dims of the index. Indices outside the result are dropped.
    """

    mnemonic: ClassVar[str] = "scatter_add"
    builtin: ClassVar[str] = "scatter_add"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("to", "dims"))
    derived: ClassVar[Mapping[str, Derive]] = {"dims": names_of}
    dim: Dim
    dims: tuple[str, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("scatter_add", inputs, 2)
        src, index = inputs
        name = self.dim.name
        expect_dtype("scatter_add", index, ("int32",), "int32 indices")
        expect_dtype("scatter_add", src, (*FLOATS, "int32"), "numbers")
        if src.has(name) or index.has(name):
            raise OpError("E0205", f"scatter_add into `{name}`: an operand has a dim `{name}` too", "rename it first")
        sizes = merged_sizes("scatter_add", inputs) | {name: self.dim.size}
        for n in index.names:
            expect_dim("scatter_add", src, n)
        expect_distinct("scatter_add", self.dims)
        expected = {name, *(n for n in src.names if not index.has(n))}
        if not expected <= set(self.dims) <= set(sizes):
            raise OpError(
                "E0204", f"scatter_add: the result needs dims {listed(sorted(expected))}, got {listed(self.dims)}"
            )
        return (Type(src.dtype, tuple(Dim(n, sizes[n]) for n in self.dims)),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        summed = [n for n in inputs[1].names if n not in self.dims]
        passed = [n for n in self.dims if n != self.dim.name]
        return (
            *pass_loops(inputs, outputs, passed),
            Loop("pass", outputs[0].size(self.dim.name), (None, None), (self.dim.name,), placed=True),
            *(same_name_loop("sum", n, inputs, outputs) for n in summed),
        )

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def sees_padding(self, i: int) -> bool:
        return i == 0  # what is added for an unused element of the index is zero

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return prod(d.size for d in inputs[1].dims if d.name not in self.dims)

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Scatter(Op):
    """`table` with `result[dim = index[i…], r…] = src[i…, r…]`; operands table, src, index (int32).

    Where several name one row, the last counts (in the order of the index's dims). Dims of both table and index are
    matched (batched). src has the index's dims and the table's others. Indices outside the table are dropped.
    """

    mnemonic: ClassVar[str] = "scatter"
    builtin: ClassVar[str] = "scatter"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"),)
    renews: ClassVar[int | None] = 0
    dim: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("scatter", inputs, 3)
        table, src, index = inputs
        expect_dim("scatter", table, self.dim)
        expect_dtype("scatter", index, ("int32",), "int32 indices")
        if index.has(self.dim):
            raise OpError("E0205", f"scatter over `{self.dim}`: the index has it, too", "rename the index's dim first")
        if src.dtype != table.dtype:
            help = "there is no implicit cast: `cast(x, compute)`"
            raise OpError("E0202", f"scatter: the rows are {src.dtype}, the table is {table.dtype}", help)
        merged_sizes("scatter", inputs)
        need = {*index.names, *table.names} - {self.dim}
        if set(src.names) != need:
            raise OpError("E0204", f"scatter: the rows need dims {listed(sorted(need))}, got {src}")
        return (table,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        table, _, index = inputs
        own = [n for n in index.names if not table.has(n)]
        return (
            *pass_loops(inputs, outputs, rest(table, self.dim)),
            Loop("pass", table.size(self.dim), (self.dim, None, None), (self.dim,), placed=True),
            *(same_name_loop("whole", n, inputs, outputs) for n in own),
        )

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0, 1}),)
