"""Whole numbers that remember how they were made of the sizes of axes, and what was asked of them.

What is computed with them for some sizes can be computed for others by going through the same steps (`Steps.run`), as
long as all comparisons come out as they did: then whoever computed with them would have done the very same. Nothing
but whole numbers can be made of them, and they cannot be looked up: either is a TypeError, never a guess.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
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

    def symbol(self, of: Symbol | int) -> Symbol:
        """A number as one of these."""
        return of if isinstance(of, Symbol) else self._make(None, of, 0, of)

    def make(self, compute: Compute, a: Symbol | int, b: Symbol | int) -> Symbol:
        """Of two numbers a third."""
        a, b = self.symbol(a), self.symbol(b)
        if compute is operator.mul and b.at < a.at:
            a, b = b, a
        return self._make(compute, a.at, b.at, compute(a.value, b.value))

    def _make(self, compute: Compute | None, a: Any, b: int, value: int) -> Symbol:
        found = self.known.get((compute, a, b))
        if found is None:
            found = self.known[compute, a, b] = Symbol(self, len(self.given) + len(self.made), value)
            self.made.append((compute, a, b))
        return found

    def ask(self, compare: Compare, a: Symbol, b: Symbol | int) -> bool:
        """How a comparison comes out."""
        b = self.symbol(b)
        found = compare(a.value, b.value)
        if a.at != b.at:
            self.asked[compare, a.at, b.at] = found
        return found


class SymbolSizes(dict[str, Any]):
    """Sizes of axes, as symbols."""

    trace: SizeTrace


def answer(sizes: Mapping[str, int], question: Question) -> int:
    """What is found of sizes in ways that symbols do not go through: with these it is asked again of others."""
    if not isinstance(sizes, SymbolSizes):
        return question(sizes)
    trace, found = sizes.trace, question(sizes.trace.given)
    answered: Any = trace._make(whole, question, 0, found)
    return answered  # type: ignore[no-any-return]


class Symbol:
    """One of the numbers. at: its place among them."""

    __slots__ = ("at", "trace", "value")

    def __init__(self, trace: SizeTrace, at: int, value: int) -> None:
        self.trace, self.at, self.value = trace, at, value

    def __add__(self, other: Symbol | int) -> Symbol:
        return self.trace.make(operator.add, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __sub__(self, other: Symbol | int) -> Symbol:
        return self.trace.make(operator.sub, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __rsub__(self, other: int) -> Symbol:
        return self.trace.make(operator.sub, other, self) if isinstance(other, int) else NotImplemented

    def __mul__(self, other: Symbol | int) -> Symbol:
        return self.trace.make(operator.mul, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __floordiv__(self, other: Symbol | int) -> Symbol:
        return self.trace.make(operator.floordiv, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __rfloordiv__(self, other: int) -> Symbol:
        return self.trace.make(operator.floordiv, other, self) if isinstance(other, int) else NotImplemented

    def __neg__(self) -> Symbol:
        return self.trace.make(operator.sub, 0, self)

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other: Symbol | int) -> bool:
        return self.trace.ask(operator.lt, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __le__(self, other: Symbol | int) -> bool:
        return self.trace.ask(operator.le, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __gt__(self, other: Symbol | int) -> bool:
        return self.trace.ask(operator.gt, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __ge__(self, other: Symbol | int) -> bool:
        return self.trace.ask(operator.ge, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self.trace.ask(operator.eq, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return self.trace.ask(operator.ne, self, other) if isinstance(other, (Symbol, int)) else NotImplemented

    def __bool__(self) -> bool:
        return self.trace.ask(operator.ne, self, 0)

    __hash__ = None  # type: ignore[assignment]
