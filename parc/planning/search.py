"""Best first, with bounds: what cannot be better than the best is left out, all at once where a bound is of many.

Which candidate is priced next hangs on a guess (its bound, times what those like it took over theirs); what is left out
hangs on bounds alone. So at any time the best is known, and how much better the rest can be at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field, replace
from heapq import heappop, heappush
from math import inf
from time import monotonic

from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.planning.bounds import LowerBounds
from parc.planning.guess import Guess, Kin, kin
from parc.planning.pricing import StrategyPricer
from parc.planning.space import DATA, ZERO, MeshChoice, PlanChoice, PlanRules, PlanSpace
from parc.planning.written import strategy_of
from parc.price import Price

STEP, MEMORY = "step", "memory"
"""What is minimised: seconds of a step, or bytes of the fullest device."""


SURER = 1.001
"""By as much a guess has to be above what it was to be made anew."""


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """A candidate that fits, and its exact price. value: what is minimised; bound: what was known of it before."""

    candidate: PlanChoice
    price: Price
    value: float
    bound: float


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate that was compiled. seconds: None if it does not fit; code: what is wrong with it, else empty."""

    candidate: PlanChoice
    needed: int | None = None
    seconds: float | None = None
    code: str = ""


@dataclass(slots=True)
class Counts:
    """Candidates of the space, by what became of them; they add up to all.

    numbers: a dim, a batch or a loop cannot be split so, or the cluster cannot tell it from another. too_large,
    not_better: by bounds alone. refused: by the code of what is wrong. unfit: priced, and larger than the devices'
    memory. fitting: priced, and not. left: not looked at.
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

    @property
    def total(self) -> int:
        """All of the space."""
        known = self.numbers + self.too_large + self.not_better + sum(self.refused.values())
        return known + self.priced + self.left


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ends with. fitting: best first. least: the lowest bound of what is left (None: nothing is).
    smallest: bytes of what needs least of all that was priced, and does not fit. interrupted: by the user."""

    fitting: tuple[PricedPlan, ...]
    tried: tuple[Tried, ...]
    counts: Counts
    least: float | None
    seconds: float
    smallest: int | None = None
    interrupted: bool = False

    @property
    def gap(self) -> float:
        """By which share of the best's value what is left can be better, at most."""
        if self.least is None:
            return 0.0
        return max(0.0, 1 - self.least / self.fitting[0].value) if self.fitting else 1.0


@dataclass(frozen=True, slots=True)
class _Bunch:
    """Candidates of one mesh that differ in nothing but the order of axes, ZeRO (up to `zero`) and the schedule."""

    mesh: MeshChoice
    rules: PlanRules
    zero: int
    count: int


@dataclass(frozen=True, slots=True)
class _Open:
    """What is still to be looked at. bound: of what is minimised, lower than all of it."""

    kin: Kin
    bound: float
    what: _Bunch | PlanChoice


Entry = tuple[float, int, _Open]
"""A guess, a number that tells equal ones apart, and what it is of."""


