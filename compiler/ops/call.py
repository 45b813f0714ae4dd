"""`call`: a function of values that a graph has once, for all calls of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compiler.graph import Graph, Type
from compiler.ops.base import Loop, Misuse, Op
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Call(Op):
    """The function `body` of the operands: its parameters and results are those of the node, in order.

    Calls that do the same hold the same graph. at: the path of what it is done for, such as a weight.
    """

    mnemonic: ClassVar[str] = "call"
    body: Graph
    at: str

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        wanted = tuple(v.type for v in self.body.inputs)
        if inputs != wanted:
            told = (", ".join(map(str, types)) for types in (wanted, inputs))
            raise Misuse("{} takes {}, got {}".format(self.body.name, *told))
        return tuple(v.type for v in self.body.outputs)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        raise NotImplementedError("placement looks into the function")
