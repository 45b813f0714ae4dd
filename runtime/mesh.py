"""The mesh of a program: which devices there are, and which part of a logical tensor each holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from math import prod

from compiler.declared import logical as logical
from compiler.declared import logical_type as logical_type
from compiler.declared import range_of
from compiler.layout import TIME
from compiler.program import DeviceClass, Program, StateDecl
from dsl.data import dataclass


@dataclass(frozen=True)
class Mesh:
    """The mesh axes of a program in order, and the sizes of all its axes (time and places too)."""

    axes: tuple[str, ...]
    sizes: Mapping[str, int]

    @staticmethod
    def of(program: Program) -> Mesh:
        return Mesh(tuple(a.name for a in program.axes if a.kind == "mesh"), program.sizes)

    @property
    def lead(self) -> int:
        """Number of leading axes of a stacked array."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[a] for a in self.axes)

    @cached_property
    def devices(self) -> tuple[dict[str, int], ...]:
        """The mesh coordinates of every device of a group, row-major."""
        return tuple(dict(zip(self.axes, at, strict=True)) for at in product(*map(range, self.shape)))

    def index(self, axis: str) -> int:
        """Which leading axis; raises ValueError for the time axis and unknown ones."""
        return self.axes.index(axis)

    def count(self, axes: Sequence[str]) -> int:
        return prod(self.sizes[a] for a in axes)

    def lead_shape(self, axes: frozenset[str]) -> tuple[int, ...]:
        """The leading shape of a value that varies along these axes."""
        return tuple(self.sizes[a] if a in axes else 1 for a in self.axes)

    def piece(self, axes: Sequence[str], at: Mapping[str, int]) -> int:
        """The number of the piece that the device at coordinates `at` holds of a dim split by `axes`."""
        number = 0
        for a in axes:
            number = number * self.sizes[a] + at[a]
        return number


def region(decl: StateDecl, cls: DeviceClass, group: int, mesh: Mesh, at: Mapping[str, int]) -> list[tuple[int, int]]:
    """Which part of the logical tensor a device's buffer holds: (start, stop) along each dim, without padding."""
    r = range_of(decl, cls)
    found = []
    for dim, split in zip(decl.type.dims, decl.layout.dims, strict=True):
        size = -(-dim.size // mesh.count(split))
        start = mesh.piece(split, at) * size
        first = r.first.at(group) if r is not None and dim.name == r.dim else 0
        found.append((first + min(start, dim.size), first + min(start + size, dim.size)))
    return found


def parted(decl: StateDecl) -> bool:
    """Whether each micro-batch has a part of its own."""
    return TIME in decl.layout.split_axes
