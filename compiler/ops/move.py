"""Moving values between memories: in lowered programs only, in functions and in their loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from compiler.graph import Type
from compiler.ops.base import Derive, Loop, Misuse, Op
from compiler.ops.common import pass_loops
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Move(Op):
    """The operand, which lies in memory `source`, in bytes of memory `target`.

    A value lies in one memory (`Value.memory`) and is read there: messages in that of the devices, computations in it,
    too, or in that of the hosts, if all of it is there (the hosts then compute),
    effects in that of their buffer, loops wherever a slice or an invariant lies. The bytes are new ones, or those of a
    second operand, which lies in `target` and is what the result takes the place of (what a state was before).

    ahead: of a slice of a loop: so many iterations before the one that reads it the move begins, so that it goes on
    while these compute. There are then so many more of the results.
    """

    mnemonic: ClassVar[str] = "move"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("from", "source"), ("to", "target"), ("ahead", "ahead"))
    derived: ClassVar[Mapping[str, Derive]] = {"ahead": lambda type: 0}
    renews: ClassVar[int | None] = 1
    source: str
    target: str
    ahead: int = 0

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        if len(inputs) not in (1, 2) or inputs[-1] != inputs[0]:
            given = ", ".join(map(str, inputs)) or "nothing"
            raise Misuse(f"move takes a value, and perhaps one of its type whose place it takes, got {given}")
        return inputs[:1]

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        return pass_loops(inputs, outputs, inputs[0].names)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def selects(self) -> bool:
        return True
