"""The zig-zag order of a dim, in which pieces of what hangs on later positions alone are all of the same work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import lcm, prod
from typing import ClassVar

from compiler.graph import Type
from compiler.layout import TIME, Layout
from compiler.ops.base import Derive, Loop, Op
from compiler.ops.comm import LayoutError, Operand, Sizes, dim_of
from compiler.ops.common import expect_blocks, expect_dim, expect_operands, pass_loops, rest, same_name_loop
from compiler.ops.neighbours import Neighbours
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class ZigZag(Op):
    """Of the 2·parts blocks of `dim`, all of one length, block i and block 2·parts-1-i come to lie behind each other,
    for i = 0, 1, …; `back`: from there into their order.

    Where the dim is split, blocks cross from piece to piece: the op is then `ZigZagAcross`.
    """

    mnemonic: ClassVar[str] = "zigzag"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("over", "dim"), ("among", "parts"), ("back", "back"))
    derived: ClassVar[Mapping[str, Derive]] = {"back": lambda _: False}
    dim: str
    parts: int
    back: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        expect_operands("zigzag", inputs, 1)
        size = expect_dim("zigzag", inputs[0], self.dim)
        expect_blocks("zigzag", self.dim, size, self.parts)
        return (inputs[0],)

    def loops(self, inputs: Sequence[Type], outputs: Sequence[Type]) -> tuple[Loop, ...]:
        moved = same_name_loop("move", self.dim, inputs, outputs)
        return (*pass_loops(inputs, outputs, rest(inputs[0], self.dim)), moved)

    def between(self, axes: tuple[str, ...]) -> Op:
        return ZigZagAcross(self.dim, axes, self.parts, self.back)

    def linear(self, n_inputs: int) -> tuple[frozenset[int], ...]:
        return (frozenset({0}),)

    def selects(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class ZigZagAcross(Neighbours):
    """`zigzag` of a dim that `axes` split: each device sends blocks of its piece straight to whoever has them then."""

    mnemonic: ClassVar[str] = "zigzag_across"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("", "dim"), ("over", "axes"), ("among", "parts"), ("back", "back")),
    )
    derived: ClassVar[Mapping[str, Derive]] = {"back": lambda _: False}
    parts: int
    back: bool = False

    def after(self, x: Operand, sizes: Sizes) -> Layout:
        i, layout = dim_of(self.dim, x), x.layout
        if layout.dims[i] != self.axes or layout.halo:
            along = "/".join(layout.dims[i]) or "it has none"
            raise LayoutError(f"the order of {self.dim} changes along all of its axes, without borders: {along}")
        if self.parts < 1 or x.type.dims[i].size % (2 * self.parts):
            raise LayoutError(f"{self.dim} of {x.type.dims[i].size} does not divide into 2 x {self.parts} blocks")
        if self.parts > (most := prod(n for a, n in sizes.items() if a != TIME)):
            help = "it is the order in which so many devices have the same work"
            raise LayoutError(f"the zig-zag order of {self.parts} devices, where there are {most}", help)
        return layout

    def rows(self, piece: Type, sizes: Sizes) -> int:
        """Those of the device that keeps fewest of its own."""
        length, devices = piece.size(self.dim), self.devices(sizes)
        return length - round(length * _kept(self.parts, devices, self.back))


def logical_block(block: int, parts: int) -> int:
    """Which block of the dim in its order lies at this place of the zig-zag order."""
    return block // 2 if block % 2 == 0 else 2 * parts - 1 - block // 2


def sources(op: ZigZag | ZigZagAcross, size: int, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """Where the elements low…high of the result come from: (position in the result, in the operand, how many), in the
    order of the result."""
    length = size // (2 * op.parts)
    for block in range(low // length, -(-high // length)):
        there = _placed(block, op.parts) if op.back else logical_block(block, op.parts)
        start, stop = max(low, block * length), min(high, (block + 1) * length)
        if start < stop:
            yield start, there * length + start - block * length, stop - start


def _placed(block: int, parts: int) -> int:
    """Where in the zig-zag order a block of the dim lies."""
    return 2 * block if block < parts else 2 * (2 * parts - 1 - block) + 1


@lru_cache(maxsize=256)
def _kept(parts: int, devices: int, back: bool) -> float:
    """What of its piece stays with the device with which least does, as a share."""
    size = lcm(2 * parts, devices)
    length, op = size // devices, ZigZag("", parts, back)
    least = length
    for device in range(devices):
        low, high = device * length, (device + 1) * length
        stays = sum(max(0, min(at + n, high) - max(at, low)) for _, at, n in sources(op, size, low, high))
        least = min(least, stays)
        if not least:
            break
    return least / length
