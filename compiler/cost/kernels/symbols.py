"""Numbers that remember how they were made of the sizes of axes, and what was asked of them.

What is computed with them for some sizes can be computed for others by going through the same steps (`Steps.run`), as
long as all comparisons come out as they did: then whoever computed with them would have done the very same. Sums,
products and whole quotients are all that can be made of them, and they cannot be looked up: anything else is a
TypeError, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import add, eq, floordiv, ge, gt, le, lt, mul, ne, sub
from typing import Any, NamedTuple

Compute = Callable[[int, int], int]
Question = Callable[[Mapping[str, int]], int]
Compare = Callable[[int, int], bool]


class Steps(NamedTuple):
    """made: of each number, but the inputs that come first: how it is made of two before it, or what it is (None), or
    what to ask all inputs (`whole`). asked: comparisons of two numbers, and how they came out."""

    made: Sequence[tuple[Compute | None, Any, int]]
    asked: Sequence[tuple[Compare, int, int, bool]]

    def run(self, inputs: Mapping[str, int]) -> list[int] | None:
        """All numbers, of other inputs (as many, in the same order); None if something is otherwise."""
        values = list(inputs.values())
        for compute, a, b in self.made:
            if compute is None:
                values.append(a)
            elif compute is whole:
                values.append(a(inputs))
            else:
                values.append(compute(values[a], values[b]))
        for compare, a, b, known in self.asked:
            if compare(values[a], values[b]) is not known:
                return None
        return values


def whole(question: Any, _: int) -> int:
    """Stands for a question that all inputs are asked as they are."""
    raise NotImplementedError


class SizeTrace:
    """What is being computed. inputs: the sizes that it begins with."""

    def __init__(self, inputs: Mapping[str, int]) -> None:
        self.made: list[tuple[Compute | None, Any, int]] = []
        self.asked: dict[tuple[Compare, int, int], bool] = {}
        self.known: dict[tuple[Compute | None, Any, int], Symbol] = {}
        self.given = dict(inputs)
        self.sizes = SymbolSizes((name, Symbol(self, at, size)) for at, (name, size) in enumerate(inputs.items()))
        self.sizes.trace = self

    @property
    def steps(self) -> Steps:
        """So far."""
        return Steps(tuple(self.made), tuple([(*key, known) for key, known in self.asked.items()]))

    def number(self, of: float) -> Symbol:
        """A number as one of these. (2 and 2.0 are two: what is made of them is not the same.)"""
        return self.add((None, of, of.__class__ is float), of)

    def add(self, key: tuple[Compute | None, Any, int], value: Any) -> Symbol:
        """What is made of others (see `Steps`)."""
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = Symbol(self, len(self.given) + len(self.made), value)
            self.made.append(key)
        return found


class SymbolSizes(dict[str, Any]):
    """Sizes of axes, as symbols."""

    trace: SizeTrace


def answer(sizes: Mapping[str, int], question: Question) -> int:
    """What is found of sizes in ways that symbols do not go through: with these it is asked again of others."""
    if not isinstance(sizes, SymbolSizes):
        return question(sizes)
    trace, found = sizes.trace, question(sizes.trace.given)
    answered: Any = trace.add((whole, question, 0), found)
    return answered  # type: ignore[no-any-return]


class Symbol:
    """One of the numbers. at: its place among them."""

    __slots__ = ("at", "trace", "value")

    def __init__(self, trace: SizeTrace, at: int, value: int) -> None:
        self.trace, self.at, self.value = trace, at, value

    def __add__(self, other: Symbol | float) -> Any:
        return self._made(add, other)

    def __mul__(self, other: Symbol | float) -> Any:
        return self._made(mul, other)

    def __sub__(self, other: Symbol | float) -> Any:
        return self._made(sub, other)

    def __floordiv__(self, other: Symbol | float) -> Any:
        return self._made(floordiv, other)

    def __rsub__(self, other: int) -> Any:
        return self.trace.number(other)._made(sub, self) if other.__class__ is int else NotImplemented

    def __rfloordiv__(self, other: int) -> Any:
        return self.trace.number(other)._made(floordiv, self) if other.__class__ is int else NotImplemented

    def __neg__(self) -> Any:
        return self.trace.number(0)._made(sub, self)

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other: Symbol | float) -> Any:
        return self._asked(lt, other)

    def __le__(self, other: Symbol | float) -> Any:
        return self._asked(le, other)

    def __gt__(self, other: Symbol | float) -> Any:
        return self._asked(gt, other)

    def __ge__(self, other: Symbol | float) -> Any:
        return self._asked(ge, other)

    def __eq__(self, other: object) -> Any:
        return self._asked(eq, other)

    def __ne__(self, other: object) -> Any:
        return self._asked(ne, other)

    def __bool__(self) -> bool:
        return bool(self._asked(ne, 0))

    __hash__ = None  # type: ignore[assignment]

    def _made(self, compute: Compute, other: Any) -> Any:
        trace = self.trace
        if other.__class__ is not Symbol:
            if other.__class__ is not int and other.__class__ is not float:
                return NotImplemented
            other = trace.number(other)
        a, b = self.at, other.at
        if b < a and (compute is mul or compute is add):
            a, b = b, a
        found = trace.known.get((compute, a, b))
        return trace.add((compute, a, b), compute(self.value, other.value)) if found is None else found

    def _asked(self, compare: Compare, other: Any) -> Any:
        if other is self:
            return compare(0, 0)
        if other.__class__ is not Symbol:
            if other.__class__ is not int and other.__class__ is not float:
                return NotImplemented
            other = self.trace.number(other)
        found = self.trace.asked[compare, self.at, other.at] = compare(self.value, other.value)
        return found
