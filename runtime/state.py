"""A program's states as logical arrays: from what groups hold of them, and at the beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.declared import logical
from compiler.graph import Type
from compiler.layout import TIME
from compiler.origin import Role
from compiler.program import DeviceClass, StateDecl
from runtime.distribute import Array, assemble, collect
from runtime.mesh import Mesh, parted
from runtime.numpy import STORAGE, quiet, rounded
from runtime.numpy.initial import init_array

Arrays = dict[str, Array]


Piece = tuple[StateDecl, DeviceClass, int, Array]
"""A buffer's declaration, the class and the group that it belongs to, and what is in it: a stacked array. One that is
there for each micro-batch (`parted`) has them as its first axis."""


def joined(pieces: Sequence[Piece], mesh: Mesh, add: bool) -> Arrays:
    """The logical arrays, by name, that these buffers hold; `add`: parts of several groups are added up."""
    parts: dict[str, list[Piece]] = {}
    numbers: dict[tuple[int, str], Array] = {}  # of lists' rows, by group and buffer
    found = sorted(pieces, key=lambda piece: piece[0].role is not Role.ROWS)
    for decl, cls, group, x in found:
        name = logical(decl)
        timed = Mesh((TIME, *mesh.axes), mesh.sizes) if parted(decl) else mesh
        whole = collect(x, decl.type, decl.layout, timed, name)
        if decl.role is Role.ROWS:
            numbers[group, decl.name] = whole
            continue
        if decl.numbers:
            index = next(s for s in cls.states if s.name == decl.numbers)
            decl, whole = _added_up(decl, index, cls, whole, numbers[group, decl.numbers])
        parts.setdefault(name, []).append((decl, cls, group, whole))
    return {name: assemble(found, add) for name, found in parts.items()}


def _added_up(
    decl: StateDecl, index: StateDecl, cls: DeviceClass, rows: Array, numbers: Array
) -> tuple[StateDecl, Array]:
    """The gradient that a list of rows is: as if the weight's declaration were its own."""
    weight = next(s for s in cls.states if s.role is Role.WEIGHT and s.logical == decl.logical)
    (dim,) = [n for n in weight.type.names if not decl.type.has(n)]
    others = [n for n in weight.type.names if n != dim]
    source = rows.transpose([decl.type.index(n) for n in (*index.type.names, *others)])
    source = source.reshape(numbers.size, *source.shape[numbers.ndim :])
    inside = (numbers.reshape(-1) >= 0) & (numbers.reshape(-1) < weight.type.size(dim))
    total = np.zeros((weight.type.size(dim), *source.shape[1:]), rows.dtype)
    np.add.at(total, numbers.reshape(-1)[inside], source[inside])
    return weight, np.moveaxis(total, 0, weight.type.index(dim))


def magnitudes(pieces: Sequence[Piece], mesh: Mesh) -> Arrays:
    """What the absolute values of these buffers' parts add up to."""
    with quiet():
        found = ((d, c, g, x if d.role is Role.ROWS else np.abs(x)) for d, c, g, x in pieces)
        return joined(list(found), mesh, add=True)


def initial_array(name: str, type: Type, decl: StateDecl, seed: int, initial: Mapping[str, Array]) -> Array:
    """The logical array that a state begins with."""
    if name in initial:
        return rounded(np.asarray(initial[name], STORAGE[type.dtype]), type.dtype)
    if decl.init is None:
        raise ValueError(f"`{name}` has neither an initialiser nor a given value")
    return init_array(decl.init, name, type, seed)
