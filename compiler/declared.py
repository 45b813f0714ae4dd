"""What the declarations of a program's buffers mean in the serial program: whose part they hold, of which type."""

from __future__ import annotations

from compiler.graph import Dim, Type
from compiler.program import DeviceClass, LoopRange, StateDecl


def logical(decl: StateDecl) -> str:
    """The state's name in the serial program."""
    return decl.whole or decl.logical or decl.name


def bounded(cls: DeviceClass) -> list[StateDecl]:
    """The states of which it is declared in which range their integers stay."""
    return [s for s in cls.states if s.within is not None]


def range_of(decl: StateDecl, cls: DeviceClass) -> LoopRange | None:
    """The part of a rolled loop that this buffer holds, if it is stacked over one that is cut into stages."""
    names = decl.type.names
    for r in cls.ranges:
        if r.dim in names and r.chunk == decl.chunk and decl.type.size(r.dim) == r.count:
            return r
    return None


def logical_type(decl: StateDecl, cls: DeviceClass) -> Type:
    """The type of the state in the serial program."""
    r = range_of(decl, cls)
    if r is None and not decl.iterations:
        return decl.type
    dims = [Dim(*r.whole) if r is not None and d.name == r.dim else d for d in decl.type.dims]
    return Type(decl.type.dtype, (*(Dim(i.label, i.total) for i in decl.iterations), *dims))


def in_front(decl: StateDecl) -> tuple[tuple[int, int], ...]:
    """Where it is along the dims that the tensor of the serial program has in front of the buffer's own."""
    return tuple((i.first, i.first + 1) for i in decl.iterations)
