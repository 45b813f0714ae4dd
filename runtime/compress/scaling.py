"""Scales of the inputs of products, by what these are on data, so that rounding the weights loses less (Lin and others
2023, "AWQ"): large inputs get large weights, which are rounded finer than others of their group, and what makes the
inputs makes them as much smaller. Without rounding the model computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compiler.weight_format import PackedWeight
from dsl.data import dataclass
from runtime.compress.rounding import Rounded, matrix
from runtime.compress.scaled_inputs import Scaled, ScaledInput
from runtime.numpy.base import Array

POWERS = tuple(i / 20 for i in range(21))
"""Of the inputs' sizes, that scales are tried for; 0 leaves all as it is."""

At = tuple[int, ...]
Moments = Mapping[str, Mapping[At, Array]]
Round = Callable[[Array, Array, PackedWeight], Rounded]
"""Rounds a matrix, by the second moment of its inputs."""


@dataclass(frozen=True, slots=True)
class Balanced:
    """weights: those that are another now, by name, whole; moments: of the inputs of stored ones. count: how many
    inputs, by layers, are scaled."""

    weights: dict[str, Array]
    moments: dict[str, dict[At, Array]]
    count: int


def balanced(
    inputs: Sequence[ScaledInput],
    weights: Mapping[str, Array],
    stored: Sequence[PackedWeight],
    names: Mapping[str, tuple[str, ...]],
    moments: Moments,
    round: Round,
) -> Balanced:
    """The weights with the scales that lose least.

    Args:
        inputs: those that can be scaled.
        weights: whole ones, by name; names: those of their dims.
        stored: the weights that are rounded.
        moments: of each of these and each layer what x·xᵀ adds up to.
        round: how they are rounded.
    """
    of = {s.name: s for s in stored}
    parts_of = dict.fromkeys(s.weight for f in inputs for s in (*f.readers, *f.makers))
    now = {name: weights[name].astype(np.float64) for name in parts_of}
    after = {name: dict(layers) for name, layers in moments.items()}
    count = 0
    for one in inputs:
        readers = [of[r.weight] for r in one.readers if r.weight in of and of[r.weight].name in after]
        if not readers:
            continue
        for at in readers[0].layers:
            scale = _best(one, readers, now, after, at, round)
            if scale is None:
                continue
            count += 1
            for s in one.readers:
                now[s.weight][at] *= _along(s, one, scale, names[s.weight][len(at) :])
            for s in one.makers:
                now[s.weight][at] /= _along(s, one, scale, names[s.weight][len(at) :])
            for r in readers:
                each = _inputs(r, one, scale)
                after[r.name][at] = after[r.name][at] / np.outer(each, each)
    changed = {name: x.astype(weights[name].dtype) for name, x in now.items() if not np.array_equal(x, weights[name])}
    return Balanced(changed, after, count)


def _best(
    one: ScaledInput, readers: Sequence[PackedWeight], now: Mapping[str, Array], moments: Moments, at: At, round: Round
) -> Array | None:
    """The scales of one layer's inputs with which the products' results change least; None: as they are."""
    size = np.zeros(one.sizes)
    for r in readers:
        names = [n for n in r.type.names[r.loops :] if n in r.inputs]
        square = np.diag(moments[r.name][at]).reshape([r.type.size(n) for n in names])
        others = tuple(i for i, n in enumerate(names) if n not in one.dims)
        kept = [n for n in names if n in one.dims]
        size += square.mean(others).transpose([kept.index(n) for n in one.dims])
    if not (size > 0).any():
        return None
    size = np.sqrt(np.where(size > 0, size, size[size > 0].min()))
    best, least = None, np.inf
    for power in POWERS:
        scale = size**power
        scale = scale / np.sqrt(scale.max() * scale.min())
        lost = 0.0
        for r in readers:
            each, moment = _inputs(r, one, scale), moments[r.name][at]
            w = matrix(r, now[r.name][at])
            moved = (w * each[:, None]).astype(np.float32)
            error = round(moved, moment / np.outer(each, each), r).value / each[:, None] - w
            lost += float(np.einsum("io,io->", error, moment @ error))
        if lost < least:
            best, least = (scale if power else None), lost
    return best


def _inputs(of: PackedWeight, one: ScaledInput, scale: Array) -> Array:
    """The scale of each row of a weight's matrix."""
    names = [n for n in of.type.names[of.loops :] if n in of.inputs]
    own = Scaled(of.name, one.dims)
    spread = np.broadcast_to(_along(own, one, scale, names), [of.type.size(n) for n in names])
    return spread.reshape(-1)


def _along(scaled: Scaled, one: ScaledInput, scale: Array, names: Sequence[str]) -> Array:
    """The scales, to be multiplied with what has these dims."""
    own = [n for n in names if n in scaled.dims]
    moved = scale.transpose([scaled.dims.index(n) for n in own])
    sizes = dict(zip(own, moved.shape, strict=True))
    return moved.reshape([sizes.get(n, 1) for n in names])
