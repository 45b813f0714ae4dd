"""Positions, constants and random numbers: functions of the logical position, the same bits as `runtime.numpy.create`.

torch has no arithmetic on unsigned 64-bit integers: int64 wraps in the same way, and a shift to the right is followed
by a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, prod
from zlib import crc32

import torch
from torch import Tensor

from compiler.graph import DIGITS
from compiler.ops.create import Full, Iota, Normal, Random
from runtime.backend import Kernel, LocalValue
from runtime.torch.base import NARROW, STORAGE, Standpoint, TorchCall, Values, kernel, number


@kernel(Iota)
def plan_iota(op: Iota, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the numbers of this piece's places along the dim, which start at its logical offset, and an operand."""
    offset, (size,), start = where.offset(outs[0], 0), outs[0].type.shape, where.position.start

    def iota(ctx: TorchCall, *given: Tensor) -> Tensor:
        first = offset(ctx.micro) + start
        numbers = torch.arange(first, first + size, dtype=torch.int32, device=where.device)
        if op.zigzag:
            length = op.dim.size // (2 * op.zigzag)
            block = numbers // length
            pair = block // 2
            numbers = torch.where(block % 2 == 0, pair, 2 * op.zigzag - 1 - pair) * length + numbers % length
        return numbers + given[0] if given else numbers

    return iota


@kernel(Full)
def plan_full(op: Full, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a view of one element, of the result's shape."""
    value, shape, storage = number(op.value, op.dtype), outs[0].type.shape, STORAGE[op.dtype]
    full = torch.full((), value, dtype=storage, device=where.device).expand(shape)
    return lambda ctx: full


def _signed(word: int) -> int:
    """The int64 of the same bits."""
    return (word + 2**63) % 2**64 - 2**63


_GOLDEN, _M1, _M2 = (_signed(w) for w in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _right(x: Tensor, n: int) -> Tensor:
    """A shift to the right that brings in zeros."""
    return (x >> n) & (2 ** (64 - n) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64."""
    x = (x ^ _right(x, 30)) * _M1
    x = (x ^ _right(x, 27)) * _M2
    return x ^ _right(x, 31)


def hashed(key: Tensor, *words: Tensor | int) -> Tensor:
    """The key with further words mixed in, one after the other."""
    for word in words:
        key = mix((key + (word.to(torch.int64) if isinstance(word, Tensor) else word)) * _GOLDEN + _M2)
    return key


def fractions(bits: Tensor, dtype: str) -> Tensor:
    """Uniform numbers in [0, 1) of `dtype` from random bits."""
    n = DIGITS[dtype]  # a fraction of that many bits is exact and below 1
    wide = torch.float32 if dtype in NARROW else STORAGE[dtype]
    return (_right(bits, 64 - n).to(wide) * 2.0**-n).to(STORAGE[dtype])


def _drawn(op: Random | Normal, out: LocalValue, where: Standpoint, drawn: Callable[[Tensor], Tensor]) -> Kernel:
    """`drawn` of random bits, which are a hash of seed, stream, operands and logical position."""
    rank, stream, shape = len(out.type.dims), crc32(op.stream.encode()), out.type.shape
    offsets = [where.offset(out, i) for i in range(rank)]
    strides = [prod(out.logical.shape[i + 1 :]) for i in range(rank)]
    within = torch.zeros(shape, dtype=torch.int64)
    for i, stride in enumerate(strides):
        within = within + (torch.arange(shape[i]) * stride).view([-1 if j == i else 1 for j in range(rank)])
    within = within.to(where.device)

    def draw(ctx: TorchCall, *operands: Tensor) -> Tensor:
        seed = torch.full((), _signed(ctx.seed), dtype=torch.int64, device=where.device)
        key = hashed(seed, stream, *operands)
        first = sum(offset(ctx.micro) * stride for offset, stride in zip(offsets, strides))
        return drawn(hashed(key, within + first))

    return draw


@kernel(Random)
def plan_random(op: Random, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans uniform numbers in [0, 1): the bits belong to logical places, so that every layout draws the same."""
    return _drawn(op, outs[0], where, lambda bits: fractions(bits, op.dtype))


@kernel(Normal)
def plan_normal(op: Normal, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans standard normal numbers: the bits belong to logical places, so that every layout draws the same."""
    wide = torch.float32 if op.dtype in NARROW else STORAGE[op.dtype]

    def normal(bits: Tensor) -> Tensor:
        # Box and Muller, "A note on the generation of random normal deviates", 1958; in float64 for every dtype.
        radius = torch.sqrt(-2 * torch.log1p(-fractions(bits, "f64")))
        turn = fractions(hashed(bits, 1), "f64")
        return (radius * torch.cos(2 * pi * turn)).to(wide).to(STORAGE[op.dtype])

    return _drawn(op, outs[0], where, normal)
