"""What replays of a class's functions go by, found once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compiler.graph import Graph
from compiler.in_place import Reuses, reuses
from compiler.layout import TIME
from compiler.liveness import Liveness
from compiler.program import DeviceClass, StateDecl

KnownLives = dict[int, tuple[Graph, Liveness]]
"""By identity of bodies, with these, which have to stay."""


class ClassFacts(NamedTuple):
    """lives: of bodies, by identity, as they are asked for."""

    states: Mapping[str, StateDecl]
    reuses: Reuses
    lives: KnownLives

    @staticmethod
    def of(cls: DeviceClass, sizes: Mapping[str, int], lives: KnownLives | None = None) -> ClassFacts:
        """sizes: of the axes; lives: of other classes, that may have the same functions."""
        known = {} if lives is None else lives
        return ClassFacts({s.name: s for s in cls.states}, reuses(cls, sizes.get(TIME, 1)), known)
