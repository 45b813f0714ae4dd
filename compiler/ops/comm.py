"""Collectives and the local ops that go with layouts. Operand and result have the same logical type.

Which axes, dims and borders are involved is an attribute, so that text can be read and verified; `infer` keeps types,
`compiler.verify` holds each against the layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.graph import Type
from compiler.layout import Layout
from compiler.ops.base import Op


@dataclass(frozen=True, slots=True)
class Comm(Op):
    """Same logical type in and out."""

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (inputs[0],)


@dataclass(frozen=True, slots=True)
class Relayout(Comm):
    """In placed graphs only: bring the operand into `layout`. Lowering turns it into the ops below."""

    mnemonic: ClassVar[str] = "relayout"
    layout: Layout


@dataclass(frozen=True, slots=True)
class AllReduce(Comm):
    """pending(axes, fn) -> replicated on axes."""

    mnemonic: ClassVar[str] = "all_reduce"
    axes: tuple[str, ...]
    fn: str


@dataclass(frozen=True, slots=True)
class AllGather(Comm):
    """The minor-most `axes` of `dim` -> replicated (padding is cut off where the dim is whole again)."""

    mnemonic: ClassVar[str] = "all_gather"
    dim: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReduceScatter(Comm):
    """pending(axes, fn) -> `dim` split on axes, appended as its minor-most."""

    mnemonic: ClassVar[str] = "reduce_scatter"
    dim: str
    axes: tuple[str, ...]
    fn: str


@dataclass(frozen=True, slots=True)
class AllToAll(Comm):
    """The minor-most `axes` of dim `gather` move to be the minor-most of dim `scatter`."""

    mnemonic: ClassVar[str] = "all_to_all"
    gather: str
    scatter: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shard(Comm):
    """Local: replicated on `axes` -> own part of `dim` (axes appended as minor-most; padded where uneven)."""

    mnemonic: ClassVar[str] = "shard"
    dim: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnlyFirst(Comm):
    """Local: replicated on `axes` -> pending sum: kept where all coordinates on axes are 0, zero elsewhere."""

    mnemonic: ClassVar[str] = "only_first"
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MaskPad(Comm):
    """Local: the unused elements of padded `dim` become `value` (before a reduction over it)."""

    mnemonic: ClassVar[str] = "mask_pad"
    dim: str
    value: float


@dataclass(frozen=True, slots=True)
class Halo(Comm):
    """Fetch `left`/`right` elements of `dim` from the neighbours along `axes`; `fill` at the ends."""

    mnemonic: ClassVar[str] = "halo"
    dim: str
    axes: tuple[str, ...]
    left: int
    right: int
    fill: float


@dataclass(frozen=True, slots=True)
class HaloAdd(Comm):
    """Adjoint of `halo`: borders are sent back and added; what lies beyond the ends is dropped."""

    mnemonic: ClassVar[str] = "halo_add"
    dim: str
    axes: tuple[str, ...]
    left: int
    right: int
