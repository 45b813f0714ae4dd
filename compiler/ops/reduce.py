"""Reductions and what else looks along a dim: cumulative sums and the largest k."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

from compiler.graph import FLOATS, Dim, Type, Value
from compiler.ops.base import Loop, Op, OpError
from compiler.ops.common import (
    expect_dim,
    expect_distinct,
    expect_dtype,
    expect_operands,
    pass_loops,
    replace,
    rest,
    same_name_loop,
)
from dsl.data import dataclass

NUMBERS = (*FLOATS, "int32")


@dataclass(frozen=True, slots=True)
class Reduce(Op):
    """`fn` is "sum" or "max"; `dims` go."""

    mnemonic: ClassVar[str] = "reduce"
    builtin: ClassVar[str] = "sum"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "fn"), ("over", "dims"))
    joins: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    fn: str
    dims: tuple[str, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands(self.fn, inputs, 1)
        if self.fn not in ("sum", "max"):
            raise OpError("E0207", f"there is no reduction `{self.fn}`", "there are `sum` and `max`")
        x = inputs[0]
        for d in self.dims:
            expect_dim(self.fn, x, d)
        if len(set(self.dims)) != len(self.dims):
            raise OpError("E0205", f"{self.fn}: a dim is listed twice")
        expect_dtype(self.fn, x, NUMBERS, "numbers")
        return (Type(x.dtype, tuple(d for d in x.dims if d.name not in self.dims)),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return tuple(same_name_loop(self.fn if n in self.dims else "pass", n, inputs, outputs) for n in inputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),) if self.fn == "sum" else ()

    def passes_max(self, all: bool) -> bool:
        return self.fn == "max"

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return prod(inputs[0].size(d) for d in self.dims) if self.fn == "sum" else 1

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return self.fn == "max"

    def default_name(self, inputs: Sequence[Value]) -> str:
        return self.fn


@dataclass(frozen=True, slots=True)
class Cumsum(Op):
    """Sums of the elements up to and including each along `dim` (`reverse`: from the end)."""

    mnemonic: ClassVar[str] = "cumsum"
    builtin: ClassVar[str] = "cumsum"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("reverse", "reverse"))
    dim: str
    reverse: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("cumsum", inputs, 1)
        expect_dim("cumsum", inputs[0], self.dim)
        expect_dtype("cumsum", inputs[0], NUMBERS, "numbers")
        return (inputs[0],)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        whole = same_name_loop("whole", self.dim, inputs, outputs)
        return (*pass_loops(inputs, outputs, rest(inputs[0], self.dim)), whole)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        return inputs[0].size(self.dim)

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ArgMax(Op):
    """Where along `dim` the largest element is, int32 (ties: the lowest index; NaN is the largest, as for `top_k`)."""

    mnemonic: ClassVar[str] = "argmax"
    builtin: ClassVar[str] = "argmax"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"),)
    dim: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("argmax", inputs, 1)
        expect_dim("argmax", inputs[0], self.dim)
        expect_dtype("argmax", inputs[0], NUMBERS, "numbers")
        return (replace(inputs[0], self.dim).with_dtype("int32"),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        whole = same_name_loop("whole", self.dim, inputs, outputs)
        return (*pass_loops(inputs, outputs, rest(inputs[0], self.dim)), whole)

    def differentiable(self, i: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class TopK(Op):
    """The largest `into.size` elements along `dim`, in descending order (ties: the lower index first).

    NaN is larger than all numbers, as for PyTorch, JAX and ONNX: a router that has diverged shows it.

    Results: values, and int32 indices along `dim`; `into` stands in the place of `dim`.
    """

    mnemonic: ClassVar[str] = "top_k"
    builtin: ClassVar[str] = "top_k"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("into", "into"))
    dim: str
    into: Dim

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("top_k", inputs, 1)
        size = expect_dim("top_k", inputs[0], self.dim)
        expect_dtype("top_k", inputs[0], NUMBERS, "numbers")
        if not 1 <= self.into.size <= size:
            message = f"top_k: {self.into.size} of the {size} elements along `{self.dim}`"
            raise OpError("E0206", message, f"choose 1 to {size}")
        out = replace(inputs[0], self.dim, self.into)
        expect_distinct("top_k", out.names)
        return (out, out.with_dtype("int32"))

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        whole = Loop("whole", inputs[0].size(self.dim), (self.dim,), (self.into.name,) * 2)
        return (*pass_loops(inputs, outputs, rest(inputs[0], self.dim)), whole)
