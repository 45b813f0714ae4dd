"""Which part of attention's scores a mask leaves: kernels that know of it compute no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import add, eq, ge, gt, le, lt, mul, ne, sub

from compiler.graph import Node
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Cast, Map, Transpose

POINTS = 64
UNKNOWN = 0.5
"""Of a mask that does not hang on positions alone: what a causal one leaves."""

FUNCTIONS: Mapping[str, Callable[[float, float], float]] = {
    **{"add": add, "sub": sub, "mul": mul, "minimum": min, "maximum": max},
    **{"lt": lt, "le": le, "gt": gt, "ge": ge, "eq": eq, "ne": ne, "and": min, "or": max},
}


Expression = tuple[str, float] | tuple[str, str, int] | tuple[str, "Expression", "Expression"]
"""A constant, the position in a dim of a size, or a function of two."""


def kept(wheres: Iterable[Node], made: Mapping[str, Node]) -> float:
    """Share of the positions at which the conditions of all `where` hold; `made`: value -> what gives it.

    Sampled at 64 positions of one dim and 128 of the next, halfway between each other, so that a causal mask leaves
    exactly one half; a band of `window` positions of `s` leaves about window/s - window²/2s².
    """
    sizes: dict[str, int] = {}
    conditions = []
    for where in wheres:
        condition = _expression(where.inputs[0].name, made, sizes)
        if condition is None or len(sizes) > 2:
            return UNKNOWN
        conditions.append(condition)
    return _share(tuple(conditions), tuple(sizes.items()))


def _expression(name: str, made: Mapping[str, Node], sizes: dict[str, int]) -> Expression | None:
    """The value, if it hangs on positions alone; adds the dims that they are of."""
    instr = made.get(name)
    if instr is None:
        return None
    op = instr.op
    if isinstance(op, Iota) and instr.inputs:
        return None  # from where on, is known at run time
    if isinstance(op, Iota):
        sizes[op.dim.name] = op.dim.size
        return "position", op.dim.name, op.dim.size
    if isinstance(op, Full):
        return "constant", float(op.value)
    if not isinstance(op, (Map, Cast, Broadcast, Transpose)) or (isinstance(op, Map) and op.fn not in FUNCTIONS):
        return None
    found = [_expression(v.name, made, sizes) for v in instr.inputs]
    if None in found:
        return None
    if not isinstance(op, Map):
        return found[0]
    given = iter(found)
    left, right = (next(given) if slot is None else ("constant", float(slot)) for slot in op.slots)
    assert left is not None and right is not None
    return op.fn, left, right


@lru_cache(maxsize=256)
def _share(conditions: tuple[Expression, ...], sizes: tuple[tuple[str, int], ...]) -> float:
    """Where all conditions hold, in shares of the points sampled. Layers and stages ask for the same ones."""
    (first, rows), (second, columns) = [*sizes, ("", 1), ("", 1)][:2]
    across = [(2 * i + 1) / (2 * POINTS) * rows for i in range(POINTS) for _ in range(2 * POINTS)]
    along = [(2 * j + 1) / (4 * POINTS) * columns for j in range(2 * POINTS)] * POINTS
    found = [_values(c, {first: across, second: along}) for c in conditions]
    return max(sum(map(all, zip(*found, strict=True))), 1) / len(across)


def _values(of: Expression, points: Mapping[str, list[float]]) -> list[float]:
    """The expression at every point."""
    if len(of) == 2:
        return [of[1]] * len(next(iter(points.values())))
    kind, left, right = of
    if isinstance(left, str):
        return points[left]
    assert not isinstance(right, int)
    return list(map(FUNCTIONS[kind], _values(left, points), _values(right, points)))
