"""The mesh of a program: which devices there are, and which part of a logical tensor each holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from math import prod

from compiler.declared import range_of
from compiler.layout import TIME, piece_of_dim
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

    def part(self, size: int, axes: Sequence[str], at: Mapping[str, int]) -> tuple[int, int]:
        """From where to behind where in a dim of this size the device at coordinates `at` has elements."""
        start, stop = piece_of_dim(size, axes, self.sizes, at)
        start = min(start, size)
        return start, max(start, stop)

    def spans(self, size: int, axes: Sequence[str]) -> list[tuple[int, int]]:
        """The same of all pieces that the axes make, in their order; one that has nothing may begin beyond the end."""
        every = product(*(range(self.sizes[a]) for a in axes))
        found = [piece_of_dim(size, axes, self.sizes, dict(zip(axes, at, strict=True))) for at in every]
        return [(start, max(start, stop)) for start, stop in found]


def region(decl: StateDecl, cls: DeviceClass, group: int, mesh: Mesh, at: Mapping[str, int]) -> list[tuple[int, int]]:
    """Which part of the logical tensor a device's buffer holds: (start, stop) along each dim, without padding."""
    r = range_of(decl, cls)
    found = []
    for dim, split in zip(decl.type.dims, decl.layout.dims, strict=True):
        low, high = mesh.part(dim.size, split, at)
        first = r.start.at(group) if r is not None and dim.name == r.dim else 0
        found.append((first + low, first + high))
    return found


def parted(decl: StateDecl) -> bool:
    """Whether each micro-batch has a part of its own."""
    return TIME in decl.layout.split_axes
