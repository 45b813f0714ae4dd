"""What a serial step writes to memory of gradients and new weights, which a strategy sends on in messages: bounds count
none of it. (Prices have it written by who makes it; the first of a message was all that they had written once.)"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from compiler.graph import ITEMSIZE
from compiler.model import Precision
from compiler.origin import Role
from compiler.program import Program


class Unwritten(NamedTuple):
    """Bytes of gradients, as kernels have them between each other, of those of them of loops, and of new weights (of
    lists of rows: of these)."""

    gradients: int
    looped: int
    weights: int


def unwritten(program: Program, labels: Collection[str], precision: Precision) -> Unwritten:
    """Of a serial program. labels: of the loops at the top."""
    (cls,) = program.classes
    every = [s.type for s in cls.states if s.role is Role.GRADIENT]
    looped = sum(of.elements for of in every if {*labels} & {*of.names})
    elements, size = sum(of.elements for of in every), ITEMSIZE[precision.compute]
    return Unwritten(elements * size, looped * size, elements * ITEMSIZE[precision.master])
