"""Tensors out of nothing: positions, constants, random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from compiler.graph import DTYPES, FLOATS, RANGES, Dim, Type
from compiler.ops.base import Derive, Loop, Misuse, Op, OpError
from compiler.ops.common import (
    dims_of,
    dtype_of,
    expect_blocks,
    expect_distinct,
    expect_fill,
    expect_operands,
    expect_positive,
    listed,
)
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class _Create(Op):
    """Base: each result dim is a loop of its own."""

    placed: ClassVar[bool] = False

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        nothing = (None,) * len(inputs)
        return tuple(Loop("pass", d.size, nothing, (d.name,), placed=self.placed) for d in outputs[0].dims)

    def cheap(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Iota(_Create):
    """0, 1, 2, … along `dim`, int32: logical positions, whatever the layout.

    With an operand, an int32 scalar, they begin there: the positions of a piece that is known at run time.
    zigzag: the positions in the zig-zag order of so many parts (`ops.zigzag`), unless it is 0.
    """

    mnemonic: ClassVar[str] = "iota"
    builtin: ClassVar[str] = "iota"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("zigzag", "zigzag"))
    derived: ClassVar[Mapping[str, Derive]] = {
        "dim": lambda t: t.dims[0] if t.dims else None,
        "zigzag": lambda _: 0,
    }
    leaf: ClassVar[bool] = True
    placed: ClassVar[bool] = True
    dim: Dim
    zigzag: int = 0

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("iota", inputs, min(len(inputs), 1))
        for t in inputs:
            if t != Type("int32"):
                raise OpError("E0202", f"iota starts at an int32 scalar, got {t}")
        expect_positive("iota", (self.dim,))
        if self.zigzag:
            expect_blocks("iota", self.dim.name, self.dim.size, self.zigzag)
        if self.dim.size - 1 > RANGES["int32"][1]:
            raise OpError(
                "E0206", f"iota: int32 has no numbers for all positions of `{self.dim.name}`, {self.dim.size}"
            )
        return (Type("int32", (self.dim,)),)


@dataclass(frozen=True, slots=True)
class Full(_Create):
    """`value` everywhere."""

    mnemonic: ClassVar[str] = "full"
    builtin: ClassVar[str] = "full"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "value"), ("as", "dtype"), ("to", "dims"))
    derived: ClassVar[Mapping[str, Derive]] = {"dtype": dtype_of, "dims": dims_of}
    leaf: ClassVar[bool] = True
    value: float
    dtype: str
    dims: tuple[Dim, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("full", inputs, 0)
        if self.dtype not in DTYPES:
            raise OpError("E0207", f"there is no dtype `{self.dtype}`", f"there are {listed(DTYPES)}")
        expect_fill("full", self.value, self.dtype)
        out = Type(self.dtype, self.dims)
        expect_distinct("full", out.names)
        expect_positive("full", self.dims)
        return (out,)

    def uniform(self) -> float | None:
        return float(self.value)


@dataclass(frozen=True, slots=True)
class _Drawn(_Create):
    """Base: a hash of (seed, stream, operands, logical position): the same under every layout.

    Operands: int32 scalars: the step, then the indices of the enclosing loops. `stream`: the place in the program.
    """

    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "stream"), ("as", "dtype"), ("to", "dims"))
    derived: ClassVar[Mapping[str, Derive]] = {"dtype": dtype_of, "dims": dims_of}
    placed: ClassVar[bool] = True
    stream: str
    dtype: str
    dims: tuple[Dim, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        name = self.mnemonic
        if not inputs:
            raise Misuse(f"{name} takes the step and the loop indices as operands, got none")
        for t in inputs:
            if t != Type("int32"):
                raise OpError("E0202", f"{name} takes int32 scalars, got {t}")
        if self.dtype not in FLOATS:
            raise OpError("E0202", f"{name} gives floats, not {self.dtype}")
        out = Type(self.dtype, self.dims)
        expect_distinct(name, out.names)
        expect_positive(name, self.dims)
        return (out,)


@dataclass(frozen=True, slots=True)
class Random(_Drawn):
    """Uniform in [0, 1)."""

    mnemonic: ClassVar[str] = "random"
    builtin: ClassVar[str] = "uniform"


@dataclass(frozen=True, slots=True)
class Normal(_Drawn):
    """Normal, of mean 0 and deviation 1."""

    mnemonic: ClassVar[str] = "normal"
    builtin: ClassVar[str] = "normal"

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False  # rounded from float64
