"""Layouts: which mesh axes split which dims, and which reductions are still pending."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

from compiler.graph import Dim, Type
from dsl.data import dataclass

TIME = "micro-batches"  # their axis: a split over time, not over devices. No mesh can call one of its axes so


@dataclass(frozen=True, slots=True)
class Layout:
    """`dims[i]`: the axes (major to minor) that split dim i of the type; `pending`: (axis, "sum" | "max"), in the order
    of the mesh, the micro-batches first.

    `halo`: (dim index, left, right): borders that a piece holds beyond its own part. Axes in neither: replicated.
    """

    dims: tuple[tuple[str, ...], ...]
    pending: tuple[tuple[str, str], ...] = ()
    halo: tuple[tuple[int, int, int], ...] = ()

    @property
    def axes(self) -> frozenset[str]:
        """Axes along which pieces differ."""
        return frozenset(a for d in self.dims for a in d) | frozenset(a for a, _ in self.pending)

    @property
    def split_axes(self) -> frozenset[str]:
        return frozenset(a for d in self.dims for a in d)

    def pending_on(self, axis: str) -> str | None:
        for a, fn in self.pending:
            if a == axis:
                return fn
        return None

    def dim_of(self, axis: str) -> int | None:
        for i, axes in enumerate(self.dims):
            if axis in axes:
                return i
        return None

    def stacked(self) -> Layout:
        """Of a stack of such values: their dims behind a whole one."""
        halo = tuple((d + 1, left, right) for d, left, right in self.halo)
        return Layout(((), *self.dims), self.pending, halo)

    def resolved(self) -> Layout:
        """The same without pending reductions."""
        return Layout(self.dims, (), self.halo)


def in_order(pending: Iterable[tuple[str, str]], mesh: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Pending reductions in the order of the mesh's axes."""
    found = dict(pending)
    if len(found) < 2:
        return tuple([(a, fn) for a, fn in found.items() if a in mesh])
    return tuple([(a, found[a]) for a in mesh if a in found])


def replicated(rank: int) -> Layout:
    """Makes the layout of a tensor of `rank` dims that every device holds whole."""
    return Layout(((),) * rank)


def local_type(type: Type, layout: Layout, sizes: Mapping[str, int]) -> Type:
    """The piece that one device holds of a (logical) `type`; uneven sizes are rounded up (padded)."""
    if not any(layout.dims):
        return type
    dims = [
        Dim(d.name, -(-d.size // prod([sizes[a] for a in axes]))) if axes else d
        for d, axes in zip(type.dims, layout.dims, strict=True)
    ]
    for i, left, right in layout.halo:
        dims[i] = Dim(dims[i].name, dims[i].size + left + right)
    return Type(type.dtype, tuple(dims))


def is_padded(dim: Dim, axes: tuple[str, ...], sizes: Mapping[str, int]) -> bool:
    """True if the axes do not divide the dim, so that the last pieces hold unused elements."""
    return bool(axes) and dim.size % prod(sizes[a] for a in axes) != 0
