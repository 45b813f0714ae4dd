"""What a search ends with: what was priced, what became of all else, and how much better the rest can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import inf

from dsl.data import dataclass
from parc.planning.guess import SplitLayer
from parc.planning.layer_work import KeptHalves, LayerWork, LoopRoom
from parc.planning.paces import PaceKey, ProgramKey
from parc.planning.space import PlanChoice
from parc.price import Price


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """A candidate that fits, and its exact price. value: what is minimised; bound: what was known of it before."""

    candidate: PlanChoice
    price: Price
    value: float
    bound: float


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate that was compiled. seconds: None if it does not fit; code: what is wrong with it, else empty.
    between: what a zero-bubble schedule keeps between the halves of a backward pass, if that was found by it."""

    candidate: PlanChoice
    needed: int | None = None
    seconds: float | None = None
    code: str = ""
    between: KeptHalves | None = None


NUMBERS = ("numbers", "too_large", "not_better", "unfit", "fitting", "left")
"""Of `Counts`, all but refusals."""


@dataclass(slots=True)
class Counts:
    """Candidates of the space, by what became of them; they add up to all.

    numbers: a dim, a batch or a loop cannot be split so, or the cluster cannot tell it from another. too_large: by what
    is there all the time alone. not_better: by bounds, of time or of memory. refused: by the code of what is wrong.
    unfit: priced, and larger than the devices' memory. fitting: priced, and not. left: not looked at.
    """

    numbers: int = 0
    too_large: int = 0
    not_better: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unfit: int = 0
    fitting: int = 0
    left: int = 0

    @property
    def priced(self) -> int:
        """All whose memory is known exactly."""
        return self.unfit + self.fitting

    def leave(self, total: int) -> None:
        """What is missing of all is left, too."""
        missing = total - self.total
        if self.left + missing < 0:
            self.not_better += self.left + missing
        self.left = max(0, self.left + missing)

    def add(self, other: Counts) -> None:
        """Those of another part as well."""
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for code, count in other.refused.items():
            self.refused[code] = self.refused.get(code, 0) + count

    def less(self, before: Counts) -> Counts:
        """What has come since."""
        refused = {code: n - before.refused.get(code, 0) for code, n in self.refused.items()}
        numbers = {name: getattr(self, name) - getattr(before, name) for name in NUMBERS}
        return Counts(refused={code: n for code, n in refused.items() if n}, **numbers)

    @property
    def words(self) -> str:
        """Of a search in which nothing was found that fits."""
        if self.left:
            return f"none of {self.priced:,} that were priced fits, and {self.left:,} were not looked at in time"
        return f"none of all {self.total:,} fits"

    @property
    def total(self) -> int:
        """All of the space."""
        known = self.numbers + self.too_large + self.not_better + sum(self.refused.values())
        return known + self.priced + self.left


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ends with. fitting: best first. least: the lowest bound of what is left (None: nothing is).
    smallest: bytes of what needs least of all that was priced, and does not fit. interrupted: by the user. layers,
    paces, rooms: what bounds were made of; limit: what was looked for is below it."""

    fitting: tuple[PricedPlan, ...]
    tried: tuple[Tried, ...]
    counts: Counts
    least: float | None
    seconds: float
    smallest: int | None = None
    interrupted: bool = False
    layers: Mapping[SplitLayer, Sequence[LayerWork]] = field(default_factory=dict)
    paces: Mapping[PaceKey, Mapping[int, tuple[float, float]] | None] = field(default_factory=dict)
    limit: float = inf
    rooms: Mapping[ProgramKey, LoopRoom | None] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """By which share of the best's value (or of the limit) what is left can be better, at most."""
        if self.least is None:
            return 0.0
        best = min((plan.value for plan in self.fitting[:1]), default=inf)
        return max(0.0, 1 - self.least / min(best, self.limit)) if min(best, self.limit) < inf else 1.0
