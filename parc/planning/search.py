"""Best first, with bounds: what cannot be better than the best is left out, all at once where a bound is of many.

Which candidate is priced next hangs on a guess (its bound, times what those like it took over theirs); what is left out
hangs on bounds alone. So at any time the best is known, and how much better the rest can be at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush
from math import inf
from time import monotonic

from dsl.diagnostics import ParcError
from parc.planning.bounds import LowerBounds
from parc.planning.found import Counts, Found, PricedPlan, Tried
from parc.planning.groups import SpaceGroups, bunch_bound, leaves
from parc.planning.guess import CLOSE, Guess, Kin, kin
from parc.planning.halves import BetweenHalves
from parc.planning.layer_work import LayerWork
from parc.planning.layers import Layers
from parc.planning.least_first import least_first, smallest
from parc.planning.offloads import Away
from parc.planning.opened import Entry, OpenBunch, OpenGroup, StillOpen
from parc.planning.paces import Paces
from parc.planning.parts import search_parts
from parc.planning.pricing import StrategyPricer
from parc.planning.rooms import Rooms
from parc.planning.space import MeshChoice, PlanChoice, PlanSpace
from parc.planning.spread import sparsest
from parc.planning.stopping import interruptible
from parc.planning.written import strategy_of

STEP, MEMORY = "step", "memory"
"""What is minimised: seconds of a step, or bytes of the fullest device."""

PATIENT = 3
"""So many candidates in a row that are no better, and what is not looked at closely yet goes first."""

WORTH = 400
"""Candidates that are worth an estimate of all: fewer are soon bounded one by one."""

FAR = 1.15
"""Where the best is so many times as slow as a candidate is guessed to be, that is priced before all else."""

SURER = 1.001
"""By as much a guess has to be above what it was to be made anew."""


class Search:
    """One search. told: hears of each better plan and of how many were priced; limit: what is not below it is no
    better, whatever else is found; processes: among so many what the first prices leave is shared out."""

    def __init__(
        self,
        space: PlanSpace,
        bounds: LowerBounds,
        pricer: StrategyPricer,
        minimise: str = STEP,
        told: Callable[[PricedPlan, Counts], None] | None = None,
        firsts: tuple[PlanChoice, ...] = (),
        limit: float = inf,
        processes: int = 1,
    ) -> None:
        self.space, self.bounds, self.pricer, self.minimise = space, bounds, pricer, minimise
        self.told, self.limit, self.processes = told, limit, processes
        roomy = (f for f in firsts if self.has_room(f.mesh, f.rules.zero, f.rules.offload))
        self.firsts = tuple(f for f in roomy if self.value(f) < inf)  # which are open once, and in no bunch
        self.taken = {*self.firsts}
        self.counts = Counts()
        self.fitting: list[PricedPlan] = []
        self.tried: list[Tried] = []
        self.smallest: int | None = None
        self.best = inf
        self.guess = Guess(bounds, space.batch)
        self.layers = layers = Layers(space, pricer)
        self.paces = paces = Paces(layers)
        self.rooms, self.halves = Rooms(paces), BetweenHalves(layers)
        self.likely: list[Entry] = []
        self.later: list[Entry] = []  # what probably does not fit
        self.left: list[tuple[float, int]] = []  # what processes of their own have left: bounds, and of how many
        self.number = 0
        self.idle = 0  # prices in a row that were no better
        self.spent = 0.0  # seconds, on prices

    def run(self, within: float | None = None) -> Found:
        """Search until nothing is left, for so many seconds (and until a price is known), where nothing fits then for
        as long again, or until interrupted."""
        began, lost = monotonic(), False
        until = inf if within is None else began + within
        with interruptible() as stopped:
            try:
                self._fill()
                self._take_firsts()
                self.below(self.limit)

                def over() -> bool:
                    half = self.spent / max(1, len(self.tried)) / 2  # of a price: as often too long as too short
                    return stopped.asked or (monotonic() + half > until and (bool(self.tried) or self.best < inf))

                if self.minimise == STEP and self.groups.count >= WORTH:
                    from parc.planning.scouting import scout

                    scout(self, over, within)
                self._push_groups()
                if self.processes > 1 and self.best < inf:
                    search_parts(self, self.processes, over)
                while (entry := self.next()) is not None:
                    if not over():
                        self.take(entry)
                        continue
                    self.push(entry)
                    if stopped.asked or self.best < inf or until > began + (within or 0.0):
                        break
                    until += within or 1e-9  # nothing fits yet
                    least_first(self, stopped, until, monotonic)
            except KeyboardInterrupt:  # in the middle of something: what that was of is left, too
                stopped.asked = lost = True
        least = self._end(lost)
        self.fitting.sort(key=lambda p: (p.value, p.price.seconds, p.price.needed))
        return Found(
            tuple(self.fitting),
            tuple(self.tried),
            self.counts,
            least,
            monotonic() - began,
            self.smallest,
            stopped.asked,
            *(self.layers.known, self.paces.known, self.limit, self.rooms.known),
        )

    # --- what there is -------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        self.groups = found = SpaceGroups(self.space, self.layers, self.has_room)
        self.counts.numbers, self.counts.too_large = found.numbers, found.too_large

    def _push_groups(self) -> None:
        """All but what was priced before."""
        bounds = self.bounds
        for of, bunches in self.groups.left(self.taken):
            passes = bounds.model.passes[bounds.which(of.layer.recompute, of.layer.by)]
            bound = passes / self.space.devices + bounds.model.fixed
            if self.minimise != STEP:
                bound = min(bounds.needed(sparsest(b.mesh), b.zero, away=b.rules.offload) for b in bunches)
            self.push(StillOpen(of, bound, OpenGroup(bunches, sum(b.count for b in bunches))))

    def _take_firsts(self) -> None:
        """Price what was asked for before all else."""
        for what in self.firsts:
            of = StillOpen(kin(self.space, what.mesh, what.rules), self.value(what), what)
            if of.bound < self.best:
                self.price(of, what)
            else:
                self.counts.not_better += 1

    def has_room(self, mesh: MeshChoice, zero: int, away: Away) -> bool:
        return self.bounds.needed(sparsest(mesh), zero, away=away) <= self.bounds.cluster.memory

    def value(self, of: PlanChoice, layer: LayerWork | None = None) -> float:
        """A lower bound of what is minimised; infinite for what does not fit."""
        size = self.bounds.bytes(of, layer)
        if size > self.bounds.cluster.memory:
            return inf
        return self.bounds.seconds(of, layer) if self.minimise == STEP else size

    def push(self, of: StillOpen) -> None:
        self.number += 1
        heappush(self.likely if self._likely(of) else self.later, (self._guessed(of), self.number, of))

    def _likely(self, of: StillOpen) -> bool:
        """Whether it probably fits, or is to be looked at whether it does or not."""
        what = of.what
        if isinstance(what, PlanChoice) and self._refused(what.mesh):
            return False
        if self.idle >= PATIENT and self._rough(of):
            return True
        if isinstance(what, OpenGroup):
            bunches = (StillOpen(kin(self.space, b.mesh, b.rules), 0.0, b) for b in what.bunches)
            return any(self._likely(b) for b in bunches)
        return self.guess.fits(of.kin, smallest(what), self.layers.best(of.kin))

    def _refused(self, mesh: MeshChoice) -> bool:
        """Whether it is probably refused, as all that has micro-batches where something needs the whole batch."""
        return "E0502" in self.counts.refused and mesh.microbatches > 1

    def _rough(self, of: StillOpen) -> bool:
        """Whether more can be found out about it without a price."""
        what = of.what
        if not isinstance(what, PlanChoice) or of.guess is None:  # looked at before any price was known
            return True
        return self.minimise == STEP and what.rules.zero > 1 and not of.paced

    def _guessed(self, of: StillOpen) -> float:
        """What a candidate takes, or the best of many; as long as no price is known, candidates go first."""
        if isinstance(of.what, PlanChoice) and self.best == inf:
            return 0.0
        if of.guess is not None and FAR * of.guess < self.best:
            return of.guess / self.space.devices  # before all groups: with a better best these are less work
        if self.idle >= PATIENT and self._rough(of):
            return of.bound
        guess = of.bound * self.guess.factor(of.kin) if of.guess is None else of.guess
        return min(guess, self.best) if isinstance(of.what, OpenGroup) else guess  # much is left out with little work

    def _leaves(self, bunch: OpenBunch) -> Iterator[PlanChoice]:
        return (of for of in leaves(self.space, bunch, self.has_room) if of not in self.taken)

    # --- the way through it --------------------------------------------------------------------------------------

    def next(self) -> StillOpen | None:
        """Of all that may be better than the best, what is guessed to be best; None if nothing may be."""
        for heap in (self.likely, self.later):
            while heap:
                guess, _, of = heappop(heap)
                if of.bound >= self.best:
                    self.counts.not_better += of.count
                elif self._guessed(of) > guess * SURER and heap:
                    self.push(of)  # more is known of its kin than when it was guessed
                elif heap is self.likely and isinstance(of.what, PlanChoice) and not self._likely(of):
                    self.number += 1
                    heappush(self.later, (guess, self.number, of))
                else:
                    return of
        return None

    def take(self, of: StillOpen) -> None:
        what = of.what
        if isinstance(what, OpenGroup):
            return self._open_group(of, what)
        if isinstance(what, OpenBunch):
            return self._open(of, [(of.bound, leaf) for leaf in self._leaves(what)])
        if self.best < inf and of.guess is None:
            return self._open(of, [(of.bound, what)])
        if self.best < inf and self._rough(of):
            return self._pace(of, what)
        if not self.overfull(of.kin, what):
            return self.price(of, what)
        self.counts.not_better += 1

    def overfull(self, of: Kin, what: PlanChoice) -> bool:
        """Whether it does not fit, by what others of its kind keep between the halves of a backward pass."""
        return self.halves.bytes(self.bounds, what, of) > self.bounds.cluster.memory

    def price(self, of: StillOpen, what: PlanChoice) -> None:
        """Find out what it takes."""
        began = monotonic()
        self._price(of, what)
        self.spent += monotonic() - began

    def _price(self, of: StillOpen, what: PlanChoice) -> None:
        try:
            strategy = strategy_of(self.space, what)
            needed = self.pricer.needed(strategy)
            between = self.halves.learn(what)
            fits = needed <= self.bounds.cluster.memory
            price = self.pricer.price() if fits else None
        except ParcError as error:
            code = next((d.code for d in error.diagnostics if d.severity == "error"), "")
            self.counts.refused[code] = self.counts.refused.get(code, 0) + 1
            self.tried.append(Tried(what, code=code))
            return
        if price is not None and not price.fits:  # into the hosts' memory
            price = None
        self._in_vain()
        seconds = None if price is None else price.seconds
        self.tried.append(Tried(what, needed, seconds, between=between))
        self.halves.add(self.tried[-1:])
        layer = self.layers.best(of.kin)
        self.guess.learn(of.kin, what, needed, layer)
        if price is None:
            self.counts.unfit += 1
            if not fits:
                self.smallest = min(needed, self.smallest or needed)
            return
        self.counts.fitting += 1
        plan = PricedPlan(what, price, price.seconds if self.minimise == STEP else float(needed), of.bound)
        self.fitting.append(plan)
        if self.below(plan.value):
            self.idle = 0
            if self.told is not None:
                self.told(plan, self.counts)

    def below(self, value: float) -> bool:
        """What is looked for from now on is better than this; whether that is less than it was."""
        if value >= self.best:
            return False
        self.best = value
        self.likely = [(self._guessed(each), number, each) for _, number, each in self.likely]
        heapify(self.likely)
        return True

    def _in_vain(self) -> None:
        """Another candidate was looked at, and is probably no better."""
        self.idle += self.best < inf
        if self.idle == PATIENT:
            entries, self.likely, self.later = (*self.likely, *self.later), [], []
            for _, _, each in entries:
                self.push(each)

    def _open_group(self, of: StillOpen, group: OpenGroup) -> None:
        """Its bunches one by one, if the work of their layers does not speak against all of them."""
        if self.best == inf:  # first of all one that fits
            for bunch in group.bunches:
                every = StillOpen(kin(self.space, bunch.mesh, bunch.rules), of.bound, bunch)
                leaves = [(of.bound, leaf) for leaf in self._leaves(bunch)]
                self.push(replace(self._known(every, leaves), guess=None))
            return
        bound = self._grouped(of)
        while self.minimise == STEP and bound < self.best and self.layers.rougher(of.kin):
            bound = self._grouped(of)
        if bound >= self.best:
            self.counts.not_better += group.count
            return
        self.guess.found(of.kin, CLOSE * bound / of.bound if of.bound else 1.0)
        for bunch in group.bunches:
            mine = kin(self.space, bunch.mesh, bunch.rules)
            better = max(
                bound, bunch_bound(self.space, self.bounds, bunch, self.layers.best(mine), self.minimise == STEP)
            )
            if better >= self.best:
                self.counts.not_better += bunch.count
                continue
            self.push(self._known(StillOpen(mine, better, bunch), [(better, leaf) for leaf in self._leaves(bunch)]))

    def _grouped(self, of: StillOpen) -> float:
        """What is now known of a group: of fewer rows than its own, too."""
        layer = self.layers.best(of.kin) if self.minimise == STEP else None
        if layer is None:
            return of.bound
        layer = layer.loose
        rows = self.space.batch * of.kin.layer.devices
        each = layer.rows * self.layers.experts(of.kin.layer)
        return max(of.bound, self.bounds.shared(layer, rows / each))

    def _known(self, of: StillOpen, leaves: list[tuple[float, PlanChoice]]) -> StillOpen:
        """The same, with what is now known of its candidates."""
        bounds = self._bounds(of.kin, leaves)
        guess = min(self._guess(leaf, bound) for bound, leaf in bounds)
        return replace(of, bound=min(bound for bound, _ in bounds), guess=guess)

    def _guess(self, leaf: PlanChoice, bound: float) -> float:
        """Of a candidate."""
        return self.guess.seconds(leaf, bound) if self.minimise == STEP else bound * CLOSE

    def _bounds(self, of: Kin, leaves: list[tuple[float, PlanChoice]]) -> list[tuple[float, PlanChoice]]:
        """The candidates, with what is now known of them."""
        layer = self.layers.best(of)
        return [(max(known, self.value(leaf, layer)), leaf) for known, leaf in leaves]

    def _open(self, of: StillOpen, leaves: list[tuple[float, PlanChoice]]) -> None:
        """Candidates of a mesh one by one, with bounds that are as close as it takes to leave them out, once a price is
        known."""
        while leaves:
            bounds = self._bounds(of.kin, leaves)
            leaves = [(bound, leaf) for bound, leaf in bounds if bound < self.best]
            self.counts.not_better += len(bounds) - len(leaves)
            sharded = all(leaf.rules.zero > 1 for _, leaf in leaves)
            if not leaves or self.best == inf or not self.layers.closer(of.kin, sharded):
                break
        for bound, leaf in leaves:
            self.push(StillOpen(of.kin, bound, leaf, self._guess(leaf, bound) if self.best < inf else None))

    def _pace(self, of: StillOpen, leaf: PlanChoice) -> None:
        """Look at the messages beside the passes of layers whose gradients are sharded; and where these do not speak
        against it, at what comes and goes in its loop, of the program that was lowered for them."""
        layer, bound, guess = self.layers.best(of.kin), of.bound, of.guess
        while layer is not None and layer.forward and bound < self.best:
            if (pace := self.paces.best(leaf, of.kin)) is not None:
                bound = max(bound, self.bounds.seconds(leaf, layer, pace))
                guess = CLOSE * bound
            if bound < self.best and not self.paces.closer(leaf, of.kin):
                size = self.bounds.bytes(leaf, layer, self.rooms.look(leaf, of.kin))
                bound = bound if size <= self.bounds.cluster.memory else inf
                break
        self.push(replace(of, bound=bound, guess=guess, paced=True))
        self._in_vain()

    def _end(self, lost: bool) -> float | None:
        """Count what is left, and find its lowest bound. lost: whether something was interrupted that was in no heap,
        or that some of was put there."""
        least = None
        for bound, count in (*self.left, *self.still_open()):
            if bound >= self.best:
                self.counts.not_better += count
            else:
                self.counts.left += count
                least = bound if least is None else min(least, bound)
        if lost:
            passes = min(self.bounds.model.passes) / self.space.devices
            least = min(least or inf, passes) if self.minimise == STEP else 0.0
            self.counts.leave(self.space.total)
        return least

    def still_open(self) -> Iterator[tuple[float, int]]:
        """Bounds of what is in the heaps, and of how many candidates each is."""
        for _, _, of in (*self.likely, *self.later):
            yield self._grouped(of) if isinstance(of.what, OpenGroup) else of.bound, of.count
