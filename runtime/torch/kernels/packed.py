"""Weights that rest in words: what they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ops.packed import Dequantise, Expand, Integers, Pack
from compiler.weight_format import BITS, SPARSE, WORD, e4m3, levels, places, unit, words
from runtime.backend import Kernel, LocalValue
from runtime.torch.base import STORAGE, UINT32, Standpoint, Values, kernel, maker


def unpacked(x: Tensor, dim: int, code: str) -> Tensor:
    """The numbers (int64, from 0 on) that words have along a dim, least bits first."""
    bits = 1 if code == SPARSE else BITS[code]
    blocks = x.unflatten(dim, (-1, words(code))).unbind(dim + 1)
    found = []
    for word, bit in places(code):
        number = blocks[word] >> bit
        if bit + bits > WORD:
            number = number | blocks[word + 1] << (WORD - bit)
        found.append(number & (1 << bits) - 1)
    return torch.stack(found, dim + 1).flatten(dim, dim + 1)


@maker(Dequantise)
@kernel(Dequantise)
def plan_dequantise(op: Dequantise, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans `(q - zero) * scale`, in f32 at least; each scale is read by the elements of its block."""
    (out,), code, axis = outs, op.code, ins[0].type.index(op.dim)
    storage = STORAGE[out.type.dtype]
    wide = torch.float64 if storage == torch.float64 else torch.float32
    table = torch.tensor([e4m3(byte) for byte in range(256)], dtype=wide, device=where.device)
    fine, coarse, order = _blocks(ins[1], out)
    middle = 0 if code == "fp8" else -levels(code)[0]

    def spread(x: Tensor) -> Tensor:
        return x.permute(order).reshape(coarse).to(wide)

    def dequantise(ctx: object, w: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
        q = unpacked(w, axis, code)
        numbers = table[q].reshape(fine) if code == "fp8" else q.to(wide).reshape(fine)
        if code != "fp8":
            numbers = numbers - (spread(zero[0]) if zero else middle)
        return (numbers * spread(scale)).reshape(out.type.shape).to(storage)

    return dequantise


@maker(Integers)
@kernel(Integers)
def plan_integers(op: Integers, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans `q - middle`, in int32."""
    axis, code, middle = ins[0].type.index(op.dim), op.code, -levels(op.code)[0]
    return lambda ctx, w: (unpacked(w, axis, code) - middle).to(torch.int32)


@maker(Pack)
@kernel(Pack)
def plan_pack(op: Pack, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the words of whole numbers."""
    axis, code = ins[0].type.index(op.dim), op.code

    def pack(ctx: object, q: Tensor) -> Tensor:
        blocks = q.to(torch.int64).unflatten(axis, (-1, unit(code))).unbind(axis + 1)
        found = [torch.zeros_like(blocks[0]) for _ in range(words(code))]
        for (word, bit), number in zip(places(code), blocks, strict=True):
            found[word] = found[word] | number << bit
            if bit + BITS[code] > WORD:
                found[word + 1] = found[word + 1] | number >> (WORD - bit)
        return torch.stack(found, axis + 1).flatten(axis, axis + 1) & UINT32

    return pack


def _blocks(of: LocalValue, out: LocalValue) -> tuple[list[int], list[int], list[int]]:
    """The shapes in which elements and scales meet, and the order of the scales' dims for it."""
    counts = [(of.type.size(d.name) if of.type.has(d.name) else 1, d.size) for d in out.type.dims]
    fine = [n for count, size in counts for n in (count, size // count)]
    coarse = [n for count, _ in counts for n in (count, 1)]
    return fine, coarse, [of.type.index(d.name) for d in out.type.dims if of.type.has(d.name)]


@maker(Expand)
@kernel(Expand)
def plan_expand(op: Expand, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans each group of four elements: those whose bits are set, in order, are the two that are there."""
    axis, order = ins[0].type.index(op.dim), [ins[1].type.index(n) for n in outs[0].type.names]

    def expand(ctx: object, w: Tensor, kept: Tensor) -> Tensor:
        fours = unpacked(w, axis, SPARSE).unflatten(axis, (-1, 4))
        rank = (fours.cumsum(axis + 1) - 1).clamp(0, 1)
        twos = kept.permute(order).unflatten(axis, (-1, 2))
        found = torch.gather(twos, axis + 1, rank) * fours.to(kept.dtype)
        return found.flatten(axis, axis + 1)

    return expand
