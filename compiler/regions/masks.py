"""Which part of attention's scores a mask leaves: kernels that know of it compute no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from math import prod
from operator import add, eq, floordiv, ge, gt, le, lt, mul, ne, sub

from compiler.graph import Node
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Broadcast, Cast, Map, Transpose

POINTS = 64
UNKNOWN = 0.5
"""Of a mask that does not hang on positions alone: what a causal one leaves."""

FUNCTIONS: Mapping[str, Callable[[float, float], float]] = {
    **{"add": add, "sub": sub, "mul": mul, "floordiv": floordiv, "minimum": min, "maximum": max},
    **{"lt": lt, "le": le, "gt": gt, "ge": ge, "eq": eq, "ne": ne, "and": min, "or": max},
}


Expression = tuple[str, float] | tuple[str, str, int] | tuple[str, "Expression", "Expression"]
"""A constant, the position in a dim of a size, or a function of two."""


def kept(wheres: Iterable[Node], made: Mapping[str, Node], mesh: Mapping[str, int]) -> tuple[float, float]:
    """Share of the positions at which the conditions of all `where` hold, and the same of the device's piece in which
    it is largest (0: all are alike). made: value -> what gives it; mesh: sizes of axes.

    Sampled at 64 positions of one dim and 128 of the next, halfway between each other, so that a causal mask leaves
    exactly one half, and (2n-1)/2n to the last of n devices among which the positions are cut in their order; a band of
    `window` positions of `s` leaves about window/s - window²/2s².
    """
    sizes: dict[str, int] = {}
    conditions, in_order = [], []
    cuts: dict[str, tuple[str, ...]] = {}
    for where in wheres:
        condition = _expression(where.inputs[0].name, made, sizes)
        if condition is None or len(sizes) > 2:
            return UNKNOWN, 0.0
        conditions.append(condition)
        in_order.append(_expression(where.inputs[0].name, made, {}, False) or condition)
        of = where.output
        for dim, axes in zip(of.type.dims, of.layout.dims if of.layout else ()):
            cuts[dim.name] = axes
    of_dims = tuple(sizes.items())
    counts = tuple([tuple([mesh[a] for a in cuts.get(name, ())]) for name in sizes])
    share = _share(tuple(in_order), of_dims)
    if all(prod(n) == 1 for n in counts):
        return share, 0.0
    return share, _largest(tuple(conditions), of_dims, counts, conditions != in_order)


def _expression(name: str, made: Mapping[str, Node], sizes: dict[str, int], placed: bool = True) -> Expression | None:
    """The value, if it hangs on positions alone; adds the dims that they are of. placed: as they lie, which is of no
    account to what holds of all of them together."""
    instr = made.get(name)
    if instr is None:
        return None
    op = instr.op
    if isinstance(op, Iota) and instr.inputs:
        return None  # from where on, is known at run time
    if isinstance(op, Iota):
        sizes[op.dim.name] = op.dim.size
        at = "position", op.dim.name, op.dim.size
        return _in_zigzag(at, op.dim.size // (2 * op.zigzag), op.zigzag) if op.zigzag and placed else at
    if isinstance(op, Full):
        return "constant", float(op.value)
    if not isinstance(op, (Map, Cast, Broadcast, Transpose)) or (isinstance(op, Map) and op.fn not in FUNCTIONS):
        return None
    found = [_expression(v.name, made, sizes, placed) for v in instr.inputs]
    if None in found:
        return None
    if not isinstance(op, Map):
        return found[0]
    given = iter(found)
    left, right = (next(given) if slot is None else ("constant", float(slot)) for slot in op.slots)
    assert left is not None and right is not None
    return op.fn, left, right


def _in_zigzag(at: Expression, length: int, parts: int) -> Expression:
    """Which position lies at this place of the zig-zag order of blocks of a length."""
    two, block = ("constant", 2.0), ("floordiv", at, ("constant", float(length)))
    pair: Expression = ("floordiv", block, two)
    second = ("sub", block, ("mul", pair, two))
    further = ("mul", second, ("sub", ("constant", 2.0 * parts - 1), ("mul", pair, two)))
    steps = ("sub", ("add", pair, further), block)
    return "add", at, ("mul", steps, ("constant", float(length)))


@lru_cache(maxsize=256)
def _share(conditions: tuple[Expression, ...], sizes: tuple[tuple[str, int], ...]) -> float:
    """Where all conditions hold, in shares of the points sampled. Layers and stages ask for the same ones."""
    whole = [([0.0], float(size)) for _, size in (*sizes, ("", 1))]
    found = _sampled(conditions, sizes, _within(whole[0], POINTS), _within(whole[1], 2 * POINTS))
    return max(sum(found), 1) / len(found)


@lru_cache(maxsize=256)
def _largest(
    conditions: tuple[Expression, ...],
    sizes: tuple[tuple[str, int], ...],
    counts: tuple[tuple[int, ...], ...],
    blocks: bool,
) -> float:
    """The share in the piece where it is largest, cut by axes of so many devices along each dim; of more than `POINTS`
    that of some. blocks: pieces are two blocks each. Of uneven pieces the room behind their ends counts as the devices
    compute it: there a mask is what it would be further on."""
    first, second = [_starts(size, n) for (_, size), n in zip((*sizes, ("", 1)), (*counts, ()))][:2]
    least = -(-POINTS // (len(first[0]) * len(second[0])))
    least += blocks * (least % 2)  # of each of two as many
    rows, columns = [least * len(x[0]) for x in (second, first)]
    across, along = _within(first, rows), _within(second, 2 * columns)
    found = _sampled(conditions, sizes, across, along)
    totals = [0] * (len(first[0]) * len(second[0]))
    width = len(along)
    for i in range(len(across)):
        row = found[width * i : width * (i + 1)]
        for j in range(len(second[0])):
            totals[i // rows * len(second[0]) + j] += sum(row[2 * columns * j : 2 * columns * (j + 1)])
    return max(max(totals), 1) / (rows * 2 * columns)


def _starts(size: int, counts: Sequence[int]) -> tuple[list[float], float]:
    """Where in a dim the pieces begin, and their length."""
    if prod(counts) > POINTS:
        return [i / POINTS * size for i in range(POINTS)], size / POINTS
    starts, length = [0.0], size
    for n in counts:
        length = -(-length // n)
        starts = [start + i * length for start in starts for i in range(n)]
    return starts, length


def _within(pieces: tuple[list[float], float], points: int) -> list[float]:
    """So many positions in each piece, halfway between each other."""
    starts, length = pieces
    return [start + (2 * i + 1) / (2 * points) * length for start in starts for i in range(points)]


def _sampled(
    conditions: Sequence[Expression], sizes: Sequence[tuple[str, int]], across: Sequence[float], along: Sequence[float]
) -> list[bool]:
    """Whether all conditions hold at positions of the first dim and of the second, by rows."""
    (first, _), (second, _) = [*sizes, ("", 1), ("", 1)][:2]
    points = {first: [x for x in across for _ in along], second: [*along] * len(across)}
    return list(map(all, zip(*[_values(c, points) for c in conditions], strict=True)))


def _values(of: Expression, points: Mapping[str, list[float]]) -> list[float]:
    """The expression at every point."""
    if len(of) == 2:
        return [of[1]] * len(next(iter(points.values())))
    kind, left, right = of
    if isinstance(left, str):
        return points[left]
    assert not isinstance(right, int)
    return list(map(FUNCTIONS[kind], _values(left, points), _values(right, points)))
