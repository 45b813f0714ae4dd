"""What replays of a class's functions go by, found once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compiler.graph import Graph, Value
from compiler.in_place import Reuses, reuses
from compiler.layout import TIME
from compiler.liveness import Liveness
from compiler.ops.effects import Accumulate, Input
from compiler.ops.move import Move
from compiler.program import DeviceClass, FunctionKey, FunctionPhase, StateDecl
from compiler.walk import bodies, walk

KnownLives = dict[int, tuple[Graph, Liveness]]
"""By identity of bodies, with these, which have to stay."""


class ClassFacts(NamedTuple):
    """lives: of bodies, by identity, as they are asked for."""

    states: Mapping[str, StateDecl]
    reuses: Reuses
    lives: KnownLives

    @staticmethod
    def of(
        cls: DeviceClass, sizes: Mapping[str, int], lives: KnownLives | None = None, fuses: bool = True
    ) -> ClassFacts:
        """sizes: of the axes; lives: of other classes, that may have the same functions; fuses: whether fused regions
        are one instruction."""
        known = {} if lives is None else lives
        return ClassFacts({s.name: s for s in cls.states}, reuses(cls, sizes.get(TIME, 1), fuses), known)


class FunctionFacts(NamedTuple):
    """Of a class's functions, whatever the sizes. inputs: what they read of the data: (name, value), for each place;
    touched: the accumulators of each; moved: what updates move from one memory to another, by name."""

    inputs: tuple[tuple[str, Value], ...]
    touched: Mapping[FunctionKey, frozenset[str]]
    moved: tuple[str, ...]

    @staticmethod
    def of(cls: DeviceClass) -> FunctionFacts:
        """Goes through all of them."""
        read = [n for f in cls.functions for n, _ in walk(f.body) if isinstance(n.op, Input)]
        touched = {
            f.key: frozenset(n.op.name for n in f.body.nodes if isinstance(n.op, Accumulate)) for f in cls.functions
        }
        inputs = tuple([(n.op.name, n.outputs[0]) for n in read if isinstance(n.op, Input)])
        updates = [f.body for f in cls.functions if f.phase is FunctionPhase.UPDATE]
        return FunctionFacts(inputs, touched, tuple([name for body in updates for name in moved_by(body)]))


def moved_by(update: Graph) -> list[str]:
    """What an update moves from one memory to another, by name: the only room that it needs in training systems."""
    nodes = [n for body in bodies(update) for n in body.nodes if isinstance(n.op, Move) or n.far is not None]
    return [n.output.name for n in nodes]
