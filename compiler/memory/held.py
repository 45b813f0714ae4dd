"""Pieces of a device's memory, as the replay of an action has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import field

from compiler.origin import Role
from dsl.data import dataclass


@dataclass(eq=False, slots=True)
class Buffer:
    bytes: int
    memory: str
    name: str
    origin: str  # role while only names hold it
    static: bool = False
    names: int = 0
    slots: int = 0
    accumulator: str = ""
    repeated: bool = False  # a value that is larger lies in it: one that repeats its numbers

    @property
    def role(self) -> str:
        return self.accumulator or (Role.SAVED if self.slots else self.origin)

    @property
    def sole(self) -> bool:
        """Whether one name holds it, and nothing else, and what is held may be written to."""
        once = self.names == 1 and not self.slots and not self.accumulator
        return once and not self.static and not self.repeated


@dataclass(slots=True)
class Early:
    """A move of a loop that begins `ahead` iterations early: results that are not read yet, and how many more come."""

    ahead: int
    left: int
    moved: deque[Buffer] = field(default_factory=deque)

    def begins(self) -> bool:
        """Whether another one begins in this iteration."""
        return bool(self.left) and len(self.moved) <= self.ahead


def copies(slots: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """The same slots for another action: those that shared a buffer share one again. They stay `saved` to their end."""
    made: dict[Buffer, Buffer] = {}
    for b in slots.values():
        if b not in made:
            made[b] = (
                b
                if b.static
                else Buffer(b.bytes, b.memory, b.name, Role.SAVED, slots=b.slots, accumulator=b.accumulator)
            )
    return {name: made[b] for name, b in slots.items()}