class Search:
    """One search. told: hears of each better plan and of how many were priced."""

    def __init__(
        self,
        space: PlanSpace,
        bounds: LowerBounds,
        pricer: StrategyPricer,
        minimise: str = STEP,
        told: Callable[[PricedPlan, Counts], None] | None = None,
    ) -> None:
        self.space, self.bounds, self.pricer, self.minimise = space, bounds, pricer, minimise
        self.told = told
        self.counts = Counts()
        self.fitting: list[PricedPlan] = []
        self.tried: list[Tried] = []
        self.smallest: int | None = None
        self.best = inf
        self.guess = Guess(bounds, space.batch)
        self.likely: list[Entry] = []
        self.later: list[Entry] = []  # what probably does not fit
        self.number = 0

    def run(self, within: float | None = None) -> Found:
        """Search until nothing is left, for so many seconds at most, or until interrupted."""
        began, interrupted = monotonic(), False
        try:
            self._fill()
            while (entry := self._next()) is not None:
                if within is not None and monotonic() - began > within:
                    self._push(entry)
                    break
                self._take(entry)
        except KeyboardInterrupt:
            interrupted = True
        least = self._end()
        self.fitting.sort(key=lambda p: (p.value, p.price.seconds, p.price.needed))
        return Found(
            tuple(self.fitting), tuple(self.tried), self.counts, least, monotonic() - began, self.smallest, interrupted
        )

    # --- what there is -------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        space, memory, legal = self.space, self.bounds.cluster.memory, 0
        for mesh in space.meshes():
            legal += space.legal(mesh)
            sizes: dict[int, float] = {z: self.bounds.needed(mesh.size(DATA), z) for z in ZERO}
            known: dict[int, float] = {}
            for rules, ways in space.bunches(mesh):
                zero = [z for z in ways.zero if sizes[z] <= memory]
                each = len(ways.first) * len(ways.schedules)
                self.counts.too_large += each * (len(ways.zero) - len(zero))
                if not zero:
                    continue
                if rules.recompute not in known:
                    last = ways.schedules[-1][0]  # of its bound alone: no schedule has a lower one
                    known[rules.recompute] = min(
                        self.value(PlanChoice(mesh, replace(rules, first=f, zero=z, schedule=last)))
                        for f in ways.first
                        for z in zero
                    )
                bunch = _Bunch(mesh, rules, zero[-1], each * len(zero))
                self._push(_Open(kin(space, mesh, rules), known[rules.recompute], bunch))
        self.counts.numbers = space.total - legal

    def value(self, of: PlanChoice) -> float:
        """A lower bound of what is minimised."""
        return self.bounds.seconds(of) if self.minimise == STEP else self.bounds.bytes(of)

    def _push(self, of: _Open) -> None:
        self.number += 1
        what = of.what
        smallest = what if isinstance(what, PlanChoice) else PlanChoice(what.mesh, replace(what.rules, zero=what.zero))
        likely = self.guess.fits(of.kin, smallest)
        heappush(self.likely if likely else self.later, (self.guess.factor(of.kin) * of.bound, self.number, of))

    def _leaves(self, bunch: _Bunch) -> Iterator[PlanChoice]:
        mesh, memory = bunch.mesh, self.bounds.cluster.memory
        ways = self.space.ways(mesh)
        for zero in ways.zero:
            if self.bounds.needed(mesh.size(DATA), zero) <= memory:
                for first in ways.first:
                    for schedule, chunks in ways.schedules:
                        rules = replace(bunch.rules, first=first, zero=zero, schedule=schedule, chunks=chunks)
                        yield PlanChoice(mesh, rules)

    # --- the way through it --------------------------------------------------------------------------------------

    def _next(self) -> _Open | None:
        """Of all that may be better than the best, what is guessed to be best; None if nothing may be."""
        for heap in (self.likely, self.later):
            while heap:
                guess, _, of = heappop(heap)
                if of.bound >= self.best:
                    self.counts.not_better += of.what.count if isinstance(of.what, _Bunch) else 1
                elif self.guess.factor(of.kin) * of.bound > guess * SURER and heap:
                    self._push(of)  # more is known of its kin than when it was guessed
                elif heap is self.likely and isinstance(of.what, PlanChoice) and not self.guess.fits(of.kin, of.what):
                    heappush(self.later, (guess, self.number, of))
                    self.number += 1
                else:
                    return of
        return None

    def _take(self, of: _Open) -> None:
        what, bound = of.what, of.bound
        if isinstance(what, _Bunch):
            for leaf in self._leaves(what):
                self._push(_Open(of.kin, max(bound, self.value(leaf)), leaf))
            return
        strategy = strategy_of(self.space, what)
        try:
            needed = self.pricer.needed(strategy)
            fits = needed <= self.bounds.cluster.memory
            price = self.pricer.price() if fits else None
        except ParcError as error:
            code = next((d.code for d in error.diagnostics if d.severity == "error"), "")
            self.counts.refused[code] = self.counts.refused.get(code, 0) + 1
            self.tried.append(Tried(what, code=code))
            return
        seconds = None if price is None else price.seconds
        self.tried.append(Tried(what, needed, seconds))
        self.guess.learn(of.kin, what, bound if self.minimise == STEP else None, needed, seconds)
        if price is None:
            self.counts.unfit += 1
            self.smallest = min(needed, self.smallest or needed)
            return
        self.counts.fitting += 1
        plan = PricedPlan(what, price, price.seconds if self.minimise == STEP else float(needed), bound)
        self.fitting.append(plan)
        if plan.value < self.best:
            self.best = plan.value
            if self.told is not None:
                self.told(plan, self.counts)

    def _end(self) -> float | None:
        """Count what is left, and find its lowest bound."""
        least = None
        for _, _, of in (*self.likely, *self.later):
            count = of.what.count if isinstance(of.what, _Bunch) else 1
            if of.bound >= self.best:
                self.counts.not_better += count
            else:
                self.counts.left += count
                least = of.bound if least is None else min(least, of.bound)
        return least
