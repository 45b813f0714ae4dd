"""What the weights of a model are called in checkpoints, and how they lie there: one table, read in both directions.

A row is a tensor of the checkpoint and the weights that it is made of, each with the order of its dims there:

    self_attn.q_proj.weight     attention.wq[(h r k) d]           rows are all heads' numbers, major first
    attn.c_attn.weight          wq[d +(h k)] wk[d +(h k)]         `+`: one behind the other along this axis
    self_attn.q_b_proj.weight   wq[+(h: k) lq] wqr[+(h: kr) lq]   `:` … for each h by itself
    self_attn.kv_a.weight       wr[(kr~) d]                       `~`: pairs side by side there, here in two halves
    experts.{e}.w1.weight       experts.gate[f d]                 a tensor for each e
    cls_token                   first[1 1 d]                      axes of size 1

`{layer}` in a name is the number of the layer: loops here have a dim of their own, first of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from dsl.data import dataclass

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Dims = Sequence[tuple[str, int]]
"""Names and sizes of a weight's dims, in order."""

_WEIGHT = re.compile(r"([\w.]+)\[([^\]]*)\]")
_AXIS = re.compile(r"(\+?)(?:\(([^)]*)\)|(\w+))")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class StoredAxis:
    """An axis of a checkpoint's tensor: dims of the weight, major first, those before a colon apart. joined: weights of
    one tensor follow each other along it, for each of `before` by itself."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    joined: bool


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight of the program, as it lies in the checkpoint's tensor. paired: dims whose halves are pairs there."""

    name: str
    axes: tuple[StoredAxis, ...]
    paired: frozenset[str]

    @property
    def joined(self) -> int:
        """The axis along which weights are joined; of one that is alone, the first."""
        return next((i for i, a in enumerate(self.axes) if a.joined), 0)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the checkpoint for each layer (and each index that its name has): name, made of these weights.

    layers: the number of the first, and how far each loop's iterations are apart, by the loops' dims.
    """

    name: str
    weights: tuple[StoredWeight, ...]
    first: int = 0
    strides: tuple[tuple[str, int], ...] = ()


def row(
    name: str, weights: str, scope: str = "", first: int = 0, strides: tuple[tuple[str, int], ...] = ()
) -> StoredTensor:
    """Reads a row of a table; `scope` stands before the weights' names."""
    found = tuple(_weight(scope + m[1], m[2]) for m in _WEIGHT.finditer(weights))
    assert found and not _WEIGHT.sub("", weights).strip(), weights
    return StoredTensor(name, found, first, strides)


def rows(
    table: Mapping[str, str],
    prefix: str = "",
    scope: str = "",
    first: int = 0,
    strides: tuple[tuple[str, int], ...] = (),
) -> tuple[StoredTensor, ...]:
    """Reads a table; `prefix` stands before the tensors' names, `scope` before the weights'."""
    return tuple(row(prefix + name, text, scope, first, strides) for name, text in table.items())


def _weight(name: str, text: str) -> StoredWeight:
    axes = []
    for joined, group, single in _AXIS.findall(text):
        before, colon, after = ("" if single == "1" else group or single).partition(":")
        first, rest = (before, after) if colon else ("", before)
        names = [tuple(n.rstrip("~") for n in part.split()) for part in (first, rest)]
        axes.append(StoredAxis(names[0], names[1], bool(joined)))
    return StoredWeight(name, tuple(axes), frozenset(re.findall(r"(\w+)~", text)))


