"""What a search has still to look at: candidates by themselves, and many at once."""

from __future__ import annotations

from dsl.data import dataclass
from parc.planning.guess import Kin
from parc.planning.space import MeshChoice, PlanChoice, PlanRules


@dataclass(frozen=True, slots=True)
class OpenBunch:
    """Candidates of one mesh that differ in nothing but the order of axes, ZeRO (up to `zero`) and the schedule."""

    mesh: MeshChoice
    rules: PlanRules
    zero: int
    count: int


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """Bunches whose layers are of one kind."""

    bunches: tuple[OpenBunch, ...]
    count: int


@dataclass(frozen=True, slots=True)
class StillOpen:
    """What is still to be looked at. bound: of what is minimised, lower than all of it; guess: of the best of it, if
    there is more to go by than the bound; paced: whether the bound has the messages beside the passes, as they go."""

    kin: Kin
    bound: float
    what: OpenGroup | OpenBunch | PlanChoice
    guess: float | None = None
    paced: bool = False

    @property
    def candidate(self) -> PlanChoice:
        """Of one that is no more than one."""
        assert isinstance(self.what, PlanChoice)
        return self.what

    @property
    def count(self) -> int:
        """Candidates."""
        return 1 if isinstance(self.what, PlanChoice) else self.what.count


Entry = tuple[float, int, StillOpen]
"""A guess, a number that tells equal ones apart, and what it is of."""
