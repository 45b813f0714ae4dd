"""Positions, constants and random numbers: functions of the logical position, so that layouts do not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from compiler.graph import DIGITS
from compiler.ops.create import Full, Iota, Normal, Random
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Kernel, LocalValue, finish, kernel, spread


@kernel(Iota)
def plan_iota(op: Iota, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans the numbers of this piece's places along the dim, which start at its logical offset, and an operand."""
    offset, size, lead, start = env.offset(outs[0], 0), outs[0].type.shape[0], (1,) * env.lead, env.start

    def iota(ctx: CallContext, *first: Array) -> Array:
        positions = np.asarray(spread(offset(ctx) + start, 1, 0, size), np.int32)
        if op.zigzag:
            positions = in_zigzag(positions, op.dim.size // (2 * op.zigzag), op.zigzag)
        positions = positions if positions.ndim > 1 else positions.reshape((*lead, size))
        return positions + first[0][..., None] if first else positions

    return iota


def in_zigzag(at: Array, length: int, parts: int) -> Array:
    """Which positions lie at these places of the zig-zag order of blocks of a length."""
    block, inside = np.divmod(at, np.int32(length))
    pair = block // 2
    moved: Array = np.where(block % 2 == 0, pair, 2 * parts - 1 - pair) * np.int32(length) + inside
    return moved


@kernel(Full)
def plan_full(op: Full, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans a read-only view of one element, of the result's shape."""
    # One element, seen everywhere; numpy marks the view read-only.
    shape = (1,) * env.lead + outs[0].type.shape
    full = np.broadcast_to(np.array(op.value, STORAGE[op.dtype]), shape)
    return lambda ctx: full


_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(x: Array) -> Array:
    """The finaliser of splitmix64, on uint64 (arithmetic modulo 2^64)."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


def hashed(key: Array, *words: Array | int) -> Array:
    """The key with further words mixed in, one after the other; uint64."""
    with np.errstate(over="ignore"):  # numpy warns of wrapped scalars, though not of arrays
        for word in words:
            key = mix((key + np.asarray(word).astype(np.uint64)) * _GOLDEN + _M2)
    return key


def fractions(bits: Array, dtype: str) -> Array:
    """Uniform numbers in [0, 1) of `dtype` (in its storage type) from random uint64."""
    n = DIGITS[dtype]  # a fraction of that many bits is exact and below 1
    kept: Array = (bits >> np.uint64(64 - n)).astype(STORAGE[dtype])
    scaled: Array = kept * STORAGE[dtype](2.0**-n)
    return scaled


def _drawn(
    op: Random | Normal, out: LocalValue, env: Env, number: Callable[[Array], Array], lead: tuple[int, ...]
) -> Kernel:
    """`number` of random bits, which are a hash of seed, stream, operands and logical position."""
    rank, stream = len(out.type.dims), crc32(op.stream.encode())
    offsets = [env.offset(out, i) for i in range(rank)]
    strides = [int(np.prod(out.logical.shape[i + 1 :], dtype=np.int64)) for i in range(rank)]

    def draw(ctx: CallContext, *operands: Array) -> Array:
        key = hashed(np.array(ctx.seed % 2**64, np.uint64), stream, *operands)
        position: Array | int = 0
        for i, (offset, stride) in enumerate(zip(offsets, strides)):
            position = position + spread(offset(ctx), rank, i, out.type.shape[i]) * stride
        result = number(hashed(key.reshape(key.shape + (1,) * rank), position))
        return result if env.lead == 0 or result.ndim > rank else result.reshape(lead + result.shape)

    return draw


@kernel(Random)
def plan_random(op: Random, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans uniform numbers in [0, 1): the bits belong to logical places, so that every layout draws the same."""
    return _drawn(op, outs[0], env, lambda bits: fractions(bits, op.dtype), (1,) * env.lead)


@kernel(Normal)
def plan_normal(op: Normal, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans standard normal numbers: the bits belong to logical places, so that every layout draws the same."""
    storage = STORAGE[op.dtype]

    def normal(bits: Array) -> Array:
        # Box and Muller, "A note on the generation of random normal deviates", 1958; in float64 for every dtype.
        radius = np.sqrt(-2 * np.log1p(-fractions(bits, "f64")))
        turn = fractions(hashed(bits, 1), "f64")
        return np.asarray(radius * np.cos(2 * np.pi * turn)).astype(storage)

    return finish(_drawn(op, outs[0], env, normal, (1,) * env.lead), op.dtype)
