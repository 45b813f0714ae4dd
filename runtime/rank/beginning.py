"""What a device's buffers contain before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.declared import logical, logical_type
from compiler.layout import TIME, local_type
from compiler.memory.action import STATIC
from compiler.origin import Role
from runtime.mesh import parted, region

if TYPE_CHECKING:
    from runtime.rank.interpreter import Rank


def begin(rank: Rank, given: frozenset[str]) -> None:
    """Fill the buffers that are there all the time as they are declared, but for those that are `given`."""
    for decl in rank.cls.states:
        local = local_type(decl.type, decl.layout, rank.program.sizes)
        if decl.role not in STATIC or logical(decl) in given:
            continue
        parts = [array := rank.backend.full(local.shape, local.dtype, 0, decl.memory)]
        if parted(decl):
            n = rank.program.microbatches
            array = rank.backend.full((n, *local.shape), local.dtype, 0, decl.memory)
            parts = [rank.backend.element(array, micro) for micro in range(n)]
        if decl.init is None and decl.role is not Role.REPORT:
            raise ValueError(f"`{logical(decl)}` has neither an initialiser nor a given value")
        for micro, part in enumerate(parts if decl.init is not None else ()):
            where = region(decl, rank.cls, rank.group, rank.mesh, {**rank.at, TIME: micro})
            type = logical_type(decl, rank.cls)
            assert decl.init is not None
            found = rank.backend.initial(decl.init, logical(decl), type, rank.program.seed, where)
            inside = tuple(slice(0, high - low) for low, high in where)
            rank.backend.assign(rank.backend.part(part, inside), found)
        rank.fill(decl.name, array)
