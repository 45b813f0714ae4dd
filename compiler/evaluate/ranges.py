"""Between which bounds the numbers of a tensor lie, where that follows from inputs' ranges, positions and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import isfinite

from compiler.graph import DIGITS, FLOATS, RANGES, Dim
from compiler.ops.base import Op, OpError
from compiler.ops.create import Full, Iota
from compiler.ops.elementwise import Cast, Map
from compiler.ops.index import Take
from compiler.ops.reduce import Reduce, TopK
from compiler.ops.shape import Concat, Pad, Shift, Slice
from compiler.origin import Origin
from dsl.data import dataclass
from dsl.source import Span

EXACT_TO: Mapping[str, int] = {dtype: 2**digits for dtype, digits in DIGITS.items()}
"""Up to where whole numbers are numbers of the type."""
LARGEST = 1e30
INT32 = RANGES["int32"]


@dataclass(frozen=True, slots=True)
class Extent:
    """No number is below `low` or above `high`. attained: for some data there are such numbers, for others such.

    sources: what it hangs on, inputs and dims of positions; at: where the input is declared.
    """

    low: float
    high: float
    attained: bool = True
    sources: frozenset[Origin | Dim] = frozenset()
    at: Span | None = None


def extents(op: Op, ins: Sequence[Extent | None], dtypes: Sequence[str]) -> tuple[Extent | None, ...]:
    """Of the op's results, from those of its operands (None: nothing is known). `dtypes`: of the results.

    Raises OpError (E0206) where constants alone make a number that int32 does not have.
    """
    if isinstance(op, TopK):
        return (_inside(ins[0]), None)
    try:
        found = _extent(op, ins, dtypes[0])
    except OverflowError:  # of numbers that no type holds
        found = None
    low, high = RANGES.get(dtypes[0], (-LARGEST, LARGEST))
    if found is not None and dtypes[0] == "int32" and not low <= found.low <= found.high <= high:
        _expect_data(found)
    if found is None or not low <= found.low <= found.high <= high:  # neither of what wraps, nor of inf and nan
        return (None,) * len(dtypes)
    return (found,)


def _expect_data(found: Extent) -> None:
    """Raise OpError (E0206) if int32 lacks numbers that are there whatever the data are: of constants, of positions."""
    if found.attained and all(isinstance(s, Dim) for s in found.sources):
        number = found.high if found.high > INT32[1] else found.low
        message = f"this is {number:.0f} somewhere, and int32 reaches from {INT32[0]} to {INT32[1]}"
        raise OpError("E0206", message, "compute it in `f64`, or in smaller numbers")


def _inside(x: Extent | None) -> Extent | None:
    return replace(x, attained=False) if x else None


def _extent(op: Op, ins: Sequence[Extent | None], dtype: str) -> Extent | None:
    match op:
        case Iota():
            own = Extent(0, op.dim.size - 1, sources=frozenset({op.dim}))
            return _extent(Map("add", (None, None)), [own, ins[0]], dtype) if ins else own
        case Full():
            return Extent(op.value, op.value)
        case Slice():  # of positions, it has only some
            x = ins[0]
            return _inside(x) if x and any(isinstance(s, Dim) for s in x.sources) else x
        case Pad():
            return _union([ins[0], Extent(op.value, op.value)]) if op.low or op.high else ins[0]
        case Shift():
            return ins[0] if op.around else _union([ins[0], Extent(op.fill, op.fill)])
        case Concat():
            return _union(ins)
        case Take():
            return _inside(_union([ins[0], Extent(0, 0)]))
        case Reduce(fn="max"):
            return _inside(ins[0])
        case Cast():
            return _cast(ins[0], dtype)
        case Map():
            return _map(op, ins)
    return ins[0] if op.selects() else None


def _union(parts: Sequence[Extent | None]) -> Extent | None:
    known = [p for p in parts if p is not None]
    if len(known) < len(parts) or not known:
        return None
    sources = frozenset[Origin | Dim]().union(*(p.sources for p in known))
    at = next((p.at for p in known if p.at), None)
    attained = all(p.attained for p in known)
    return Extent(min(p.low for p in known), max(p.high for p in known), attained, sources, at)


def _cast(x: Extent | None, dtype: str) -> Extent | None:
    if x is None or dtype == "bool":
        return None
    if dtype in FLOATS:
        exact = max(abs(x.low), abs(x.high)) <= EXACT_TO[dtype]
        return x if exact else None
    return replace(x, low=int(x.low), high=int(x.high)) if dtype == "int32" or x.low >= 0 else None


_RISING: Mapping[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "minimum": min,
    "maximum": max,
}
"""Functions that rise or fall with either operand while the other stays: their bounds are those of the corners."""

_OF_ONE: Mapping[str, Callable[[float], float]] = {
    "neg": lambda a: -a,
    "floor": lambda a: a // 1,
    "round": lambda a: float(round(a)) if isfinite(a) else a,
    "relu": lambda a: max(a, 0),
}


def _map(op: Map, ins: Sequence[Extent | None]) -> Extent | None:
    operands = iter(ins)
    parts = [next(operands) if s is None else None if isinstance(s, bool) else Extent(s, s) for s in op.slots]
    if op.fn == "where":
        return _inside(_union(parts[1:]))
    if any(p is None for p in parts):
        return None
    known = [p for p in parts if p is not None]
    at = next((p.at for p in known if p.at), None)
    sources = frozenset[Origin | Dim]().union(*(p.sources for p in known))
    if op.fn in _OF_ONE:
        ends = [_OF_ONE[op.fn](end) for end in (known[0].low, known[0].high)]
        return Extent(min(ends), max(ends), known[0].attained, sources, at)
    if op.fn == "mod":
        x, by = known
        if by.low != by.high or by.low <= 0:
            return None
        if x.low // by.low == x.high // by.low:
            return replace(x, low=x.low % by.low, high=x.high % by.low)
        return Extent(0, by.low, False, sources, at)
    if op.fn not in _RISING or (op.fn in ("div", "floordiv") and known[1].low <= 0 <= known[1].high):
        return None
    left, right = known
    apart = not left.sources & right.sources
    corners = [_RISING[op.fn](a, b) for a, b in product((left.low, left.high), (right.low, right.high))]
    return Extent(min(corners), max(corners), left.attained and right.attained and apart, sources, at)
