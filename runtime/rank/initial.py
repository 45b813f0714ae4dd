"""Who a device is, and what its buffers contain in the beginning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from compiler.declared import in_front, logical, logical_type
from compiler.layout import TIME, local_type
from compiler.memory.tiers import FILES
from compiler.origin import Role
from compiler.program import DeviceClass, Program, StateDecl
from dsl.data import dataclass
from runtime.backend import Array, Backend
from runtime.comm import Network
from runtime.mesh import Mesh, parted, region

ROWS = 2**20
"""Elements of a buffer in a file that are made at once."""


@dataclass(frozen=True, slots=True)
class OneDevice:
    """Who a device is: of which class of a program, in which group, at which mesh coordinates; how it reaches others
    and what computes."""

    program: Program
    cls: DeviceClass
    group: int
    at: Mapping[str, int]
    network: Network
    backend: Backend


def beginning(device: OneDevice, decl: StateDecl) -> Array:
    """A new array of the device's part of a buffer, filled as that is declared."""
    program, cls, backend = device.program, device.cls, device.backend
    local = local_type(decl.type, decl.layout, program.sizes)
    parts = [array := backend.full(local.shape, local.dtype, 0, decl.memory)]
    if parted(decl):
        n = program.microbatches
        array = backend.full((n, *local.shape), local.dtype, 0, decl.memory)
        parts = [backend.element(array, micro) for micro in range(n)]
    if decl.init is None and decl.role is not Role.REPORT:
        raise ValueError(f"`{logical(decl)}` has neither an initialiser nor a given value")
    for micro, part in enumerate(parts if decl.init is not None else ()):
        where = region(decl, cls, device.group, Mesh.of(program), {**device.at, TIME: micro})
        assert decl.init is not None
        for rows in _pieces(where) if decl.memory in FILES else [where]:
            place = (*in_front(decl), *rows)
            found = backend.initial(decl.init, logical(decl), logical_type(decl, cls), program.seed, place)
            for _ in decl.iterations:
                found = backend.element(found, 0)
            inside = (slice(low - first, high - first) for (low, high), (first, _) in zip(rows, where, strict=True))
            backend.assign(backend.part(part, tuple(inside)), found)
    return array


def _pieces(region: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """Some rows after the others, where there is more than one dim: none of it need be in memory as a whole."""
    if len(region) < 2:
        yield region
        return
    low, high = region[0]
    step = max(1, ROWS // max(1, prod(stop - start for start, stop in region[1:])))
    for first in range(low, high, step):
        yield ((first, min(first + step, high)), *region[1:])