# --- arrays ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor of the checkpoint: its name and shape, and the pieces of weights that it is made of, in order.

    axis: the axis along which they are joined, each with `before` groups of its own; sizes: how far they reach there.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[WeightPiece, ...]
    axis: int
    before: int
    sizes: tuple[int, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(p.weight for p in self.pieces)

    def made(self, weights: Mapping[str, Any]) -> Array:
        """Its numbers. weights: whole logical arrays, or what gives a part of one when it is asked for an index."""
        import numpy as np

        pieces = [p.out(weights[p.weight]) for p in self.pieces]
        joined = np.concatenate(pieces, axis=self.axis + 1) if len(pieces) > 1 else pieces[0]
        return np.ascontiguousarray(joined.reshape(self.shape))

    def parts(self, whole: Array) -> list[Array]:
        """What its pieces give back of its numbers: each `weight[piece.index]`. ValueError for another shape."""
        import numpy as np

        if whole.shape != self.shape:
            raise ValueError(f"{self.name} is {list(whole.shape)}, not {list(self.shape)}")
        apart = (*self.shape[: self.axis], self.before, sum(self.sizes), *self.shape[self.axis + 1 :])
        split = np.split(whole.reshape(apart), np.cumsum(self.sizes)[:-1], axis=self.axis + 1)
        return [p.back(part) for p, part in zip(self.pieces, split, strict=True)]


def named(table: Iterable[StoredTensor], dims: Mapping[str, Dims]) -> Iterator[NamedTensor]:
    """The checkpoint's tensors, in the table's order. dims: names and sizes of the dims of each weight.

    Raises KeyError for a weight that has no dims.
    """
    for tensor in table:
        for name, at in _each(tensor, dims):
            pieces = tuple(_piece(w, dims[w.name], at) for w in tensor.weights)
            axis, first = tensor.weights[0].joined, pieces[0].shape
            sizes = tuple(p.shape[axis + 1] for p in pieces)
            shape = (*first[:axis], first[axis] * sum(sizes), *first[axis + 2 :])
            yield NamedTensor(name, shape, pieces, axis, first[axis], sizes)


def to_checkpoint(
    table: Iterable[StoredTensor], weights: Mapping[str, Array], dims: Mapping[str, Dims]
) -> Iterator[tuple[str, Array]]:
    """The checkpoint's tensors of a program's weights, with their names.

    weights: whole logical arrays; dims: names and sizes of the dims of each. Raises KeyError for a weight that is not
    there.
    """
    return ((tensor.name, tensor.made(weights)) for tensor in named(table, dims))


def from_checkpoint(
    table: Iterable[StoredTensor], tensors: Mapping[str, Array], dims: Mapping[str, Dims]
) -> dict[str, Array]:
    """A program's weights of a checkpoint's tensors, by name: the way back of `to_checkpoint`.

    Raises KeyError for a tensor that is not there, ValueError for one of another size.
    """
    import numpy as np

    found: dict[str, Array] = {}
    for tensor in named(table, dims):
        whole = tensors[tensor.name]
        for piece, part in zip(tensor.pieces, tensor.parts(whole), strict=True):
            if piece.weight not in found:
                found[piece.weight] = np.empty([n for _, n in dims[piece.weight]], whole.dtype)
            found[piece.weight][piece.index] = part
    return found


def _each(tensor: StoredTensor, dims: Mapping[str, Dims]) -> Iterator[tuple[str, dict[str, int]]]:
    """Each name that a row stands for, and which part of the weights: positions in dims."""
    sizes = dict(dims[tensor.weights[0].name])
    strides = dict(tensor.strides)
    apart = [*strides, *(f for f in _FIELD.findall(tensor.name) if f != "layer")]
    for places in product(*(range(sizes[d]) for d in apart)):
        at = dict(zip(apart, places, strict=True))
        layer = tensor.first + sum(strides[d] * at[d] for d in strides)
        yield tensor.name.format(layer=layer, **at), at


@dataclass(frozen=True, slots=True)
class WeightPiece:
    """How a part of a weight becomes a part of a tensor: `index` picks it, `grid` cuts halves, `order` is that of the
    checkpoint, where it has `shape`: of the axis along which tensors are joined two, what is joined behind. part: the
    shape of `weight[index]`."""

    weight: str
    index: tuple[int | slice, ...]
    part: tuple[int, ...]
    grid: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def out(self, weight: Any) -> Array:
        """Its numbers in the checkpoint's order."""
        found: Array = weight[self.index].reshape(self.grid).transpose(self.order).reshape(self.shape)
        return found

    def back(self, part: Array) -> Array:
        """`weight[index]` of its numbers in the checkpoint's order."""
        inverse = [self.order.index(i) for i in range(len(self.order))]
        return part.reshape([self.grid[i] for i in self.order]).transpose(inverse).reshape(self.part)


def _piece(weight: StoredWeight, dims: Dims, at: Mapping[str, int]) -> WeightPiece:
    """The part of a weight at these positions."""
    index = tuple(at.get(name, slice(None)) for name, _ in dims)
    grid: list[int] = []
    places: dict[str, list[int]] = {}  # of a dim: where it is in the grid, in the order of the checkpoint
    for name, size in dims:
        if name in at:
            continue
        if name in weight.paired:
            places[name] = [len(grid) + 1, len(grid)]
            grid += [2, size // 2]
        else:
            places[name] = [len(grid)]
            grid.append(size)
    order: list[int] = []
    shape: list[int] = []
    for i, axis in enumerate(weight.axes):
        before, after = ([p for name in part for p in places.pop(name)] for part in (axis.before, axis.after))
        order += before + after
        sizes = [prod(grid[p] for p in part) for part in (before, after)]
        shape += sizes if i == weight.joined else [sizes[0] * sizes[1]]
    assert not places, f"{weight.name}: nothing is said of {', '.join(places)}"
    part = tuple(size for name, size in dims if name not in at)
    return WeightPiece(weight.name, index, part, tuple(grid), tuple(order), tuple(shape))
