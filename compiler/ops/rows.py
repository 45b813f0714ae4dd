"""Sparse gradients: lists of rows with their numbers, and the rows of tables that such a list names.

A *list* is rows `src[i…, r…]` of a table's dims `r…` and their numbers `index[i…]` along the table's dim `dim`: what a
`take` sends back. `unique_rows` makes *slots* of it: each number once, in order, with the sum of its rows; what is over
has the number -1. There are as many slots for each of `parts` equal pieces of the table (one after the other), so that
whoever has a piece of the table has the slots that belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

from compiler.graph import Dim, Type
from compiler.ops.base import Derive, Loop, Misuse, Op, OpError
from compiler.ops.common import (
    expect_dim,
    expect_dtype,
    expect_operands,
    merged_sizes,
    names_of,
    pass_loops,
    replace,
    rest,
    same_name_loop,
)
from dsl.data import dataclass


def _expect_parts(op: str, dim: Dim, slot: Dim, parts: int) -> None:
    if parts < 1 or slot.size % parts:
        raise OpError("E0206", f"{op}: {slot.size} slots are not those of {parts} equal pieces of `{dim.name}`")


@dataclass(frozen=True, slots=True)
class UniqueRows(Op):
    """Operands: src, index (int32) of one list or of several; results: rows `[r…]` with `slot` in the place of `dim`,
    and their numbers `[slot]`, ascending within a part, -1 where there is none.

    Rows of one number are added in the order of the lists (deterministic). Numbers outside of the table are dropped.
    `dims`: those of the first result, in order.
    """

    mnemonic: ClassVar[str] = "unique_rows"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        ("over", "dim"),
        ("in", "slot"),
        ("of", "parts"),
        ("to", "dims"),
    )
    derived: ClassVar[Mapping[str, Derive]] = {"dims": names_of}
    dim: Dim
    slot: Dim
    parts: int
    dims: tuple[str, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if not inputs or len(inputs) % 2:
            raise Misuse("unique_rows takes rows and their numbers, of one list or of several")
        _expect_parts("unique_rows", self.dim, self.slot, self.parts)
        sizes: dict[str, int] = {self.slot.name: self.slot.size}
        for src, index in zip(inputs[::2], inputs[1::2], strict=True):
            expect_dtype("unique_rows", index, ("int32",), "int32 numbers")
            if src.dtype != inputs[0].dtype:
                raise OpError("E0202", f"unique_rows: rows of {src.dtype} and of {inputs[0].dtype}")
            own = merged_sizes("unique_rows", (src, index))
            if {*rest(src, *index.names), self.slot.name} != set(self.dims) or not set(index.names) <= set(src.names):
                raise OpError("E0204", f"unique_rows: {src} are no rows of {', '.join(self.dims)} by {index}")
            sizes |= {n: own[n] for n in rest(src, *index.names)}
        rows = Type(inputs[0].dtype, tuple(Dim(n, sizes[n]) for n in self.dims))
        return rows, Type("int32", (self.slot,))

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        columns = rest(outputs[0], self.slot.name)
        lists = dict.fromkeys(n for index in inputs[1::2] for n in index.names)
        slots = Loop("pass", self.parts, (None,) * len(inputs), (self.slot.name, self.slot.name), placed=True)
        return (
            *pass_loops(inputs, outputs, columns),
            slots,
            *(same_name_loop("whole", n, inputs, outputs) for n in lists),
        )

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return ()

    def differentiable(self, i: int) -> bool:
        return False

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return sum(prod(d.size for d in index.dims) for index in inputs[1::2])

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ReadRows(Op):
    """`result[slot, r…] = table[dim = number[slot], r…]`, zeros for -1; operands table, numbers (of `unique_rows`).

    The table may lie in fewer `pieces` than the slots have `parts`: each then holds the rows of several parts.
    """

    mnemonic: ClassVar[str] = "read_rows"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("of", "parts"), ("in", "pieces"))
    reaches: ClassVar[int | None] = 0
    follows: ClassVar[int | None] = 1
    dim: str
    parts: int
    pieces: int

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("read_rows", inputs, 2)
        table, numbers = inputs
        slot = _slot("read_rows", table, numbers, self.dim, self.parts, self.pieces)
        return (replace(table, self.dim, slot),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        table, numbers = inputs
        (slot,) = numbers.names
        joint = Loop("pass", self.pieces, (self.dim, slot), (slot,), placed=True)
        within = Loop("minor", self.parts // self.pieces, (None, slot), (slot,))
        return (joint, within, *pass_loops(inputs, outputs, rest(table, self.dim)))

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def differentiable(self, i: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class WriteRows(Op):
    """The table with other rows at these numbers (of `unique_rows`; -1: nowhere); operands table, rows, numbers.

    `pieces`: in which the table lies.
    """

    mnemonic: ClassVar[str] = "write_rows"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("in", "pieces"))
    renews: ClassVar[int | None] = 0
    reaches: ClassVar[int | None] = 0
    follows: ClassVar[int | None] = 0
    dim: str
    pieces: int

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("write_rows", inputs, 3)
        table, rows, numbers = inputs
        slot = _slot("write_rows", table, numbers, self.dim, self.pieces, self.pieces)
        if rows.dtype != table.dtype or set(rows.dims) != set(replace(table, self.dim, slot).dims):
            raise OpError("E0204", f"write_rows: {rows} are no rows of {table} by {numbers}")
        return (table,)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        table, _, numbers = inputs
        (slot,) = numbers.names
        joint = Loop("pass", self.pieces, (self.dim, slot, slot), (self.dim,), placed=True)
        return (joint, *pass_loops(inputs, outputs, rest(table, self.dim)))

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0, 1}),)

    def differentiable(self, i: int) -> bool:
        return False


def _slot(op: str, table: Type, numbers: Type, dim: str, parts: int, pieces: int) -> Dim:
    """The dim of the numbers' slots."""
    expect_dim(op, table, dim)
    expect_dtype(op, numbers, ("int32",), "int32 numbers")
    if len(numbers.dims) != 1 or table.has(numbers.names[0]):
        raise OpError("E0204", f"{op}: {numbers} are no numbers of slots of `{dim}`")
    _expect_parts(op, table.dims[table.index(dim)], numbers.dims[0], parts)
    if pieces < 1 or parts % pieces:
        raise OpError("E0206", f"{op}: {parts} parts are not those of {pieces} equal pieces")
    return numbers.dims[0]
