"""In which form a value is asked for: along each of its dims that are positions, at which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from compiler.graph import Dim, Type
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """new: dims along which new positions are asked for only. last: dims with the number of the last positions that are
    asked for besides the new ones. seats: those of experts, with the number that the new positions need. Along other
    dims that are positions all of them are asked for."""

    new: frozenset[str] = frozenset()
    last: frozenset[tuple[str, int]] = frozenset()
    seats: frozenset[tuple[str, int]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.new or self.last or self.seats)

    def among(self, dims: Iterable[str]) -> Demand:
        """What it says of some dims."""
        names = frozenset(dims)
        if self.dims <= names:
            return self
        last, seats = (frozenset(x for x in of if x[0] in names) for of in (self.last, self.seats))
        return Demand(self.new & names, last, seats)

    @property
    def dims(self) -> frozenset[str]:
        """Of which it says something."""
        return self.new.union(d for d, _ in (*self.last, *self.seats))

    def resized(self, type: Type, new: Dim, near: Callable[[int], int]) -> Type:
        """The type of a value in this form. near: how many so many last ones and the new ones are."""
        lengths = {d: near(count) for d, count in self.last} | dict(self.seats)
        if self.new.isdisjoint(type.names) and lengths.keys().isdisjoint(type.names):
            return type
        dims = (new if d.name in self.new else Dim(d.name, lengths.get(d.name, d.size)) for d in type.dims)
        return Type(type.dtype, tuple(dims))


ALL = Demand()


def only_new(*dims: str) -> Demand:
    """New positions along these dims."""
    return Demand(frozenset(dims))
