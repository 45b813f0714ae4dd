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


def to_checkpoint(
    table: Iterable[StoredTensor], weights: Mapping[str, Array], dims: Mapping[str, Dims]
) -> Iterator[tuple[str, Array]]:
    """The checkpoint's tensors of a program's weights, with their names.

    weights: whole logical arrays; dims: names and sizes of the dims of each. Raises KeyError for a weight that is not
    there.
    """
    import numpy as np

    for tensor in table:
        for name, at in _each(tensor, dims):
            pieces = [_piece(w, dims[w.name], at).out(weights[w.name]) for w in tensor.weights]
            joined = np.concatenate(pieces, axis=tensor.weights[0].joined + 1) if len(pieces) > 1 else pieces[0]
            yield name, np.ascontiguousarray(_merged(joined, tensor.weights[0].joined))


def from_checkpoint(
    table: Iterable[StoredTensor], tensors: Mapping[str, Array], dims: Mapping[str, Dims]
) -> dict[str, Array]:
    """A program's weights of a checkpoint's tensors, by name: the way back of `to_checkpoint`.

    Raises KeyError for a tensor that is not there, ValueError for one of another size.
    """
    import numpy as np

    found: dict[str, Array] = {}
    for tensor in table:
        for name, at in _each(tensor, dims):
            whole, axis = tensors[name], tensor.weights[0].joined
            pieces = [_piece(w, dims[w.name], at) for w in tensor.weights]
            sizes = [p.shape[axis + 1] for p in pieces]
            shape = (*pieces[0].shape[: axis + 1], sum(sizes), *pieces[0].shape[axis + 2 :])
            if whole.shape != (there := (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])):
                raise ValueError(f"{name} is {list(whole.shape)}, not {list(there)}")
            parts = np.split(whole.reshape(shape), np.cumsum(sizes)[:-1], axis=axis + 1)
            for weight, piece, part in zip(tensor.weights, pieces, parts, strict=True):
                if weight.name not in found:
                    found[weight.name] = np.empty([n for _, n in dims[weight.name]], whole.dtype)
                piece.back(part, found[weight.name])
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
class _Piece:
    """How a part of a weight becomes a part of a tensor: `index` picks it, `grid` cuts halves, `order` is that of the
    checkpoint, where it has `shape`: of the axis along which tensors are joined two, what is joined behind."""

    index: tuple[int | slice, ...]
    grid: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def out(self, weight: Array) -> Array:
        return weight[self.index].reshape(self.grid).transpose(self.order).reshape(self.shape)

    def back(self, part: Array, weight: Array) -> None:
        inverse = [self.order.index(i) for i in range(len(self.order))]
        turned = part.reshape([self.grid[i] for i in self.order]).transpose(inverse)
        weight[self.index] = turned.reshape(weight[self.index].shape)


def _piece(weight: StoredWeight, dims: Dims, at: Mapping[str, int]) -> _Piece:
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
    return _Piece(index, tuple(grid), tuple(order), tuple(shape))


def _merged(array: Array, axis: int) -> Array:
    """The array with one axis in place of two."""
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
