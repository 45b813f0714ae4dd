"""Products of windows of three, one place apart, with fewer multiplications: F(2, 3) of Winograd along one dim or two.

Two neighbouring sums of three products each take four multiplications instead of six, in two dims sixteen instead of
36: d0, d1, d2, d3 are what two windows see, g the kernel, m the four products (Lavin and Gray, Fast Algorithms for
Convolutional Neural Networks, 2015):

    m0 = (d0 - d2) g0    m1 = (d1 + d2) (g0 + g1 + g2) / 2    m2 = (d2 - d1) (g0 - g1 + g2) / 2    m3 = (d1 - d3) g2
    sums: m0 + m1 + m2,  m1 - m2 - m3

Each sum depends on what its own window sees. All that is divided is halves, so nothing but the additions rounds. The
derivative by the kernel is the transpose. Which windows an operand has is read off its strides: a place and an element
of a window that are the same step apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dsl.data import dataclass
from runtime.numpy.base import Array, CallContext
from runtime.numpy.patches import blocks

NARROWEST = 16
"""Channels and columns from which on what is saved is more than what is added."""


@dataclass(frozen=True)
class Seen:
    """An operand with windows, as what they look into: `base` [others…, places + 2…, channels], places one dim or two.

    places: how the axes of places (some seen as one) of the operand become others and places; kernel: axes of windows'
    elements and channels among those that are summed (or, of a derivative, rows); flipped: of which elements run
    backwards.
    """

    base: Array
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    kernel: tuple[int, ...]
    flipped: tuple[bool, ...]

    @property
    def dims(self) -> int:
        """Along how many dims there are windows."""
        return len(self.flipped)

    def as_places(self, x: Array) -> Array:
        """A matrix whose rows are the places, as [others…, places…, columns]."""
        return x.reshape((*self.sizes, x.shape[-1])).transpose((*self.order, len(self.sizes)))

    def as_kernel(self, x: Array) -> Array:
        """A matrix whose rows are elements of windows and channels, as [elements…, channels, columns]: a view."""
        sizes = dict(zip(self.kernel, (*(3,) * self.dims, self.base.shape[-1])))
        x = x.reshape((*(sizes[i] for i in range(len(sizes))), x.shape[-1])).transpose((*self.kernel, len(sizes)))
        return x[tuple(slice(None, None, -1 if back else 1) for back in self.flipped)]


def windows_of(x: Array, places: Sequence[int], inside: Sequence[int], columns: int) -> Seen | None:
    """The windows of an operand: `places`, `inside`: its axes, outermost first. None where there are none, their number
    is odd, or it does not pay."""
    if x.dtype.kind != "f" or columns < NARROWEST:
        return None
    merged: list[tuple[int, int]] = []  # sizes and strides of places, those that are one walk as one
    for n, step in ((x.shape[i], x.strides[i]) for i in places if x.shape[i] > 1):
        if merged and merged[-1][1] == step * n:
            merged[-1] = merged[-1][0] * n, step
        else:
            merged.append((n, step))
    found: list[tuple[int, int]] = []  # (of places, of elements)
    for k in inside:
        if x.shape[k] == 3:
            found += [(i, k) for i, (n, step) in enumerate(merged) if step > 0 and abs(x.strides[k]) == step]
    elements = [k for _, k in found]
    channels = [k for k in inside if k not in elements and x.shape[k] > 1]
    if len(found) not in (1, 2) or len(set(elements)) < len(found) or len({i for i, _ in found}) < len(found):
        return None
    if len(channels) != 1 or x.shape[channels[0]] < NARROWEST or any(merged[i][0] % 2 for i, _ in found):
        return None
    flipped = tuple(x.strides[k] < 0 for k in elements)
    begins = dict(zip(elements, flipped))  # the first in memory
    begin = x[tuple(slice(-1, None) if begins.get(i) else slice(None) for i in range(x.ndim))]
    others = [i for i in range(len(merged)) if i not in {i for i, _ in found}]
    shape = [*(merged[i][0] for i in others), *(merged[i][0] + 2 for i, _ in found), x.shape[channels[0]]]
    steps = [*(merged[i][1] for i in others), *(merged[i][1] for i, _ in found), x.strides[channels[0]]]
    base = as_strided(begin, shape, steps, writeable=False)
    order = (*others, *(i for i, _ in found))
    kernel = tuple([k for k in inside if x.shape[k] > 1].index(k) for k in (*elements, *channels))
    return Seen(base, tuple(n for n, _ in merged), order, kernel, flipped)


def rows_of(ctx: CallContext, x: Seen, y: Array, out: Array) -> None:
    """`out` = x y, where places are rows. y: [elements of windows, channels; columns], out: matrices."""
    kernel = x.as_kernel(y)
    for axis in range(x.dims):  # the last dim's stand first, as where windows are split
        kernel = _of_kernel(np.moveaxis(kernel, axis, 0))
    kernel = np.ascontiguousarray(kernel).reshape(4**x.dims, x.base.shape[-1], -1)
    _Blocks(ctx, x, y.shape[-1]).products(kernel, x.as_places(out))


def terms_of(ctx: CallContext, x: Seen, y: Array, out: Array) -> None:
    """`out` = x y, where places are summed. y: [places; columns], out: [elements of windows, channels; columns]."""
    total = _Blocks(ctx, x, y.shape[-1]).sums(x.as_places(y)).reshape((*(4,) * x.dims, x.base.shape[-1], -1))
    for axis in reversed(range(x.dims)):  # the last dim's stand first
        total = np.moveaxis(_by_kernel(total), 0, axis)
    x.as_kernel(out)[...] = total


class _Blocks:
    """Memory for some places at once: what windows see, split (`split`), and their products."""

    def __init__(self, ctx: CallContext, x: Seen, columns: int) -> None:
        self.ctx, self.x, self.columns = ctx, x, columns
        dims, shape = x.dims, x.base.shape
        self.halves = tuple((n - 2) // 2 for n in shape[-1 - dims : -1])
        outer = (*shape[: -1 - dims], self.halves[0])
        self.width = 4**dims * prod(self.halves[1:]) * max(shape[-1], columns)
        self.found = list(blocks(outer, self.width))
        self.most = max(stop - start for _, start, stop in self.found) * prod(self.halves[1:])
        self.others = len(outer) - 1

    def parts(self, index: tuple[int | slice, ...], more: int) -> tuple[int | slice, ...]:
        """The index of a block into an array with places (`more` behind the last of them) in the place of halves."""
        if len(index) <= self.others:
            return index
        at = index[-1]
        assert isinstance(at, slice)
        return (*index[:-1], slice(2 * at.start, 2 * at.stop + more))

    def memory(self, times: int, width: int) -> Array:
        """For so many arrays of all places of a block."""
        return self.ctx.empty((times * self.most * width,), self.x.base.dtype)

    def products(self, kernel: Array, out: Array) -> None:
        """Into out [others…, places…, columns]."""
        x, dims = self.x, self.x.dims
        channels, n = x.base.shape[-1], self.columns
        spare = self.ctx.empty((4 * 2 * self.most * channels * 2,), x.base.dtype) if dims == 2 else None
        split, made = self.memory(4**dims, channels), self.memory(4**dims, n)
        sums = self.memory(8, n) if dims == 2 else None
        for index, start, stop in self.found:
            count = (stop - start) * prod(self.halves[1:])
            v = self.split(x.base[self.parts(index, 2)], split, spare)
            m = made[: 4**dims * count * n].reshape(4**dims, count, n)
            np.matmul(v.reshape(4**dims, count, channels), kernel, out=m)
            m = m.reshape((*v.shape[:-1], n))
            o = out[self.parts(index, 0)]
            if sums is None:
                _added(m, _pairs(o, -2))
                continue
            s = sums[: 8 * count * n].reshape((2, 4, *m.shape[2:]))
            _added(m.swapaxes(0, 1), s)
            for half, pair in zip(s, _pairs(o, -3)):
                _added(half, _pairs(pair, -2))

    def sums(self, y: Array) -> Array:
        """Of y [others…, places…, columns], spread: sums over places of products, [4^dims, channels, columns]."""
        x, dims = self.x, self.x.dims
        channels, n = x.base.shape[-1], self.columns
        spare = self.ctx.empty((4 * 2 * self.most * max(channels * 2, n),), x.base.dtype) if dims == 2 else None
        split, spread = self.memory(4**dims, channels), self.memory(4**dims, n)
        total = np.zeros((4**dims, channels, n), y.dtype)
        more = np.empty_like(total)
        for index, start, stop in self.found:
            count = (stop - start) * prod(self.halves[1:])
            v = self.split(x.base[self.parts(index, 2)], split, spare).reshape(4**dims, count, channels)
            m = self.spread(y[self.parts(index, 0)], spread, spare).reshape(4**dims, count, n)
            np.matmul(v.transpose(0, 2, 1), m, out=more)
            np.add(total, more, out=total)
        return total

    def split(self, x: Array, into: Array, spare: Array | None) -> Array:
        """What windows see [others…, places + 2…, channels] -> left factors [4, (4,) others…, halves…, channels]."""
        if spare is not None:
            x = _split(x, x.ndim - 3, spare)
        return _split(x, x.ndim - 2, into)

    def spread(self, y: Array, into: Array, spare: Array | None) -> Array:
        """The transpose of sums: [others…, places…, columns] -> [4, (4,) others…, halves…, columns]."""
        if spare is not None:
            y = _spread(y, y.ndim - 3, spare)
        return _spread(y, y.ndim - 2, into)


def _pairs(x: Array, axis: int) -> Array:
    """The even and the odd places along an axis (counted from the end), as [2, …]."""
    at = x.ndim + axis
    return np.moveaxis(x.reshape((*x.shape[:at], x.shape[at] // 2, 2, *x.shape[at + 1 :])), at + 1, 0)


def _split(x: Array, axis: int, into: Array) -> Array:
    shape = (4, *x.shape[:axis], x.shape[axis] // 2 - 1, *x.shape[axis + 1 :])
    out = into[: prod(shape)].reshape(shape)
    at = (slice(None),) * axis
    d0, d1, d2, d3 = (x[(*at, slice(i, i + x.shape[axis] - 2, 2))] for i in range(4))
    np.subtract(d0, d2, out=out[0])
    np.add(d1, d2, out=out[1])
    np.subtract(d2, d1, out=out[2])
    np.subtract(d1, d3, out=out[3])
    return out


def _spread(y: Array, axis: int, into: Array) -> Array:
    shape = (4, *y.shape[:axis], y.shape[axis] // 2, *y.shape[axis + 1 :])
    out = into[: prod(shape)].reshape(shape)
    first, second = _pairs(y, axis - y.ndim)
    np.copyto(out[0], first)
    np.add(first, second, out=out[1])
    np.subtract(first, second, out=out[2])
    np.negative(second, out=out[3])
    return out


def _added(m: Array, out: Array) -> None:
    """The sums of four products, into the even and the odd places."""
    np.add(m[1], m[2], out=out[0])
    np.add(out[0], m[0], out=out[0])
    np.subtract(m[1], m[2], out=out[1])
    np.subtract(out[1], m[3], out=out[1])


def _of_kernel(g: Array) -> Array:
    """The right factors [4, …] of a kernel [3, …]."""
    half = (g[0] + g[2]) / 2
    return np.stack([g[0], half + g[1] / 2, half - g[1] / 2, g[2]])


def _by_kernel(u: Array) -> Array:
    """The transpose: [4, …] -> [3, …]."""
    both, other = (u[1] + u[2]) / 2, (u[1] - u[2]) / 2
    return np.stack([u[0] + both, other, both + u[3]])
