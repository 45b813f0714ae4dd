"""A program's states as logical arrays: from what groups hold of them, and at the beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.declared import logical
from compiler.graph import Type
from compiler.layout import TIME
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
    for decl, cls, group, x in pieces:
        name = logical(decl)
        timed = Mesh((TIME, *mesh.axes), mesh.sizes) if parted(decl) else mesh
        whole = collect(x, decl.type, decl.layout, timed, name)
        parts.setdefault(name, []).append((decl, cls, group, whole))
    return {name: assemble(found, add) for name, found in parts.items()}


def magnitudes(pieces: Sequence[Piece], mesh: Mesh) -> Arrays:
    """What the absolute values of these buffers' parts add up to."""
    with quiet():
        return joined([(decl, cls, group, np.abs(x)) for decl, cls, group, x in pieces], mesh, add=True)


def initial_array(name: str, type: Type, decl: StateDecl, seed: int, initial: Mapping[str, Array]) -> Array:
    """The logical array that a state begins with."""
    if name in initial:
        return rounded(np.asarray(initial[name], STORAGE[type.dtype]), type.dtype)
    if decl.init is None:
        raise ValueError(f"`{name}` has neither an initialiser nor a given value")
    return init_array(decl.init, name, type, seed)
