"""Collectives and the local ops that go with layouts. Operand and result have the same logical type.

Everything about one stands in its class: which layout it gives (`after`), what a device sends (`sent`), how its
messages go (`pattern`, `passes`), what is known of unused elements after it. Each executor registers code for it
(`@collective`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from math import prod
from typing import ClassVar, NamedTuple

from compiler.graph import Type
from compiler.layout import Layout, in_order, is_padded
from compiler.ops.base import Movement, Op
from dsl.data import dataclass

Sizes = Mapping[str, int]


class Pattern(Enum):
    """How the devices of a group send. local: not at all. ring: pieces go around, or up and down a tree.
    direct: each device to each other. neighbours: to those before and after it only."""

    LOCAL = "local"
    RING = "ring"
    DIRECT = "direct"
    NEIGHBOURS = "neighbours"


class Operand(NamedTuple):
    """The operand of a collective: a value's name, its logical type and its layout."""

    name: str
    type: Type
    layout: Layout


class LayoutError(Exception):
    """The operand's layout does not suit the collective."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.message, self.help = message, help


@dataclass(frozen=True, slots=True)
class Comm(Op):
    """Same logical type in and out. passes: how often the data goes around."""

    pattern: ClassVar[Pattern] = Pattern.LOCAL
    passes: ClassVar[int] = 1

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (inputs[0],)

    def over(self) -> tuple[str, ...]:
        """The axes along which devices take part."""
        axes: tuple[str, ...] = getattr(self, "axes", ())
        return axes

    def along(self) -> str:
        """The dim that is gathered, cut or moved along; "" where there is none."""
        dim: str = getattr(self, "dim", "")
        return dim

    def devices(self, sizes: Sizes) -> int:
        """How many devices take part."""
        return prod([sizes[a] for a in self.over()])

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        """The layout of the result; raises LayoutError."""
        raise NotImplementedError

    def sent(self, piece: Type, sizes: Sizes) -> float:
        """Bytes that one device sends; piece: the local type of the operand."""
        return 0.0

    def volume(self, before: Type, after: Type, sizes: Sizes) -> int:
        """Elements that prices are made of: of the whole of which each device has or gets a piece; of borders for
        neighbours. before, after: local types."""
        return max(before.elements, after.elements)

    @property
    def aside(self) -> bool:
        """Whether systems send it on a stream of its own, and wait for it where it is read."""
        return False

    def merged(self, next: Op) -> Op | None:
        """One op for this one and the next, if there is one."""
        return None

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        """What the unused elements of dims hold after it, of operand `x`; known: before it."""
        return known


# --- layouts ------------------------------------------------------------------------------------------------


def _plain(x: Operand) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Dims and pending reductions of an operand without borders."""
    if x.layout.halo:
        raise LayoutError(f"%{x.name} has borders", "`halo_add` gives them back")
    return [*x.layout.dims], dict(x.layout.pending)


def _layout(dims: list[tuple[str, ...]], pending: Mapping[str, str], sizes: Sizes) -> Layout:
    return Layout(tuple(dims), in_order(pending.items(), sizes))


def dim_of(name: str, x: Operand) -> int:
    """The position of a dim; LayoutError if the operand has none of that name."""
    if not x.type.has(name):
        raise LayoutError(f"%{x.name} has no dim {name}")
    return x.type.index(name)


def _settle(pending: dict[str, str], axes: tuple[str, ...], fn: str, x: Operand) -> None:
    for a in axes:
        if pending.pop(a, None) != fn:
            raise LayoutError(f"%{x.name} has no pending {fn} over {a}")


def _replicated(axes: tuple[str, ...], x: Operand) -> None:
    held = [a for a in axes if a in x.layout.axes]
    if held:
        raise LayoutError(f"%{x.name} is not replicated on {held[0]}")


def _remove(dims: list[tuple[str, ...]], name: str, axes: tuple[str, ...], x: Operand) -> None:
    i = dim_of(name, x)
    if dims[i][-len(axes) :] != axes:
        held = "/".join(dims[i]) or "nothing"
        raise LayoutError(f"{name} of %{x.name} is split on {held}: {'/'.join(axes)} are not its minor-most axes")
    dims[i] = dims[i][: -len(axes)]


def _append(dims: list[tuple[str, ...]], name: str, axes: tuple[str, ...], x: Operand) -> None:
    i = dim_of(name, x)
    dims[i] = (*dims[i], *axes)


def _cut(known: Mapping[str, float], name: str, x: Operand, sizes: Sizes) -> Mapping[str, float]:
    """What unused elements hold after a cut, which pads with zeros; what was unused before stays what it was."""
    i = x.type.index(name)
    if is_padded(x.type.dims[i], x.layout.dims[i], sizes) and known.get(name) != 0:
        return {dim: value for dim, value in known.items() if dim != name}
    return {**known, name: 0.0}


# --- the ops --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Relayout(Comm):
    """In placed graphs only: bring the operand into `layout`. Lowering turns it into the ops below."""

    mnemonic: ClassVar[str] = "relayout"
    message: ClassVar[bool] = True
    layout: Layout


@dataclass(frozen=True, slots=True)
class AllReduce(Comm):
    """pending(axes, fn) -> replicated on axes."""

    mnemonic: ClassVar[str] = "all_reduce"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "fn"), ("over", "axes"))
    message: ClassVar[bool] = True
    pattern: ClassVar[Pattern] = Pattern.RING
    passes: ClassVar[int] = 2  # to reduce, and to tell everybody
    axes: tuple[str, ...]
    fn: str

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        dims, pending = _plain(x)
        _settle(pending, self.axes, self.fn, x)
        return _layout(dims, pending, sizes)

    def sent(self, piece: Type, sizes: Sizes) -> float:
        n = self.devices(sizes)
        return 2 * (n - 1) / n * piece.bytes

    def merged(self, next: Op) -> Op | None:
        if isinstance(next, AllReduce) and self.fn == next.fn:
            return AllReduce((*self.axes, *next.axes), self.fn)
        return None


