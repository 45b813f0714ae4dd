"""A region: nodes of a body that systems compute as one."""

from __future__ import annotations

from enum import Enum

from compiler.graph import Node, Value
from dsl.data import dataclass


class RegionKind(Enum):
    """ATTENTION: products of activations with a softmax, or its derivative, between them.
    LOSS: from the last products to the loss, and back to their derivatives, by way of a softmax."""

    ATTENTION = "attention"
    LOSS = "loss"


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """nodes: of the inside; products: those that give what it begins with, and those that take what it ends with (of
    an attention); wide: values that are as large as what the softmax is taken of (of a loss); kept: share of the scores
    that a mask leaves (of an attention)."""

    kind: RegionKind
    nodes: frozenset[Node]
    products: frozenset[Node] = frozenset()
    wide: frozenset[Value] = frozenset()
    kept: float = 1.0

    def __str__(self) -> str:
        inside = sorted(v.name for node in self.nodes for v in node.outputs)
        return f"{self.kind.value}({', '.join(inside)})"
