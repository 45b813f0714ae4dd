"""Between which whole numbers those of a value are, by the ops that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from compiler.graph import FLOATS, Node, Value
from compiler.ops.base import Op
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Map, StopGradient, Transpose
from compiler.ops.index import Take
from compiler.ops.reduce import Reduce, TopK
from compiler.ops.shape import Merge, Rename, Slice, Split

Range = tuple[int, int]
"""The lowest and the highest that there can be."""


def between(v: Value, made: Mapping[Value, Node]) -> Range | None:
    """None: it is not known. made: by what nodes values are made."""
    node = made.get(v)
    if node is None or v.type.dtype in (*FLOATS, "bool"):
        return None
    op = node.op
    if isinstance(op, Iota) and not node.inputs:
        return 0, op.dim.size - 1
    if isinstance(op, Full):
        return int(op.value), int(op.value)
    if isinstance(op, TopK):
        return (0, node.inputs[0].type.size(op.dim) - 1) if v is node.outputs[1] else None
    if isinstance(op, (Rename, Broadcast, Transpose, StopGradient, Merge, Split, Slice)):
        return between(node.inputs[0], made)
    if isinstance(op, Take):  # 0 where the index is none
        return _either(between(node.inputs[0], made), (0, 0))
    if isinstance(op, Reduce):
        return _reduced(node, op, made)
    return _map(node, op, made) if isinstance(op, Map) else None


def _either(a: Range | None, b: Range | None) -> Range | None:
    return None if a is None or b is None else (min(a[0], b[0]), max(a[1], b[1]))


def _reduced(node: Node, op: Reduce, made: Mapping[Value, Node]) -> Range | None:
    (x,) = node.inputs
    found = between(x, made)
    if found is None or op.fn == "max":
        return found
    low, high = found
    count = 1 if _one_of(x, op, made) else prod(x.type.size(d) for d in op.dims)
    return min(count * low, low if count == 1 else 0), max(count * high, high if count == 1 else 0)


def _one_of(x: Value, op: Reduce, made: Mapping[Value, Node]) -> bool:
    """Whether at most one of what is summed is not 0: `where(chosen == other, …, 0)`, where what is chosen along the
    dim is distinct, and the other is the same for all of them."""
    node = made.get(x)
    if len(op.dims) != 1 or node is None or not isinstance(node.op, Map) or node.op.fn != "where":
        return False
    test = made.get(node.inputs[0]) if node.op.slots[::2] == (None, 0) else None
    if test is None or not isinstance(test.op, Map) or test.op.fn != "eq" or len(test.inputs) != 2:
        return False
    (dim,) = op.dims
    left, right = test.inputs
    return any(_distinct(a, dim, made) and not b.type.has(dim) for a, b in ((left, right), (right, left)))


def _distinct(v: Value, dim: str, made: Mapping[Value, Node]) -> bool:
    while (node := made.get(v)) is not None and isinstance(node.op, (Rename, Transpose, StopGradient)):
        if isinstance(node.op, Rename):
            dim = {new: old for old, new in node.op.pairs}.get(dim, dim)
        v = node.inputs[0]
    return node is not None and isinstance(node.op, TopK) and v is node.outputs[1] and node.op.into.name == dim


def _map(node: Node, op: Map, made: Mapping[Value, Node]) -> Range | None:
    operands = iter(node.inputs)
    slots = [_slot(next(operands) if s is None else s, made) for s in op.slots]
    if op.fn == "where":
        return _either(slots[1], slots[2])
    if any(s is None for s in slots):
        return _modulo(op, slots)
    ranges = [s for s in slots if s is not None]
    (a, b) = ranges[0]
    if op.fn == "neg":
        return -b, -a
    if len(ranges) != 2:
        return None
    (c, d) = ranges[1]
    if op.fn == "add":
        return a + c, b + d
    if op.fn == "sub":
        return a - d, b - c
    if op.fn == "mul":
        ends = [x * y for x in (a, b) for y in (c, d)]
        return min(ends), max(ends)
    if op.fn in ("minimum", "maximum"):
        pick = min if op.fn == "minimum" else max
        return pick(a, c), pick(b, d)
    if op.fn == "floordiv" and c > 0:
        ends = [x // y for x in (a, b) for y in (c, d)]
        return min(ends), max(ends)
    return _modulo(op, slots)


def _modulo(op: Op, slots: list[Range | None]) -> Range | None:
    assert isinstance(op, Map)
    by = slots[1] if op.fn == "mod" else None
    return (0, by[1] - 1) if by is not None and by[0] > 0 else None


def _slot(x: Value | float, made: Mapping[Value, Node]) -> Range | None:
    if isinstance(x, Value):
        return between(x, made)
    return (int(x), int(x)) if x == int(x) else None
