"""In which form a value is asked for: along each of its dims that are positions, at which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from compiler.graph import Dim, Type
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """new: dims along which new positions are asked for only. last: dims with the number of the last positions that are
    asked for besides the new ones. Along other dims that are positions all of them are."""

    new: frozenset[str] = frozenset()
    last: frozenset[tuple[str, int]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.new or self.last)

    def among(self, dims: Iterable[str]) -> Demand:
        """What it says of some dims."""
        names = frozenset(dims)
        if self.dims <= names:
            return self
        return Demand(self.new & names, frozenset(x for x in self.last if x[0] in names))

    @property
    def dims(self) -> frozenset[str]:
        """Of which it says something."""
        return self.new.union(d for d, _ in self.last)

    def resized(self, type: Type, new: Dim, near: Callable[[int], int]) -> Type:
        """The type of a value in this form. near: how many positions are those of so many last ones and the new ones."""
        lengths = {d: near(count) for d, count in self.last}
        if self.new.isdisjoint(type.names) and lengths.keys().isdisjoint(type.names):
            return type
        dims = (new if d.name in self.new else Dim(d.name, lengths.get(d.name, d.size)) for d in type.dims)
        return Type(type.dtype, tuple(dims))


ALL = Demand()


def only_new(*dims: str) -> Demand:
    """New positions along these dims."""
    return Demand(frozenset(dims))
