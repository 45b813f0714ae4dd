"""How nodes are read for what systems have one call for: which node gives a value, and which read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isclose, prod

from compiler.graph import Node, Value
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """Of a body: which node gives a value, and which read it."""

    made: Mapping[Value, Node]
    readers: Mapping[Value, list[Node]]

    @staticmethod
    def of(nodes: Iterable[Node]) -> Reading:
        """Reads nodes."""
        made: dict[Value, Node] = {}
        readers: dict[Value, list[Node]] = {}
        for node in nodes:
            made.update(dict.fromkeys(node.outputs, node))
            for v in node.inputs:
                readers.setdefault(v, []).append(node)
        return Reading(made, readers)

    def map(self, value: Value, fn: str, *slots: float | None) -> tuple[Value, ...] | None:
        """The operands, if a value is given by an elementwise function; slots: its literals, as far as they matter."""
        node = self.made.get(value)
        if node is None or not isinstance(node.op, Map) or node.op.fn != fn:
            return None
        if slots and not all(a == b or (a is not None and b is not None and isclose(a, b, rel_tol=1e-6))
                             for a, b in zip(node.op.slots, slots, strict=True)):  # fmt: skip
            return None
        return node.inputs

    def literal(self, value: Value) -> float:
        """The one literal of the map that gives a value."""
        op = self.made[value].op
        assert isinstance(op, Map)
        (found,) = (s for s in op.slots if s is not None)
        return float(found)

    def reduced(self, value: Value, fn: str) -> tuple[Value, tuple[str, ...]] | None:
        """What is reduced, over which dims."""
        node = self.made.get(value)
        if node is None or not isinstance(node.op, Reduce) or node.op.fn != fn:
            return None
        return node.inputs[0], node.op.dims

    def through(self, value: Value, *ops: type) -> Value:
        """What the value is made of by ops of one operand."""
        while (node := self.made.get(value)) is not None and isinstance(node.op, ops):
            value = node.inputs[0]
        return value

    def mean(self, value: Value) -> tuple[Value, tuple[str, ...]] | None:
        """Of what, over which dims, a value is the mean."""
        divided = self.map(value, "div")
        if divided is None or len(divided) != 1 or (of := self.reduced(divided[0], "sum")) is None:
            return None
        count = prod(of[0].type.size(n) for n in of[1])
        node = self.made[value]
        return of if isinstance(node.op, Map) and node.op.slots == (None, count) else None


def close(a: float, b: float) -> bool:
    """Whether both are the same number, as constants are rounded."""
    return isclose(a, b, rel_tol=1e-6)


def pairs(of: Reading, v: Value, fn: str) -> Iterable[tuple[Value, Value]]:
    """The operands of an elementwise function of two, in both orders."""
    found = of.map(v, fn, None, None)
    return (found, found[::-1]) if found is not None and len(found) == 2 else ()