@dataclass(frozen=True, slots=True)
class AllGather(Comm):
    """The minor-most `axes` of `dim` -> replicated (padding is cut off where the dim is whole again)."""

    mnemonic: ClassVar[str] = "all_gather"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "dim"), ("over", "axes"))
    message: ClassVar[bool] = True
    pattern: ClassVar[Pattern] = Pattern.RING
    dim: str
    axes: tuple[str, ...]

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        dims, pending = _plain(x)
        _remove(dims, self.dim, self.axes, x)
        return _layout(dims, pending, sizes)

    def sent(self, piece: Type, sizes: Sizes) -> float:
        return float((self.devices(sizes) - 1) * piece.bytes)

    def volume(self, before: Type, after: Type, sizes: Sizes) -> int:
        return before.elements * self.devices(sizes)  # uneven pieces are sent as large as the largest

    def merged(self, next: Op) -> Op | None:
        if isinstance(next, AllGather) and self.dim == next.dim:
            return AllGather(self.dim, (*next.axes, *self.axes))
        return None


@dataclass(frozen=True, slots=True)
class ReduceScatter(Comm):
    """pending(axes, fn) -> `dim` split on axes, appended as its minor-most."""

    mnemonic: ClassVar[str] = "reduce_scatter"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "fn"), ("into", "dim"), ("over", "axes"))
    message: ClassVar[bool] = True
    pattern: ClassVar[Pattern] = Pattern.RING
    dim: str
    axes: tuple[str, ...]
    fn: str

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        dims, pending = _plain(x)
        _settle(pending, self.axes, self.fn, x)
        _append(dims, self.dim, self.axes, x)
        return _layout(dims, pending, sizes)

    def sent(self, piece: Type, sizes: Sizes) -> float:
        n = self.devices(sizes)
        return (n - 1) / n * piece.bytes

    def merged(self, next: Op) -> Op | None:
        if isinstance(next, ReduceScatter) and (self.dim, self.fn) == (next.dim, next.fn):
            return ReduceScatter(self.dim, (*self.axes, *next.axes), self.fn)
        return None

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        return _cut(known, self.dim, x, sizes)


@dataclass(frozen=True, slots=True)
class AllToAll(Comm):
    """The minor-most `axes` of dim `gather` move to be the minor-most of dim `scatter`."""

    mnemonic: ClassVar[str] = "all_to_all"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("from", "gather"), ("to", "scatter"), ("over", "axes"))
    message: ClassVar[bool] = True
    pattern: ClassVar[Pattern] = Pattern.DIRECT
    gather: str
    scatter: str
    axes: tuple[str, ...]

    def along(self) -> str:
        return self.scatter

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        dims, pending = _plain(x)
        _remove(dims, self.gather, self.axes, x)
        if self.gather == self.scatter:
            raise LayoutError("an all_to_all moves axes from one dim to another")
        _append(dims, self.scatter, self.axes, x)
        return _layout(dims, pending, sizes)

    def sent(self, piece: Type, sizes: Sizes) -> float:
        n = self.devices(sizes)
        return (n - 1) / n * piece.bytes

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        return _cut(known, self.scatter, x, sizes)


@dataclass(frozen=True, slots=True)
class Shard(Comm):
    """Local: replicated on `axes` -> own part of `dim` (axes appended as minor-most; padded where uneven)."""

    mnemonic: ClassVar[str] = "shard"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "dim"), ("over", "axes"))
    movement: ClassVar[Movement] = Movement.COPY
    dim: str
    axes: tuple[str, ...]

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        dims, pending = _plain(x)
        _replicated(self.axes, x)
        _append(dims, self.dim, self.axes, x)
        return _layout(dims, pending, sizes)

    def merged(self, next: Op) -> Op | None:
        if isinstance(next, Shard) and self.dim == next.dim:
            return Shard(self.dim, (*self.axes, *next.axes))
        return None

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        return _cut(known, self.dim, x, sizes)


@dataclass(frozen=True, slots=True)
class OnlyFirst(Comm):
    """Local: replicated on `axes` -> pending sum: kept where all coordinates on axes are 0, zero elsewhere."""

    mnemonic: ClassVar[str] = "only_first"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "axes"),)
    movement: ClassVar[Movement] = Movement.COPY
    axes: tuple[str, ...]

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        dims, pending = _plain(x)
        _replicated(self.axes, x)
        return _layout(dims, pending | dict.fromkeys(self.axes, "sum"), sizes)

    def merged(self, next: Op) -> Op | None:
        return OnlyFirst((*self.axes, *next.axes)) if isinstance(next, OnlyFirst) else None


@dataclass(frozen=True, slots=True)
class MaskPad(Comm):
    """Local: the unused elements of padded `dim` become `value` (before a reduction over it)."""

    mnemonic: ClassVar[str] = "mask_pad"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "dim"), ("with", "value"))
    pointwise: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    dim: str
    value: float

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        if x.layout.pending and self.value != 0:
            raise LayoutError(f"%{x.name} is a pending sum: only 0 can be put into its unused elements")
        dim_of(self.dim, x)
        return x.layout

    def fills(self, known: Mapping[str, float], x: Operand, sizes: Sizes) -> Mapping[str, float]:
        return {**known, self.dim: self.value}
