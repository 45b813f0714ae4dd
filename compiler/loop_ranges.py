"""Which iterations of a loop a part of a program holds."""

from __future__ import annotations

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Affine:
    """`base + slope * g`, g = index of the device group (flattened coordinate over the place axes)."""

    base: int
    slope: int = 0

    def at(self, group: int) -> int:
        return self.base + self.slope * group


@dataclass(frozen=True, slots=True)
class WholeLoop:
    """The loop of the serial program of which another is a part: `total` iterations, of which it begins at `first`."""

    label: str
    first: int
    total: int


@dataclass(frozen=True, slots=True)
class LoopRange:
    """Which part of the rolled loop `dim` a chunk holds: iterations first(g) … first(g)+count-1 of `total`.

    within: the loop of the serial program, where `dim` is itself a part of one (a strategy speaks of some of its
    iterations).
    """

    dim: str
    chunk: int
    first: Affine
    count: int
    total: int
    within: WholeLoop | None = None

    @property
    def whole(self) -> tuple[str, int]:
        """The loop's name in the serial program, and how many iterations it has there."""
        return (self.dim, self.total) if self.within is None else (self.within.label, self.within.total)

    @property
    def start(self) -> Affine:
        """The first iteration that a group holds, as the serial program counts them."""
        return self.first if self.within is None else Affine(self.first.base + self.within.first, self.first.slope)
