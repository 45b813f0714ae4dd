"""A search and all its bounds, held to the exact prices of a whole space.

What a search has to agree with is found without it: each candidate is priced, and none is left out. Prices themselves
are shared (other tests hold them to those of each strategy alone), and some are made alone all the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from math import inf
from unittest.mock import patch

from compiler.model import Job
from compiler.strategy import SERIAL
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.planning import search as planning_search
from parc.planning.bounds import LowerBounds
from parc.planning.firsts import firsts
from parc.planning.found import Found
from parc.planning.groups import bunch_bound
from parc.planning.guess import Kin, kin
from parc.planning.layer_work import LayerWork
from parc.planning.layers import Layers
from parc.planning.left_out import left_out
from parc.planning.opened import OpenBunch, OpenGroup, StillOpen
from parc.planning.paces import Paces
from parc.planning.pricing import StrategyPricer
from parc.planning.rooms import Rooms
from parc.planning.search import STEP, Search
from parc.planning.space import DATA, EXPERTS, STAGES, PlanChoice, PlanRules, PlanSpace
from parc.planning.written import strategy_of
from parc.price import Price, price
from tests.planning.brute import candidates, inside, space_of


class Disagreement(Exception):
    """A search says what prices do not."""


def hold(what: bool, why: str, *told: object) -> None:
    """Raises Disagreement where it is not so."""
    if not what:
        raise Disagreement(f"{why}: " + "; ".join(map(str, told)))


@dataclass(frozen=True, slots=True)
class WholeSpace:
    """All candidates of a job with their prices; refused: the codes of those that cannot be lowered."""

    job: Job
    space: PlanSpace
    bounds: LowerBounds
    pricer: StrategyPricer
    prices: dict[PlanChoice, Price]
    refused: dict[PlanChoice, str]

    def value(self, of: PlanChoice, minimise: str) -> float:
        """What is minimised; infinite for what does not fit or cannot be."""
        found = self.prices.get(of)
        if found is None or not found.fits:
            return inf
        return found.seconds if minimise == STEP else float(found.needed)


def whole_space(job: Job) -> WholeSpace:
    """Price all. Nothing is left out by a bound."""
    space, bounds = space_of(job)
    pricer = StrategyPricer(job, space.by_hand)
    prices: dict[PlanChoice, Price] = {}
    refused: dict[PlanChoice, str] = {}
    for of in candidates(space):
        try:
            pricer.needed(strategy_of(space, of))
        except ParcError as error:
            refused[of] = next((d.code for d in error.diagnostics if d.severity == "error"), "")
            continue
        prices[of] = pricer.price()
    return WholeSpace(job, space, bounds, pricer, prices, refused)


def with_room(whole: WholeSpace, job: Job) -> WholeSpace:
    """The same on devices with another memory. job: on these."""
    assert job.cluster is not None
    memory = job.cluster.device.memory
    space, bounds = space_of(job)
    pricer = copy(whole.pricer)
    pricer.job = job
    if space.implementations:  # whose jobs have their cluster
        pricer = StrategyPricer(job, space.by_hand)
    prices = {of: replace(p, fits=p.needed <= memory) for of, p in whole.prices.items()}
    return WholeSpace(job, space, bounds, pricer, prices, whole.refused)


def some_left_out(whole: WholeSpace, names: Sequence[str]) -> WholeSpace:
    """The same without what has these names, of which prices are known."""
    space = replace(whole.space, without=left_out(names))
    there = {*candidates(space)}
    prices = {of: price for of, price in whole.prices.items() if of in there}
    refused = {of: code for of, code in whole.refused.items() if of in there}
    hold(len(prices) + len(refused) == len(there), "what is left was not there before", names)
    return WholeSpace(whole.job, space, whole.bounds, whole.pricer, prices, refused)


def memory_for(whole: WholeSpace, share: float) -> int:
    """Bytes in which this share of all candidates has room: what one of them needs to the byte."""
    sizes = sorted(p.needed for p in whole.prices.values())
    return sizes[max(1, round(share * len(sizes))) - 1]


class HeldSearch(Search):
    """A search whose every bound is held to exact prices as it is used."""

    whole: WholeSpace
    bunched: dict[tuple[object, PlanRules], dict[PlanChoice, float]]
    held = 0

    def knows(self, whole: WholeSpace) -> None:
        """Tell it all prices."""
        self.whole, self.bunched = whole, {}
        for of in whole.prices:
            self.bunched.setdefault((of.mesh, of.bunched), {})[of] = whole.value(of, self.minimise)

    def _hold(self, bound: float, exact: float, *told: object) -> float:
        self.held += 1
        hold(bound <= exact, "a bound is above a price", bound, exact, *told)
        return bound

    def _least(self, what: PlanChoice | OpenBunch | OpenGroup) -> float:
        if isinstance(what, PlanChoice):
            return self.whole.value(what, self.minimise)
        bunches = what.bunches if isinstance(what, OpenGroup) else (what,)
        found = (self.bunched.get((b.mesh, b.rules), {}).items() for b in bunches)
        # what was estimated to be best was priced before, and is in no bunch
        return min((value for each in found for of, value in each if of not in self.taken), default=inf)

    def value(self, of: PlanChoice, layer: LayerWork | None = None) -> float:
        found = super().value(of, layer)
        return self._hold(found, self.whole.value(of, self.minimise), of, layer) if hasattr(self, "whole") else found

    def bunched_bound(
        self, space: PlanSpace, bounds: LowerBounds, bunch: OpenBunch, layer: LayerWork | None, of_steps: bool
    ) -> float:
        """In the place of what bounds a bunch."""
        found = bunch_bound(space, bounds, bunch, layer, of_steps)
        return self._hold(found, self._least(bunch), bunch, layer)

    def _grouped(self, of: StillOpen) -> float:
        return self._hold(super()._grouped(of), self._least(of.what), of)

    def overfull(self, of: Kin, what: PlanChoice) -> bool:
        found = super().overfull(of, what)
        self._hold(inf if found else 0.0, self.whole.value(what, self.minimise), of, what)
        return found

    def push(self, of: StillOpen) -> None:
        self._hold(of.bound, self._least(of.what), of)
        super().push(of)


def searched(whole: WholeSpace, minimise: str, begin: bool) -> tuple[HeldSearch, Found]:
    """A search to its end. begin: where `parc plan` begins of a file whose strategy splits nothing."""
    first = firsts(whole.space, SERIAL) if begin else ()
    search = HeldSearch(whole.space, whole.bounds, whole.pricer, minimise, None, first)
    search.knows(whole)
    with patch.object(planning_search, "bunch_bound", search.bunched_bound):
        return search, search.run()


def hold_found(whole: WholeSpace, found: Found, minimise: str) -> float:
    """What a search that has ended says of the best, of all that it tried, and of how many there are."""
    counts, space = found.counts, whole.space
    hold(found.least is None and not counts.left and not found.gap, "a search ends with something left", counts)
    best = min((whole.value(of, minimise) for of in whole.prices), default=inf)
    mine = found.fitting[0].value if found.fitting else inf
    hold(mine == best, "the best is another", mine, best)
    hold(counts.total == space.total, "there are others", counts, space.total)
    all_legal = len(whole.prices) + len(whole.refused)
    hold(counts.numbers == space.total - all_legal, "others are left out by number", counts, all_legal)
    for plan in found.fitting:
        exact = whole.prices.get(plan.candidate)
        hold(plan.price == exact and plan.value == whole.value(plan.candidate, minimise), "another price", plan, exact)
    for each in found.tried:
        exact = whole.prices.get(each.candidate)
        if exact is None:
            hold(each.code == whole.refused[each.candidate] != "", "it is refused", each)
            continue
        seconds = exact.seconds if exact.fits else None
        hold((each.code, each.needed, each.seconds) == ("", exact.needed, seconds), "another price", each, exact)
    tried = {each.candidate for each in found.tried}
    hold(len(tried) == len(found.tried), "a candidate was tried twice")
    codes = Counter(each.code for each in found.tried)
    unfit = sum(each.seconds is None and not each.code for each in found.tried)
    number = counts.fitting, counts.unfit, Counter(counts.refused)
    refused = Counter({code: n for code, n in codes.items() if code})
    hold(number == (codes[""] - unfit, unfit, refused), "tried ones are counted otherwise", counts, codes)
    left = [of for of in (*whole.prices, *whole.refused) if of not in tried]
    hold(counts.not_better + counts.too_large == len(left), "discarded ones are counted otherwise", counts, len(left))
    large = [of for of in left if not (of in whole.prices and whole.prices[of].fits)]
    hold(counts.too_large <= len(large), "what has room is too large", counts, len(large))
    for of in left:
        hold(whole.value(of, minimise) >= best, "what was left out is better", of, best)
    return best


def all_looks(whole: WholeSpace, layers: Layers, paces: Paces, rooms: Rooms) -> None:
    """All that can be found out about layers and loops, of all candidates."""
    for of in whole.prices:
        mine = kin(whole.space, of.mesh, of.rules)
        while layers.closer(mine, False):
            pass
        while paces.closer(of, mine):
            pass
        rooms.look(of, mine)


def hold_bounds(whole: WholeSpace, layers: Layers, paces: Paces, rooms: Rooms) -> int:
    """Each bound of each candidate, with nothing known of layers, with each single thing that is known, and with all
    that is known of loops: how many there were."""
    space, bounds = whole.space, whole.bounds
    of_kin: dict[Kin, list[LayerWork]] = {}
    held = 0
    for of, exact in whole.prices.items():
        mine = kin(space, of.mesh, of.rules)
        if mine not in of_kin:
            of_kin[mine] = list(dict.fromkeys(_each(layers, mine)))
        pace, room = paces.best(of, mine), rooms.look(of, mine)
        for layer in (None, *of_kin[mine]):
            seconds = bounds.seconds(of, layer)
            size = bounds.bytes(of, layer)
            hold(seconds <= exact.seconds, "a bound is above a price", seconds, exact, of, layer)
            hold(size <= exact.needed, "a bound is above a size", size, exact, of, layer)
            held += 2
            if layer is not None and room is not None:
                size = bounds.bytes(of, layer, room)
                hold(size <= exact.needed, "a bound is above a size", size, exact, of, layer, room)
                held += 1
            if layer is not None and layer.forward and pace is not None:
                seconds = bounds.seconds(of, layer, pace)
                hold(seconds <= exact.seconds, "a bound is above a price", seconds, exact, of, layer, pace)
                held += 1
    return held


def _each(layers: Layers, of: Kin) -> Iterator[LayerWork]:
    """What each single thing that is known of layers says of some."""
    one = copy(layers)
    for kind, works in layers.known.items():
        for work in works:
            one.known = {kind: [work]}
            if (found := one.best(of)) is not None:
                yield found


def hold_alone(whole: WholeSpace, number: int, rng: random.Random) -> None:
    """Prices of some, each found alone; and that of some whose stages and replicas change places, which no number
    leaves in the space because the cluster cannot tell them apart."""
    every = [*whole.prices, *whole.refused]
    for of in rng.sample(every, min(number, len(every))):
        alone = _alone(whole, of)
        hold(alone == whole.prices.get(of), "a shared price is another", alone, whole.prices.get(of), of)
    both = [of for of in whole.prices if {STAGES, DATA} <= {role.kind for role, _ in of.mesh.axes}]
    same = [of for of in both if len(whole.space.ways(of.mesh).first) == 1]
    for of in rng.sample(same, min(number, len(same))):
        other = PlanChoice(of.mesh, replace(of.rules, first=DATA if of.rules.first == STAGES else STAGES))
        alone = _alone(whole, other)
        hold(alone == whole.prices[of], "the cluster can tell orders of axes apart", alone, whole.prices[of], of)


def _alone(whole: WholeSpace, of: PlanChoice) -> Price | None:
    try:
        return price(whole.space.job_of(whole.job, strategy_of(whole.space, of)))
    except ParcError:
        return None


def interior(space: PlanSpace, of: PlanChoice) -> int:
    """How many of its choices are between the first and the last that there are: devices are shared by several axes;
    micro-batches; a stage of ZeRO; what is computed again."""
    pieces, last = space.batch // (of.mesh.size(DATA) * of.mesh.size(EXPERTS)), len(space.recomputes) - 1
    between = 1 < of.mesh.microbatches < pieces, of.rules.zero in (1, 2), 0 < of.rules.recompute < last
    return (len(of.axes) > 1) + sum(between)


def best_inside(whole: WholeSpace, minimise: str) -> tuple[bool, int]:
    """Whether all optima are in no corner of the space; and the least number of choices of one that are in between."""
    best = min(whole.value(of, minimise) for of in whole.prices)
    optima = [of for of in whole.prices if whole.value(of, minimise) == best]
    return all(inside(whole.space, of) for of in optima), min(interior(whole.space, of) for of in optima)
