"""What of a chunk's passes is one call, and its derivative: candidates, each of which is put in or left out as a whole.

A derivative is recognised as a sum of products of what it must be made of, in whatever order that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from compiler.graph import Node, Value
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Broadcast, Map
from compiler.ops.reduce import Reduce
from compiler.regions.reading import Reading, close, pairs
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Put:
    """A node to be put in. outputs: the values that it gives instead of the nodes that gave them, or new ones.

    alias: values that are another from then on.
    """

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    alias: tuple[tuple[Value, Value], ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """What replaces a form in its body, and its derivatives in other bodies. inside: values that nothing may need then,
    or there would be more work than before."""

    name: str
    forward: Put
    backward: tuple[Put, ...]
    inside: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Factors:
    """A number times values."""

    factor: float
    values: tuple[Value, ...]

    def of(self, factor: float, *values: Value) -> bool:
        """Whether it is this one."""
        same = len(values) == len(self.values) and set(values) == set(self.values)
        return same and all(self.values.count(v) == values.count(v) for v in values) and close(self.factor, factor)


def product(of: Reading, v: Value, stop: Collection[Value] = ()) -> Factors:
    """What a value is the product of; the values of `stop` are not looked into."""
    node = of.made.get(v)
    if node is not None and v not in stop:
        op = node.op
        if isinstance(op, Broadcast):
            return product(of, node.inputs[0], stop)
        if isinstance(op, Map) and op.fn == "neg":
            inner = product(of, node.inputs[0], stop)
            return Factors(-inner.factor, inner.values)
        if isinstance(op, Map) and op.fn == "mul":
            parts = [product(of, x, stop) for x in node.inputs]
            factor = 1.0
            for s in op.slots:
                factor *= 1.0 if s is None else float(s)
            for p in parts:
                factor *= p.factor
            return Factors(factor, tuple(x for p in parts for x in p.values))
        if isinstance(op, Map) and op.fn == "div" and op.slots[0] is None and op.slots[1]:
            inner = product(of, node.inputs[0], stop)
            return Factors(inner.factor / float(op.slots[1]), inner.values)
    return Factors(1.0, (v,))


def dot(of: Reading, node: Node) -> tuple[Value, Value] | None:
    """The factors of a sum of elementwise products."""
    if isinstance(node.op, Contract):
        return node.inputs[0], node.inputs[1]
    summed = of.reduced(node.output, "sum") if isinstance(node.op, Reduce) else None
    factors = of.map(summed[0], "mul", None, None) if summed else None
    return (factors[0], factors[1]) if factors is not None else None


def added(
    of: Reading, before: Value, node: Node | None, is_other: Callable[[Value], bool]
) -> tuple[Value, Value] | None:
    """Where something else is added to a sum of a value, up from the node that reads it: with it, and without."""
    while node is not None and len(node.outputs) == 1:
        for a, b in pairs(of, node.output, "add"):
            if a is before and is_other(b):
                return node.output, before
        if of.map(node.output, "add", None, None) is None:
            return None
        readers = of.readers.get(node.output, [])
        before, node = node.output, readers[0] if len(readers) == 1 else None
    return None


def after(of: Reading, v: Value) -> list[Node]:
    """The nodes that read a value and give one."""
    return [n for n in of.readers.get(v, ()) if len(n.outputs) == 1]


def maps(nodes: Sequence[Node], fn: str) -> Iterable[Node]:
    """The nodes that are this elementwise function."""
    return (n for n in nodes if isinstance(n.op, Map) and n.op.fn == fn)


Fresh = Callable[[Value, str], Value]
"""Makes a new value like another: its name is told from others' by a word."""
