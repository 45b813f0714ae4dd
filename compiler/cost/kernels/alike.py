"""Products that all devices along a mesh axis compute alike, since nothing of them is split there (E0559)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from compiler.cost.kernels.flops import products
from compiler.graph import Node
from compiler.origin import Phase
from compiler.program import Program
from compiler.strategy import Strategy
from dsl.data import dataclass
from dsl.source import Span


@dataclass(slots=True)
class Alike:
    """Of an axis: FLOPs of a step, on all devices, that would not be there if each product were split on it as well;
    by the product."""

    axis: str
    size: int
    products: dict[str, tuple[float, Node]] = field(default_factory=dict)

    @property
    def more(self) -> float:
        return sum(flops for flops, _ in self.products.values())

    def largest(self) -> list[Node]:
        """Those that the author wrote before their derivatives."""
        found = sorted(self.products.values(), key=lambda p: (p[1].output.origin.phase is not Phase.FORWARD, -p[0]))
        return [node for _, node in found]


def alike(program: Program) -> dict[str, Alike]:
    """By axis, where there is anything; the update's products are not counted. No axis of places is here."""
    found = {a.name: Alike(a.name, a.size) for a in program.axes if a.kind == "mesh" and a.size > 1}
    for node, flops in products(program) if found else ():
        used = {a for v in node.inputs for axes in v.layout.dims for a in axes}  # what is contracted included
        for axis in found.values():
            if axis.axis not in used:
                name = node.output.name
                before = axis.products[name][0] if name in axis.products else 0.0
                axis.products[name] = before + flops * (1 - 1 / axis.size), node
    return {name: a for name, a in found.items() if a.products}


def free_dims(node: Node, axis: Alike) -> list[str]:
    """Dims of a product which could be split on the axis: no axis splits them, and they divide."""
    split = {d.name for v in node.inputs for d, axes in zip(v.type.dims, v.layout.dims, strict=True) if axes}
    dims = {d.name: d.size for v in (*node.outputs, *node.inputs) for d in v.type.dims}
    return [name for name, size in dims.items() if name not in split and size % axis.size == 0]


def rule_on(strategy: Strategy, axis: str) -> Span | None:
    """Where the strategy first splits something on the axis: the author's own statement; None where it never does."""
    rules: Sequence[tuple[Span, Span | None]] = [
        *((r.span, r.by) for r in strategy.splits if r.axis == axis),
        *((r.span, r.by) for r in strategy.shards if r.axis == axis),
        *((r.span, r.by) for r in strategy.layouts if any(axis in axes for _, axes in r.dims)),
    ]
    return next((by or span for span, by in rules), None)
