"""Moving values between memories: in lowered programs only, in functions and in their loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compiler.graph import Type
from compiler.ops.base import Loop, Op
from compiler.ops.common import expect_operands, pass_loops
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Move(Op):
    """The operand, which lies in memory `source`, in new bytes of memory `target`.

    A value lies in one memory (`Value.memory`) and is read there: computations and messages in that of the devices,
    effects in that of their buffer, loops wherever a slice or an invariant lies.
    """

    mnemonic: ClassVar[str] = "move"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("from", "source"), ("to", "target"))
    source: str
    target: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("move", inputs, 1)
        return inputs

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, inputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def selects(self) -> bool:
        return True
