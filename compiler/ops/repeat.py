"""`repeat`: an op whose body is a graph; it stays rolled through every pass (the shape of `jax.lax.scan`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compiler.graph import Dim, Graph, Type
from compiler.ops.base import Loop, Misuse, Op
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Repeat(Op):
    """`count` iterations of `body`.

    node inputs  = carries (initial) + stacks (leading dim `label`, one slice per iteration) + invariants
    body inputs  = carries + slices + invariants
    body outputs = carries (next) + results of the iteration
    node outputs = carries (final) + stacks of results (leading dim `label`)
    `reverse`: iterations run from the last slice to the first (result i still stands at position i).
    `scan`: iterations are positions of a dim of data, not layers: all of them share their weights.
    """

    mnemonic: ClassVar[str] = "repeat"
    label: str
    count: int
    body: Graph
    carries: int
    stacks: int
    reverse: bool = False
    scan: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        params = self.body.inputs
        if len(inputs) != len(params):
            raise Misuse(f"repeat {self.label} takes {len(params)} operands, got {len(inputs)}")
        for i, (given, param) in enumerate(zip(inputs, params, strict=True)):
            want = param.type
            if self.carries <= i < self.carries + self.stacks:
                want = Type(want.dtype, (Dim(self.label, self.count), *want.dims))
            if given != want:
                raise Misuse(f"repeat {self.label}: operand {i} is {given}, the body takes {want}")
        for i in range(self.carries):
            if self.body.outputs[i].type != params[i].type:
                raise Misuse(
                    f"repeat {self.label}: {params[i].name} enters as {params[i].type} and leaves as "
                    f"{self.body.outputs[i].type}",
                )
        lead = Dim(self.label, self.count)
        results = tuple(Type(v.type.dtype, (lead, *v.type.dims)) for v in self.body.outputs[self.carries :])
        return (*(v.type for v in self.body.outputs[: self.carries]), *results)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        raise NotImplementedError("placement looks into the body")
