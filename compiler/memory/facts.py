"""What replays of a class's functions go by, found once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compiler.in_place import Reuses, reuses
from compiler.layout import TIME
from compiler.liveness import Liveness
from compiler.program import DeviceClass, StateDecl


class ClassFacts(NamedTuple):
    """lives: of bodies, by identity, as they are asked for."""

    states: Mapping[str, StateDecl]
    reuses: Reuses
    lives: dict[int, Liveness]

    @staticmethod
    def of(cls: DeviceClass, sizes: Mapping[str, int]) -> ClassFacts:
        """sizes: of the axes."""
        return ClassFacts({s.name: s for s in cls.states}, reuses(cls, sizes.get(TIME, 1)), {})
