"""Collectives between neighbours: borders of pieces, and elements that move on to the next piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compiler.graph import Type
from compiler.layout import Layout
from compiler.ops.base import Derive
from compiler.ops.comm import Comm, LayoutError, Operand, Pattern, Sizes, dim_of
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Neighbours(Comm):
    """Base: some rows of a piece along `dim` go to the neighbours along `axes`, and where these pieces are too short to
    their neighbours, too: straight to whoever needs them."""

    message: ClassVar[bool] = True
    pattern: ClassVar[Pattern] = Pattern.NEIGHBOURS
    dim: str
    axes: tuple[str, ...]

    def rows(self, piece: Type, sizes: Sizes) -> int:
        """Elements along the dim that leave a device."""
        raise NotImplementedError

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        """Elements of neighbours may come to lie there."""
        return {dim: value for dim, value in known.items() if dim != self.dim}

    def sent(self, piece: Type, sizes: Sizes) -> float:
        return piece.bytes / piece.size(self.dim) * self.rows(piece, sizes)

    def volume(self, before: Type, after: Type, sizes: Sizes) -> int:
        return before.elements // before.size(self.dim) * self.rows(before, sizes)


@dataclass(frozen=True, slots=True)
class _Borders(Neighbours):
    """Base of exchanges of borders."""

    left: int
    right: int

    def rows(self, piece: Type, sizes: Sizes) -> int:
        """Borders of others; of one piece each of them can have no more than all of it."""
        own = piece.size(self.dim) - (self.left + self.right if isinstance(self, HaloAdd) else 0)
        return min(self.left + self.right, (self.devices(sizes) - 1) * own)


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
        if min(self.left, self.right) < 0:
            raise LayoutError(f"borders of {self.left} and {self.right} along {self.dim}")
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

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        return {**known, self.dim: 0.0}


@dataclass(frozen=True, slots=True)
class ShiftAcross(Neighbours):
    """Every element moves `by` places along `dim`, from piece to piece along `axes`; `fill` follows, or, `around`, what
    has left at the other end."""

    mnemonic: ClassVar[str] = "shift_across"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("", "dim"), ("over", "axes"), ("by", "by"), ("with", "fill"), ("around", "around")),
    )
    derived: ClassVar[Mapping[str, Derive]] = {"around": lambda _: False}
    by: int
    fill: float
    around: bool = False

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        i, layout = dim_of(self.dim, x), x.layout
        if layout.dims[i] != self.axes or any(d == i for d, _, _ in layout.halo):
            along = "/".join(layout.dims[i]) or "it has none"
            raise LayoutError(f"{self.dim} is shifted along all of its axes, without borders: {along}")
        if layout.pending and self.fill != 0:
            raise LayoutError(f"%{x.name} is a pending sum: only 0 can follow")
        if not 0 < abs(self.by) < x.type.dims[i].size and not self.around:
            raise LayoutError(f"shift by {self.by} along {self.dim} of {x.type.dims[i].size}")
        return layout

    @property
    def aside(self) -> bool:
        """What goes round a ring, while each device computes with what it has (ring attention, overlapped products)."""
        return self.around

    def rows(self, piece: Type, sizes: Sizes) -> int:
        """All, if they move further than the piece is long."""
        length = piece.size(self.dim)
        by = self.by % (length * self.devices(sizes)) if self.around else abs(self.by)
        return min(by, length * self.devices(sizes) - by, length) if self.around else min(by, length)
