"""A region: nodes of a body that systems compute as one. Marked once (`passes.mark_regions`), for whoever asks."""

from __future__ import annotations

from enum import StrEnum

from compiler.graph import Node, Value
from dsl.data import dataclass


class RegionKind(StrEnum):
    """ATTENTION: a softmax, or its derivative, between products of activations.
    NORM: what divides by the root of a mean of squares, with the scale and offset behind it, or its derivative.
    LOSS: from the last products to the loss, and back to their derivatives, by way of a softmax.
    ROUTING: a message that moves copies of positions to experts, or of what is added up to one.
    FUSED: neighbours that run as one, here too: what lies between them never stands in memory (`regions.fused`)."""

    ATTENTION = "attention"
    NORM = "norm"
    LOSS = "loss"
    ROUTING = "routing"
    FUSED = "fuse"


@dataclass(frozen=True, slots=True)
class Region:
    """The mark of a body (`Graph.regions`). values: the first result of each node, in the order of the body.

    kept: share of the scores that a mask leaves (of an attention); most: the same of the device whose piece of them has
    most (0: all are alike).
    over: dims of the values that are as large as what the softmax is taken of (of a loss); those that the mean of
    squares is taken over (of a norm).
    copies, places: see `routing.Copies`.
    """

    kind: RegionKind
    values: tuple[str, ...]
    kept: float = 1.0
    over: tuple[tuple[str, ...], ...] = ()
    copies: int = 1
    places: int = 0
    most: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(self.values)})"


@dataclass(frozen=True, slots=True, eq=False)
class FoundRegion:
    """What is found of one. nodes: of the inside; products: those that give what it begins with, and those that take
    what it ends with; the rest as in `Region`."""

    kind: RegionKind
    nodes: frozenset[Node]
    products: frozenset[Node] = frozenset()
    kept: float = 1.0
    over: tuple[tuple[str, ...], ...] = ()
    most: float = 0.0

    def wide(self) -> frozenset[Value]:
        """Values, of the inside and of the products, with the dims that a softmax is taken of."""
        made = (v for node in self.nodes | self.products for v in node.outputs)
        return frozenset(v for v in made if v.type.names in self.over)
