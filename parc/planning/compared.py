"""Plans of several cases, compared by what a token takes (a sample, where a model has no tokens): a step of twice the
batch does twice as much."""

from __future__ import annotations

from math import inf, prod
from typing import Any

from dsl.data import dataclass
from dsl.diagnostics import Diagnostic
from parc.planning.answer import FoundPlan
from parc.planning.filled_answer import FilledPlan
from parc.planning.planning import Planned
from parc.price import Price
from parc.units import amount, seconds

DAY = 86400.0

DEVICE_TIME = "device-time"
"""What is minimised: devices times time, that is what a token costs."""


@dataclass(frozen=True, slots=True)
class FreeValues:
    """What may be chosen. params: of parameters, as they are written; devices: of the cluster (none: as many as it
    has); open: whether a job without a strategy has numbers open, which are such cases."""

    params: tuple[tuple[str, tuple[str, ...]], ...]
    devices: tuple[int, ...] = ()
    open: bool = False

    @property
    def number(self) -> int:
        """Cases."""
        return prod(len(values) for _, values in self.params) * max(1, len(self.devices))

    @property
    def free(self) -> bool:
        """Whether there is anything to choose."""
        return self.open or self.number > 1


@dataclass(frozen=True, slots=True)
class CasePlan:
    """What was found in one case. samples, tokens: of a step; levels: of the cluster, how many of each; found: None
    with an error, or for what there was no time for; planned: what was searched; limit: in seconds of a step (bytes),
    below which plans were looked for."""

    params: tuple[tuple[str, str], ...]
    devices: int
    samples: int = 0
    tokens: int = 0
    levels: tuple[int, ...] = ()
    found: FoundPlan | FilledPlan | None = None
    planned: Planned | None = None
    error: Diagnostic | None = None
    limit: float = inf

    @property
    def price(self) -> Price | None:
        """Of the best that was found."""
        return price_of(self.found) if self.found is not None else None

    @property
    def least(self) -> float | None:
        """What a step of the rest takes at least, or needs; None if nothing is left."""
        if self.planned is not None:
            return self.planned.found.least
        if isinstance(self.found, FilledPlan):
            return self.found.filled.least
        return None if self.error is not None else 0.0

    def value(self, minimise: str) -> float:
        """Of what is compared; infinite where nothing was found."""
        return inf if self.price is None else compared(self.price, self.price.seconds, self.devices, minimise)


@dataclass(frozen=True, slots=True)
class ComparedPlans:
    """What was found in all cases, in the order in which they were searched. best: which of them; front: those than
    which none has as few devices and as small steps and is as good; asked: which cases there should be."""

    cases: tuple[CasePlan, ...]
    best: int
    minimise: str
    asked: FreeValues
    certificate: dict[str, Any] | None = None

    @property
    def found(self) -> FoundPlan | FilledPlan:
        """The plan of the best case."""
        found = self.cases[self.best].found
        assert found is not None
        return found

    @property
    def front(self) -> tuple[int, ...]:
        """By number."""
        keys = [(c.devices, c.samples, c.value(search_of(self.minimise))) for c in self.cases]
        there = [at for at, key in enumerate(keys) if key[2] < inf]
        return tuple(
            at
            for at in there
            if not any(
                all(a <= b for a, b in zip(keys[other], keys[at], strict=True))
                and (keys[other], other) < (keys[at], at)
                for other in there
            )
        )

    @property
    def gap(self) -> float:
        """By which share of the best what is left can be better, at most."""
        least = min((low for c in self.cases if (low := self._least(c)) is not None), default=inf)
        return max(0.0, 1 - least / self.cases[self.best].value(self.minimise))

    @property
    def proved(self) -> bool:
        """Whether in no case anything is left."""
        return all(c.least is None for c in self.cases)

    @property
    def told(self) -> str:
        """What is compared, and what is proved of it."""
        what = {"memory": "the memory of the fullest device", DEVICE_TIME: "the time of all devices for a token"}
        by = what.get(self.minimise, "the time of a token (of a sample, where there are no tokens)")
        end = "proved: in no case is any strategy better"
        if not self.proved:
            end = f"not proved: what is left of all cases is better than the best by {self.gap:.1%} at most"
        return f"{len(self.cases)} cases, by {by}; {end}"

    def table(self, tokens: float | None) -> tuple[list[str], list[list[str]]]:
        """Names and figures of all cases."""
        names = [name for name, _ in self.cases[0].params]
        free = [at for at, name in enumerate(names) if len({c.params[at] for c in self.cases}) > 1]
        days = ["days", "device-days"] if tokens else []
        head = [*(names[at] for at in free), "devices", "step", "of a token", "memory", *days, ""]
        rows = []
        for at, case in enumerate(self.cases):
            values, price = [case.params[n][1] for n in free], case.price
            figures = [""] * (3 + len(days))
            if price is not None:
                each = price.seconds / max(1, price.tokens)
                figures = [seconds(price.seconds), seconds(each), amount(price.needed)]
                took = (tokens or 0) * each / DAY
                figures += [f"{took:,.1f}", f"{took * case.devices:,.1f}"] if tokens else []
            rows.append([*values, f"{case.devices:,}" if case.devices else "", *figures, self.verdict(at)])
        return head, rows

    def verdict(self, at: int) -> str:
        """What there is to say of a case, in a line."""
        case = self.cases[at]
        if case.found is None:
            return f"{case.error.code}: {case.error.message}" if case.error is not None else "there was no time for it"
        told = ["the best"] if at == self.best else [] if at in self.front else ["fewer devices or samples do better"]
        if case.least is not None:
            gap = case.planned.found.gap if case.planned is not None else 1.0
            told.append(f"at most {gap:.1%} better")
        return ", ".join(told)

    def _least(self, case: CasePlan) -> float | None:
        if case.least is None or case.least == 0.0 or self.minimise == "memory":
            return case.least
        tokens = case.price.tokens if case.price is not None else case.tokens
        return per_token(case.least, tokens, case.devices, self.minimise)


def search_of(minimise: str) -> str:
    """What is minimised in each case by itself: there devices and tokens are what they are."""
    return "memory" if minimise == "memory" else "step"


def price_of(found: FoundPlan | FilledPlan) -> Price:
    """Of the plan that its text has."""
    if isinstance(found, FoundPlan) and found.refined is not None and found.refined.price is not None:
        return found.refined.price
    return found.best[0].price


def compared(price: Price, step: float, devices: int, minimise: str) -> float:
    """Bytes; or seconds of a token, of all devices for `DEVICE_TIME`. step: in seconds."""
    if minimise == "memory":
        return float(price.needed)
    return per_token(step, price.tokens, devices, minimise)


def per_token(step: float, tokens: int, devices: int, minimise: str) -> float:
    """Seconds."""
    return step / max(1, tokens) * (devices if minimise == DEVICE_TIME else 1)
