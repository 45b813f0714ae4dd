"""Numbers of a few bits, packed in words of 32: reading them, writing them, what of weights they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ops.packed import Dequantise, Expand, Integers, Pack
from compiler.weight_format import BITS, SPARSE, WORD, e4m3, levels, places, unit, words
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Kernel, LocalValue, finish, kernel

E4M3 = np.array([e4m3(byte) for byte in range(256)], np.float32)
"""All numbers of fp8 e4m3fn, by their bits."""


def unpacked(x: Array, axis: int, code: str) -> Array:
    """The numbers (uint8, from 0 on) that words have along an axis, least bits first."""
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    n, per, bits = x.shape[axis] // words(code), words(code), 1 if code == SPARSE else BITS[code]
    blocks = np.moveaxis(x.reshape((*before, n, per, *behind)), axis + 1, 0)
    out = np.empty((*before, n, unit(code), *behind), np.uint8)
    places_of = np.moveaxis(out, axis + 1, 0)
    mask = np.uint32((1 << bits) - 1)
    for i, (word, bit) in enumerate(places(code)):
        found = blocks[word] >> np.uint32(bit)
        if bit + bits > WORD:
            found = found | blocks[word + 1] << np.uint32(WORD - bit)
        places_of[i] = found & mask
    return out.reshape((*before, n * unit(code), *behind))


def packed(q: Array, axis: int, code: str) -> Array:
    """The words in which these numbers are: what `unpacked` reads."""
    before, behind = q.shape[:axis], q.shape[axis + 1 :]
    n, per, bits = q.shape[axis] // unit(code), words(code), 1 if code == SPARSE else BITS[code]
    blocks = np.moveaxis(q.reshape((*before, n, unit(code), *behind)), axis + 1, 0).astype(np.uint32)
    out = np.zeros((per, *before, n, *behind), np.uint32)
    for i, (word, bit) in enumerate(places(code)):
        out[word] |= blocks[i] << np.uint32(bit)
        if bit + bits > WORD:
            out[word + 1] |= blocks[i] >> np.uint32(WORD - bit)
    return np.moveaxis(out, 0, axis + 1).reshape((*before, n * per, *behind))


def levels_of(q: Array, code: str, dtype: type[np.floating]) -> Array:
    """The numbers that stored ones are before they are scaled: integers, as far as there is no zero point; fp8's."""
    if code == "fp8":
        return E4M3[q].astype(dtype)
    return q.astype(dtype)


@kernel(Dequantise)
def plan_dequantise(op: Dequantise, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans `(q - zero) * scale`; each scale is read by the elements of its block."""
    (out,), code, lead = outs, op.code, env.lead
    axis = lead + ins[0].type.index(op.dim)
    storage = STORAGE[out.type.dtype]
    middle = storage(0 if code == "fp8" else -levels(code)[0])
    fine: list[int] = []
    coarse = [_blocks(of, out, fine) for of in ins[1:2]][0]
    order = [ins[1].type.index(d.name) for d in out.type.dims if ins[1].type.has(d.name)]

    def spread(x: Array) -> Array:
        x = x.transpose((*range(lead), *(lead + i for i in order)))
        return x.reshape((*x.shape[:lead], *coarse))

    def dequantise(ctx: CallContext, w: Array, scale: Array, *zero: Array) -> Array:
        q = levels_of(unpacked(w, axis, code), code, storage)
        q = q.reshape((*w.shape[:lead], *fine))
        moved = q - (spread(zero[0]) if zero else middle) if code != "fp8" else q
        found = moved * spread(scale)
        return found.reshape((*found.shape[:lead], *out.type.shape))

    return finish(dequantise, out.type.dtype)


@kernel(Integers)
def plan_integers(op: Integers, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans `q - middle`, in int32."""
    axis, code = env.lead + ins[0].type.index(op.dim), op.code
    middle = np.int32(-levels(code)[0])
    return lambda ctx, w: unpacked(w, axis, code).astype(np.int32) - middle


@kernel(Pack)
def plan_pack(op: Pack, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans the words of whole numbers."""
    axis, code = env.lead + ins[0].type.index(op.dim), op.code
    return lambda ctx, q: packed(q.astype(np.uint8), axis, code)


def _blocks(of: LocalValue, out: LocalValue, fine: list[int]) -> list[int]:
    """The shape in which scales meet elements; `fine`: becomes that of the elements."""
    coarse: list[int] = []
    for d in out.type.dims:
        count = of.type.size(d.name) if of.type.has(d.name) else 1
        fine += [count, d.size // count]
        coarse += [count, 1]
    return coarse


@kernel(Expand)
def plan_expand(op: Expand, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans each group of four elements: those whose bits are set, in order, are the two that are there."""
    axis, at = env.lead + ins[0].type.index(op.dim), env.lead + ins[1].type.index(op.dim)
    order = (*range(env.lead), *(env.lead + ins[1].type.index(n) for n in outs[0].type.names))
    assert sorted(order) == list(range(len(order))) and at >= env.lead

    def expand(ctx: CallContext, w: Array, kept: Array) -> Array:
        kept = kept.transpose(order)
        there = unpacked(w, axis, SPARSE)
        shape = (*there.shape[:axis], -1, 4, *there.shape[axis + 1 :])
        fours = there.reshape(shape)
        rank = np.minimum(np.maximum(np.cumsum(fours, axis + 1, dtype=np.int8) - 1, 0), 1)
        twos = kept.reshape((*kept.shape[:axis], -1, 2, *kept.shape[axis + 1 :]))
        first, second = np.split(twos, 2, axis + 1)
        found = np.where(fours != 0, np.where(rank == 0, first, second), kept.dtype.type(0))
        return found.reshape((*found.shape[:axis], -1, *found.shape[axis + 2 :]))

    return expand
