"""What an implementation says of messages: ops on local pieces. They stand in local graphs only (`logical` makes
ordinary ops of them), so they have no kernels."""

from __future__ import annotations

from typing import ClassVar

from compiler.graph import Dim, Type
from compiler.ops.base import Op
from compiler.ops.common import expect_dim, expect_distinct, replace
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class WrittenMessage(Op):
    """Base. word: how it is written; axis: the mesh axis; devices: how many lie along it."""

    word: ClassVar[str] = ""
    axis: str
    devices: int

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (inputs[0],)


@dataclass(frozen=True, slots=True)
class WrittenAllReduce(WrittenMessage):
    """`all_reduce(x, tp)`: the sum (or maximum) that is pending, whole on every device."""

    mnemonic: ClassVar[str] = "all_reduce"
    word: ClassVar[str] = "all_reduce"
    fn: str = "sum"


@dataclass(frozen=True, slots=True)
class WrittenAllGather(WrittenMessage):
    """`all_gather(x, tp, over s -> t)`: the pieces of `dim`, one after the other, are dim `into` on every device.

    zigzag (of every message): the pieces lie in zig-zag order; the whole is in its own.
    """

    mnemonic: ClassVar[str] = "all_gather"
    word: ClassVar[str] = "all_gather"
    dim: str
    into: str
    zigzag: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        size = expect_dim(self.word, inputs[0], self.dim)
        return (_resized(self.word, inputs[0], self.dim, Dim(self.into, size * self.devices)),)


@dataclass(frozen=True, slots=True)
class WrittenReduceScatter(WrittenMessage):
    """`reduce_scatter(x, tp, over s)`: of the pending sum each device has its piece of `dim`."""

    mnemonic: ClassVar[str] = "reduce_scatter"
    word: ClassVar[str] = "reduce_scatter"
    dim: str
    fn: str = "sum"
    zigzag: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (cut(self.word, inputs[0], self.dim, self.devices),)


@dataclass(frozen=True, slots=True)
class WrittenAllToAll(WrittenMessage):
    """`all_to_all(x, cp, over s -> h)`: pieces of `dim` (in `zigzag`) become pieces of `into` (`into_zigzag`)."""

    mnemonic: ClassVar[str] = "all_to_all"
    word: ClassVar[str] = "all_to_all"
    dim: str
    into: str
    zigzag: bool = False
    into_zigzag: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        size = expect_dim(self.word, inputs[0], self.dim)
        whole = _resized(self.word, inputs[0], self.dim, Dim(self.dim, size * self.devices))
        return (cut(self.word, whole, self.into, self.devices),)


@dataclass(frozen=True, slots=True)
class WrittenShard(WrittenMessage):
    """`shard(x, tp, over f)`: of what every device has each takes its own piece; nothing is sent."""

    mnemonic: ClassVar[str] = "shard"
    word: ClassVar[str] = "shard"
    dim: str
    zigzag: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (cut(self.word, inputs[0], self.dim, self.devices),)


@dataclass(frozen=True, slots=True)
class WrittenShift(WrittenMessage):
    """`shift(x, cp, 1)`: what the device `by` places further along the axis has, round the end."""

    mnemonic: ClassVar[str] = "shift"
    word: ClassVar[str] = "shift"
    by: int


@dataclass(frozen=True, slots=True)
class WrittenRank(WrittenMessage):
    """`rank(cp)`: the device's place along the axis, an int32 scalar."""

    mnemonic: ClassVar[str] = "rank"
    word: ClassVar[str] = "rank"

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (Type("int32"),)


@dataclass(frozen=True, slots=True)
class WrittenClaim(WrittenMessage):
    """`as_split(x, cp, over s)` or, without a dim, `as_sum(x, cp)`: what the author says of devices' own values."""

    mnemonic: ClassVar[str] = "claim"
    word: ClassVar[str] = "as_split"
    dim: str = ""
    zigzag: bool = False


@dataclass(frozen=True, slots=True)
class WrittenPositions(Op):
    """`iota(s)` of a dim of which devices have pieces: the positions in the whole. pieces: axes, with their devices,
    major first."""

    mnemonic: ClassVar[str] = "positions"
    dim: Dim
    pieces: tuple[tuple[str, int], ...]
    zigzag: bool = False

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (Type("int32", (self.dim,)),)


@dataclass(frozen=True, slots=True)
class WrittenType(Op):
    """`u[b, f/tp] = …`: the operand, of which the author says how its pieces lie: dims with their axes, major first."""

    mnemonic: ClassVar[str] = "stated"
    pieces: tuple[tuple[str, tuple[str, ...]], ...]

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return (inputs[0],)


class UnevenPieces(Exception):
    """A dim does not divide by the devices of an axis."""

    def __init__(self, dim: str, size: int, devices: int) -> None:
        super().__init__()
        self.dim, self.size, self.devices = dim, size, devices


def cut(word: str, type: Type, dim: str, devices: int) -> Type:
    """The type of a piece. Raises UnevenPieces."""
    size = expect_dim(word, type, dim)
    if size % devices:
        raise UnevenPieces(dim, size, devices)
    return replace(type, dim, Dim(dim, size // devices))


def _resized(word: str, type: Type, dim: str, new: Dim) -> Type:
    out = replace(type, dim, new)
    expect_distinct(word, out.names)
    return out
