"""Collectives between neighbours: borders of pieces, and elements that move on to the next piece."""

from __future__ import annotations

from typing import ClassVar

from compiler.graph import Type
from compiler.layout import Layout, is_padded
from compiler.ops.comm import Comm, LayoutError, Operand, Pattern, Sizes, dim_of
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class _Neighbours(Comm):
    """Base: some rows of a piece along `dim` go to the neighbours along `axes`."""

    message: ClassVar[bool] = True
    pattern: ClassVar[Pattern] = Pattern.NEIGHBOURS
    dim: str
    axes: tuple[str, ...]

    def rows(self, piece: Type) -> int:
        """Elements along the dim that leave a device."""
        raise NotImplementedError

    def sent(self, piece: Type, sizes: Sizes) -> float:
        return piece.bytes / piece.size(self.dim) * self.rows(piece)

    def volume(self, before: Type, after: Type, sizes: Sizes) -> int:
        return before.elements // before.size(self.dim) * self.rows(before)


@dataclass(frozen=True, slots=True)
class _Borders(_Neighbours):
    """Base of exchanges of borders."""

    left: int
    right: int

    def rows(self, piece: Type) -> int:
        return self.left + self.right


@dataclass(frozen=True, slots=True)
class Halo(_Borders):
    """Fetch `left`/`right` elements of `dim` from the neighbours along `axes`; `fill` at the ends."""

    mnemonic: ClassVar[str] = "halo"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("", "dim"), ("over", "axes"), ("left", "left"), ("right", "right"), ("with", "fill")),
    )
    fill: float

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        i, layout = dim_of(self.dim, x), x.layout
        if layout.dims[i] != self.axes or any(d == i for d, _, _ in layout.halo):
            along = "/".join(layout.dims[i]) or "it has none"
            raise LayoutError(f"borders of {self.dim} go along all of its axes, once: {along}")
        if layout.pending and self.fill != 0:
            raise LayoutError(f"%{x.name} is a pending sum: only 0 can stand beyond its ends")
        n, size = self.devices(sizes), x.type.dims[i].size
        if min(self.left, self.right) < 0 or max(self.left, self.right) * n > size:
            raise LayoutError(f"borders of {self.left} and {self.right}: a piece of {self.dim} has {size // n}")
        return Layout(layout.dims, layout.pending, tuple(sorted((*layout.halo, (i, self.left, self.right)))))


@dataclass(frozen=True, slots=True)
class HaloAdd(_Borders):
    """Adjoint of `halo`: borders are sent back and added; what lies beyond the ends is dropped."""

    mnemonic: ClassVar[str] = "halo_add"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("", "dim"), ("over", "axes"), ("left", "left"), ("right", "right")),
    )

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        i, layout = dim_of(self.dim, x), x.layout
        if layout.dims[i] != self.axes or (i, self.left, self.right) not in layout.halo:
            borders, along = f"({self.left}, {self.right})", "/".join(self.axes)
            raise LayoutError(f"{self.dim} of %{x.name} has no borders {borders} along {along}")
        if any(fn != "sum" for _, fn in layout.pending):
            raise LayoutError("borders of a pending maximum cannot be added")
        return Layout(layout.dims, layout.pending, tuple(h for h in layout.halo if h[0] != i))


@dataclass(frozen=True, slots=True)
class ShiftAcross(_Neighbours):
    """Every element moves `by` places along `dim`, from piece to piece along `axes`; `fill` follows."""

    mnemonic: ClassVar[str] = "shift_across"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "dim"), ("over", "axes"), ("by", "by"), ("with", "fill"))
    by: int
    fill: float

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        i, layout = dim_of(self.dim, x), x.layout
        if layout.dims[i] != self.axes or any(d == i for d, _, _ in layout.halo):
            along = "/".join(layout.dims[i]) or "it has none"
            raise LayoutError(f"{self.dim} is shifted along all of its axes, without borders: {along}")
        if is_padded(x.type.dims[i], self.axes, sizes):
            raise LayoutError(f"{self.dim} of %{x.name} is padded: elements would move into what is unused")
        if layout.pending and self.fill != 0:
            raise LayoutError(f"%{x.name} is a pending sum: only 0 can follow")
        if not 0 < abs(self.by) < x.type.dims[i].size:
            raise LayoutError(f"shift by {self.by} along {self.dim} of {x.type.dims[i].size}")
        return layout

    def rows(self, piece: Type) -> int:
        """All, if they move further than the piece is long."""
        return min(abs(self.by), piece.size(self.dim))
