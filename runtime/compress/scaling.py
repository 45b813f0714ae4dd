"""Scales of the inputs of products, by what these are on data, so that rounding the weights loses less (Lin and others
2023, "AWQ"): large inputs get large weights, which are rounded finer than others of their group, and what makes the
inputs makes them as much smaller. Without rounding the model computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from compiler.weight_format import PackedWeight
from dsl.data import dataclass
from runtime.compress.rounding import Rounded, matrix
from runtime.compress.scaled_inputs import Scaled, ScaledInput
from runtime.numpy.base import Array

POWERS = tuple(i / 20 for i in range(21))
"""Of the inputs' sizes, that scales are tried for; 0 leaves all as it is."""

LEAST = 1e-6
"""Of the largest size, that all have at least."""

At = tuple[int, ...]
Moments = Mapping[str, Mapping[At, Array]]
Round = Callable[[Array, Array, PackedWeight], Rounded]
"""Rounds a matrix, by the second moment of its inputs."""


class ScaleJudge(Protocol):
    """Which scales are tried, and what is lost with each."""

    def tried(self, one: ScaledInput, readers: Mapping[str, tuple[PackedWeight, Array]], at: At) -> Iterator[Array]:
        """Scales of one layer's inputs, as `one` has its dims. readers: weights of the products, and their matrices
        `[inputs, outputs]` as they are now, which take the scales."""
        ...

    def lost(self, of: PackedWeight, w: Array, scale: Array, at: At) -> float:
        """By how much the product's results change where the rows of its matrix take this scale."""
        ...


class BySizes:
    """Powers of the inputs' sizes; what is lost is the weights' rounding, by the whole second moment ("AWQ")."""

    def __init__(self, moments: Moments, round: Round) -> None:
        self.moments, self.round = moments, round

    def tried(self, one: ScaledInput, readers: Mapping[str, tuple[PackedWeight, Array]], at: At) -> Iterator[Array]:
        size = np.zeros(one.sizes)
        for name, (r, _) in readers.items():
            size += along(r, one, np.diag(self.moments[name][at]), np.mean)
        size = floored(np.sqrt(size))
        for power in POWERS[1:]:
            scale = size**power
            yield scale / np.sqrt(scale.max() * scale.min())

    def lost(self, of: PackedWeight, w: Array, scale: Array, at: At) -> float:
        moment = self.moments[of.name][at]
        moved = (w * scale[:, None]).astype(np.float32)
        error = self.round(moved, moment / np.outer(scale, scale), of).value / scale[:, None] - w
        return float(np.einsum("io,io->", error, moment @ error))


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
    judge: ScaleJudge,
) -> Balanced:
    """The weights with the scales that lose least.

    Args:
        inputs: those that can be scaled.
        weights: whole ones, by name; names: those of their dims.
        stored: the weights that are rounded.
        moments: of each of these and each layer what x·xᵀ adds up to.
        judge: which scales are tried, and what they lose.
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
            scale = _best(one, readers, now, at, judge)
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
    one: ScaledInput, readers: Sequence[PackedWeight], now: Mapping[str, Array], at: At, judge: ScaleJudge
) -> Array | None:
    """The scales of one layer's inputs with which the products' results change least; None: as they are."""
    matrices = {r.name: (r, matrix(r, now[r.name][at])) for r in readers}
    best, least = None, sum(judge.lost(r, w, np.ones(len(w)), at) for r, w in matrices.values())
    for scale in judge.tried(one, matrices, at):
        lost = sum(judge.lost(r, w, _inputs(r, one, scale), at) for r, w in matrices.values())
        if lost < least:
            best, least = scale, lost
    return best


def floored(size: Array) -> Array:
    """Sizes of inputs, of which those that are next to nothing beside the largest count as `LEAST` of it: what is
    multiplied by scales stays a number."""
    found: Array = np.maximum(size, size.max() * LEAST) if size.max() > 0 else np.ones_like(size)
    return found


def along(of: PackedWeight, one: ScaledInput, x: Array, reduce: Callable[..., Array]) -> Array:
    """A number for each of a weight's inputs `[inputs]`, as one for each that is scaled."""
    names = [n for n in of.type.names[of.loops :] if n in of.inputs]
    kept = [n for n in names if n in one.dims]
    others = tuple(i for i, n in enumerate(names) if n not in one.dims)
    found: Array = reduce(x.reshape([of.type.size(n) for n in names]), axis=others)
    return found.transpose([kept.index(n) for n in one.dims])


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
