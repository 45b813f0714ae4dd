"""Contraction: the product of two tensors, summed over the dims that the result lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

from compiler.graph import FLOATS, Dim, Type, Value
from compiler.ops.base import Derive, Loop, Op, OpError
from compiler.ops.common import (
    expect_distinct,
    expect_dtype,
    expect_operands,
    listed,
    merged_sizes,
    names_of,
    same_name_loop,
)
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Contract(Op):
    """`dims`: the result's dims in order. Dims of the operands that are not among them are summed."""

    mnemonic: ClassVar[str] = "contract"
    fuses: ClassVar[bool] = True
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("to", "dims"),)
    derived: ClassVar[Mapping[str, Derive]] = {"dims": names_of}
    dims: tuple[str, ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("@", inputs, 2)
        a, c = inputs
        sizes = merged_sizes("@", inputs)
        expect_distinct("@", self.dims)
        unknown = [n for n in self.dims if n not in sizes]
        if unknown:
            raise OpError(
                "E0204", f"@: no operand has dim {listed(unknown)} of the result", f"the operands are {a} and {c}"
            )
        expect_dtype("@", a, (*FLOATS, "int32"), "numbers")
        if a.dtype != c.dtype:
            raise OpError(
                "E0202", f"@: operands are {a.dtype} and {c.dtype}", "there is no implicit cast: `cast(x, compute)`"
            )
        return (Type(a.dtype, tuple(Dim(n, sizes[n]) for n in self.dims)),)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        names = dict.fromkeys((*outputs[0].names, *(n for t in inputs for n in t.names)))
        return tuple(same_name_loop("pass" if n in self.dims else "sum", n, inputs, outputs) for n in names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}), frozenset({1}))

    def flops(self, inputs: Sequence[Type]) -> int:
        """Floating-point operations on (local) operands; multiply-add = 2."""
        return 2 * prod({d.name: d.size for t in inputs for d in t.dims}.values())

    def terms(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> int:
        sizes = {d.name: d.size for t in inputs for d in t.dims}
        return prod(n for name, n in sizes.items() if name not in self.dims)

    def exact(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> bool:
        return False

    def default_name(self, inputs: Sequence[Value]) -> str:
        return "dot"
