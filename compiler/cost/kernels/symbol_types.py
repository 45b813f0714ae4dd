"""Types of pieces whose sizes are symbols."""

from __future__ import annotations

from dataclasses import field
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
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.names = tuple([d.name for d in self.dims])

    @property
    def bytes(self) -> Any:
        return self.elements * ITEMSIZE[self.dtype]

    def size(self, name: str) -> Symbol | int:
        return next(d.size for d in self.dims if d.name == name)

    def has(self, name: str) -> bool:
        return name in self.names
