"""Which states of a model a device renews in their memory: the bodies of its functions are run as they stand, messages
beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.graph import Graph
from compiler.in_place import reuses_of
from compiler.origin import Role
from runtime.renewing import Renewed

if TYPE_CHECKING:
    from runtime.rank.compiled import CompiledRank


def renewed(body: Graph, rank: CompiledRank) -> Renewed:
    """Of a function of the device, without calls."""
    states, microbatches = rank.cls.states, rank.program.microbatches
    names = [s.name for s in states if s.role is Role.STATE]
    return Renewed.of(body, names, reuses_of(body, states, microbatches), makes=rank.backend.makes)
