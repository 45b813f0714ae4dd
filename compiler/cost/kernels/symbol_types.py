"""Types of pieces whose sizes are symbols."""

from __future__ import annotations

from typing import Any, NamedTuple

from compiler.cost.kernels.symbols import Symbol
from compiler.graph import ITEMSIZE
from dsl.data import dataclass


class SymbolDim(NamedTuple):
    """As `graph.Dim`."""

    name: str
    size: Symbol | int


@dataclass(eq=False, slots=True)
class SymbolType:
    """As `graph.Type`, of a piece whose sizes are symbols."""

    dtype: str
    dims: tuple[SymbolDim, ...]
    elements: Any

    @property
    def names(self) -> tuple[str, ...]:
        return tuple([d.name for d in self.dims])

    @property
    def bytes(self) -> Any:
        return self.elements * ITEMSIZE[self.dtype]

    def size(self, name: str) -> Symbol | int:
        return next(d.size for d in self.dims if d.name == name)

    def has(self, name: str) -> bool:
        return any(d.name == name for d in self.dims)
