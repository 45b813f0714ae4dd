"""Which part of attention's scores a mask leaves: kernels that know of it compute no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import add, eq, ge, gt, le, lt, mul, ne, sub

from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Cast, Map, Transpose
from compiler.program import Instr

POINTS = 64
UNKNOWN = 0.5
"""Of a mask that does not hang on positions alone: what a causal one leaves."""

FUNCTIONS: Mapping[str, Callable[[float, float], float]] = {
    **{"add": add, "sub": sub, "mul": mul, "minimum": min, "maximum": max},
    **{"lt": lt, "le": le, "gt": gt, "ge": ge, "eq": eq, "ne": ne, "and": min, "or": max},
}


def kept(wheres: Iterable[Instr], made: Mapping[str, Instr]) -> float:
    """Share of the positions at which the conditions of all `where` hold; `made`: value -> what gives it.

    Sampled at 64 positions of one dim and 128 of the next, halfway between each other, so that a causal mask leaves
    exactly one half; a band of `window` positions of `s` leaves about window/s - window²/2s².
    """
    conditions = [w.inputs[0] for w in wheres]
    sizes: dict[str, int] = {}
    if not all(_dims(name, made, sizes) for name in conditions) or len(sizes) > 2:
        return UNKNOWN
    first, second = [*sizes, "", ""][:2]
    n = m = 0
    for i in range(POINTS):
        at = {first: (2 * i + 1) / (2 * POINTS) * sizes.get(first, 1)}
        for j in range(2 * POINTS):
            at[second] = (2 * j + 1) / (4 * POINTS) * sizes.get(second, 1)
            n += 1
            m += all(_value(name, made, at) for name in conditions)
    return max(m, 1) / n


def _dims(name: str, made: Mapping[str, Instr], sizes: dict[str, int]) -> bool:
    """Whether a value hangs on positions alone; adds the dims that they are of."""
    instr = made.get(name)
    if instr is None:
        return False
    op = instr.op
    if isinstance(op, Iota):
        sizes[op.dim.name] = op.dim.size
        return True
    if isinstance(op, Full):
        return True
    if isinstance(op, Map) and op.fn not in FUNCTIONS:
        return False
    known = isinstance(op, (Map, Cast, Broadcast, Transpose))
    return known and all(_dims(n, made, sizes) for n in instr.inputs)


def _value(name: str, made: Mapping[str, Instr], at: Mapping[str, float]) -> float:
    instr = made[name]
    op = instr.op
    if isinstance(op, Iota):
        return at[op.dim.name]
    if isinstance(op, Full):
        return op.value
    found = [_value(n, made, at) for n in instr.inputs]
    if not isinstance(op, Map):
        return found[0]
    given = iter(found)
    left, right = (float(next(given) if slot is None else slot) for slot in op.slots)
    return FUNCTIONS[op.fn](left, right)
