"""Layouts: which mesh axes split which dims, and which reductions are still pending."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from math import prod
from typing import Any

from compiler.graph import Dim, Type
from dsl.data import Unique, dataclass, fix

TIME = "micro-batches"  # their axis: a split over time, not over devices. No mesh can call one of its axes so


@dataclass(frozen=True, slots=True)
class Layout(Unique):
    """`dims[i]`: the axes (major to minor) that split dim i of the type; `pending`: (axis, "sum" | "max"), in the order
    of the mesh, the micro-batches first.

    `halo`: (dim index, left, right): borders that a piece holds beyond its own part. Axes in neither: replicated.
    `axes`: those along which pieces differ; `split_axes`: those that split a dim.
    """

    dims: tuple[tuple[str, ...], ...]
    pending: tuple[tuple[str, str], ...] = ()
    halo: tuple[tuple[int, int, int], ...] = ()
    axes: frozenset[str] = field(init=False, repr=False, compare=False)
    split_axes: frozenset[str] = field(init=False, repr=False, compare=False)
    _dim_of: dict[str, int] = field(init=False, repr=False, compare=False)
    _pending_on: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        dim_of = {a: i for i, axes in reversed([*enumerate(self.dims)]) for a in axes}
        pending_on = {a: fn for a, fn in reversed(self.pending)}
        split = frozenset(dim_of)
        fix(self, axes=split | pending_on.keys(), split_axes=split, _dim_of=dim_of, _pending_on=pending_on)

    def pending_on(self, axis: str) -> str | None:
        """The reduction that is pending along the axis."""
        return self._pending_on.get(axis)

    def dim_of(self, axis: str) -> int | None:
        """The dim that the axis splits."""
        return self._dim_of.get(axis)

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
    if not found:
        return ()
    return tuple([(a, found[a]) for a in mesh if a in found])


def replicated(rank: int) -> Layout:
    """Makes the layout of a tensor of `rank` dims that every device holds whole."""
    return Layout(((),) * rank)


def local_type(type: Type, layout: Layout, sizes: Mapping[str, int]) -> Type:
    """The piece that one device holds of a (logical) `type`; uneven sizes are rounded up (padded)."""
    if not layout.split_axes:
        return type
    return _local_type(type, layout, tuple([sizes[a] for a in layout._dim_of]))


@lru_cache(1 << 14)
def _local_type(type: Type, layout: Layout, parts: tuple[int, ...]) -> Type:
    """`parts`: into how many each axis of the layout splits its dim."""
    sizes = dict(zip(layout._dim_of, parts, strict=True))
    dims = list(type.dims)
    for i in set(layout._dim_of.values()):
        dims[i] = Dim(dims[i].name, -(-dims[i].size // prod([sizes[a] for a in layout.dims[i]])))
    for i, left, right in layout.halo:
        dims[i] = Dim(dims[i].name, dims[i].size + left + right)
    return Type(type.dtype, tuple(dims))


def nested(size: int, counts: Iterable[int]) -> list[int]:
    """How long the pieces of a dim are as axes of so many devices split it one after the other: first the dim itself.

    Each cuts the pieces before it into parts of equal length, rounded up. In the end that is the size over the product
    of all, rounded up; but what is uneven further up leaves unused elements there, too.
    """
    found = [size]
    for n in counts:
        found.append(-(-found[-1] // n))
    return found


def piece_of_dim(
    size: int, axes: Iterable[str], sizes: Mapping[str, int], at: Mapping[str, Any], lower: Callable[..., Any] = min
) -> tuple[Any, Any]:
    """Where in a dim the piece of the device at coordinates `at` begins, and behind which element what it has ends.

    Of a piece that has nothing the end may lie before the start. With arrays of coordinates (`lower`: their minimum)
    the results are arrays.
    """
    start, stop, length = 0, size, size
    for a in axes:
        length = -(-length // sizes[a])
        start = start + at[a] * length
        stop = lower(stop, start + length)
    return start, stop


def has_gaps(dim: Dim, axes: tuple[str, ...], sizes: Mapping[str, int]) -> bool:
    """True if unused elements lie between pieces, not only behind the last element of the dim."""
    counts = [sizes[a] for a in axes]
    return any(length % n for length, n in list(zip(nested(dim.size, counts), counts))[1:])


def correspond(size: int, other: int, counts: Sequence[int]) -> bool:
    """True if axes of so many devices cut two dims, one a multiple of the other, into pieces that belong together."""
    if other == size or size % prod(counts) == 0:
        return True
    small, large = sorted((size, other))
    times = large // small
    return all(a * times == b for a, b in zip(nested(small, counts), nested(large, counts)))


def is_padded(dim: Dim, axes: tuple[str, ...], sizes: Mapping[str, int]) -> bool:
    """True if the axes do not divide the dim, so that the last pieces hold unused elements."""
    return bool(axes) and dim.size % prod(sizes[a] for a in axes) != 0
