"""Ops that only this engine has: each is one kernel of PyTorch, in the place of the nodes that write it out."""

from __future__ import annotations

from typing import ClassVar

from compiler.graph import Graph
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class FusedOp(Op):
    """An op of the engine. Nothing infers its types: it stands where values of known types were made."""


@dataclass(frozen=True, slots=True)
class FusedNorm(FusedOp):
    """x, scale?, shift? -> the layer norm over the last `rank` dims, its mean, one by its root."""

    mnemonic: ClassVar[str] = "fused_norm"
    rank: int
    eps: float


@dataclass(frozen=True, slots=True)
class FusedNormBackward(FusedOp):
    """dy, x, mean, root, scale? -> dx, and the derivatives by scale and shift that are `wanted`."""

    mnemonic: ClassVar[str] = "fused_norm_backward"
    rank: int
    scaled: bool
    wanted: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class FusedActivation(FusedOp):
    """x -> `fn` of it."""

    mnemonic: ClassVar[str] = "fused_activation"
    fn: str


@dataclass(frozen=True, slots=True)
class FusedActivationBackward(FusedOp):
    """dy, x -> dx."""

    mnemonic: ClassVar[str] = "fused_activation_backward"
    fn: str


@dataclass(frozen=True, slots=True)
class FusedAttention(FusedOp):
    """query, key, value -> what is attended to, the logarithms of the sums of exponentials. The operands are permuted
    to (batch, heads, positions, width) first, the result to the order of its dims. Queries may have a dim more behind
    the heads: those that share a key."""

    mnemonic: ClassVar[str] = "fused_attention"
    orders: tuple[tuple[str, ...], ...]
    causal: bool


@dataclass(frozen=True, slots=True)
class FusedAttentionBackward(FusedOp):
    """dout, query, key, value, out, logarithms -> the derivatives by query, key and value. `orders`: as of the forward
    pass, for query, key, value and out."""

    mnemonic: ClassVar[str] = "fused_attention_backward"
    orders: tuple[tuple[str, ...], ...]
    causal: bool


@dataclass(frozen=True, slots=True)
class FusedPlacedAttention(FusedOp):
    """query, key, value, places -> what is attended to, by a query at each of these places (whole numbers, of the
    positions or of the batch and the positions), of the keys up to there. `orders`: as of `FusedAttention`."""

    mnemonic: ClassVar[str] = "fused_placed_attention"
    orders: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class FusedCrossEntropy(FusedOp):
    """z, targets -> the loss of each position, the logarithms of probabilities."""

    mnemonic: ClassVar[str] = "fused_cross_entropy"


@dataclass(frozen=True, slots=True)
class FusedCrossEntropyBackward(FusedOp):
    """The cotangent of each position's loss, logarithms of probabilities, targets -> dz."""

    mnemonic: ClassVar[str] = "fused_cross_entropy_backward"


@dataclass(frozen=True, slots=True)
class FusedProductSum(FusedOp):
    """c, x, y -> c + `product` of x and y, which has the shape of c, or dims in front of those of c."""

    mnemonic: ClassVar[str] = "fused_product_sum"
    product: Contract


@dataclass(frozen=True, slots=True)
class FusedChain(FusedOp):
    """Elementwise functions of tensors of one shape and of scalars, element by element: `body` of the operands.

    renewed: (result, operand) where the result takes the memory of the operand, which nobody needs any more.
    """

    mnemonic: ClassVar[str] = "fused_chain"
    body: Graph
    renewed: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FusedSquare(FusedOp):
    """x -> the sum of all squares."""

    mnemonic: ClassVar[str] = "fused_square"
