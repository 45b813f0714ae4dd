"""Exact prices of many strategies of one job: what does not depend on the strategy is done once."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from compiler.cost.kernels.templates import WorkTemplates
from compiler.cost.memory.systems import Systems
from compiler.cost.memory.templates import MemoryTemplates
from compiler.cost.time.before import PricedBefore
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job, run_passes
from compiler.model import Job, Training
from compiler.passes.pipeline import NAMES, Work
from compiler.passes.place.alike import SizesAsked
from compiler.passes.place.before import ChosenBefore
from compiler.passes.place.place import Placed, Undivided, place
from compiler.passes.place.rules import Rules, place_axes
from compiler.passes.sparse import Unlisted
from compiler.program import Program
from compiler.strategy import PipelineRule, Strategy
from dsl.diagnostics import Diagnostics
from parc.planning.implementing import Implementing
from parc.planning.shared_programs import PLACED, SharedProgram, SharedPrograms, run_between
from parc.price import Price, room_elsewhere

SHARED, CLOSED = "prune", "update"
"""The last passes that ask a strategy for nothing but whether parts of the model are kept apart; and for what is
computed again and where stages begin."""

LAST = NAMES[NAMES.index(PLACED) - 1]

KEPT = 300
"""Graphs in which so many strategies are laid out are kept, of each kind of strategies."""


BODIES = 800
"""Bodies of which it is kept how long values in them live."""


class _Compiled(NamedTuple):
    """work: how it was made, known: with what it shares its functions, if not from the beginning."""

    compiled: Compiled
    work: Work | None = None
    known: SharedProgram | None = None


class StrategyPricer:
    """Prices strategies of a job as `parc.price.price` does, to the picosecond and the byte."""

    def __init__(self, job: Job, by_hand: Implementing | None = None) -> None:
        self.job, self.by_hand = job, by_hand
        self.others: dict[int, StrategyPricer] = {}  # of models with something written by hand, by identity
        self.known: dict[bool, Work | None] = {}
        self.closed: dict[object, Work] = {}
        self.placed: dict[object, tuple[tuple[SizesAsked, Placed], ...]] = {}
        self.chosen, self.programs = ChosenBefore(), SharedPrograms()
        self.before, self.memories, self.passes = PricedBefore(), MemoryTemplates(), WorkTemplates(at_once=True)
        self.simulation: Simulation | None = None
        self.last: Compiled | None = None
        self.systems: Systems | None = None  # of the last
        self.updates: Callable[[], Program] | None = None  # of the last, where its program is without
        self.bytes = 0

    def needed(self, strategy: Strategy) -> int:
        """Bytes of the fullest device, which are found sooner than the time. Raises ParcError for what cannot be
        lowered."""
        self.last, self.updates = self._without_updates(strategy)
        compiled = self.last
        if len(self.memories.lives) > BODIES:
            self.memories.lives.clear()
        self.simulation = Simulation.of(compiled, self.before)
        rounds = self.simulation.groups.of_groups.rounds
        self.systems = Systems(compiled, self.simulation.features, before=self.memories, rounds=rounds)
        self.bytes = self.systems.fullest.needed
        return self.bytes

    def price(self) -> Price:
        """Of the strategy whose memory was asked for last."""
        assert self.last is not None and self.simulation is not None
        if self.updates is not None:
            self.last, self.updates = replace(self.last, program=self.updates()), None
            self.simulation = self.simulation.completed(self.last)
        simulation, of = self.simulation, self.simulation.features
        fits = self.bytes <= simulation.cluster.device.memory and room_elsewhere(self.last)
        return Price(simulation.seconds(), self.bytes, fits, of.samples, of.tokens)

    def compiled(self, strategy: Strategy, update: bool = True) -> Compiled:
        """The job with this strategy, not verified. update: if not, what is wanted are the passes alone."""
        made = self._of(strategy)
        if made is not self:
            return made.compiled(strategy, update)
        return self._compiled(strategy, update, False)[0]

    def _without_updates(self, strategy: Strategy) -> tuple[Compiled, Callable[[], Program] | None]:
        """The same, with updates that do nothing yet, and what makes the program with them; where that is not needed
        nothing makes it."""
        made = self._of(strategy)
        if made is not self:
            return made._without_updates(strategy)
        compiled, work, known = self._compiled(strategy, True, True)
        if work is None or known is None or known.later is None:
            return compiled, None
        return compiled, partial(known.with_updates, work)

    def _of(self, strategy: Strategy) -> StrategyPricer:
        """That of the model in which stands what the strategy has written by hand."""
        if not strategy.implementations or self.by_hand is None:
            return self
        made = self.by_hand.job_of(strategy)
        return self.others.setdefault(id(made.model), StrategyPricer(made))

    def _compiled(self, strategy: Strategy, update: bool, later: bool) -> _Compiled:
        job = replace(self.job, strategy=strategy)
        apart = bool(strategy.places) or any(len(p.parts) > 1 for p in strategy.pipelines)
        if apart not in self.known:
            self.known[apart] = self._begun(job)
        begun = self.known[apart]
        if begun is None:
            return _Compiled(compile_job(job))
        try:
            work = self._laid(begun, job, update)
            known = self.programs.run(work, later)
        except (Undivided, Unlisted):  # what is needed of whole batches, or no list after all: from the beginning
            return _Compiled(compile_job(job))
        compiled = Compiled(job, work.serial, work.placed, work.staged, work.split, work.program)
        return _Compiled(compiled, work, known)

    def _laid(self, begun: Work, job: Job, update: bool) -> Work:
        """After `PLACED`: graphs that another strategy has got the very same are taken from it."""
        work = _another(self._closed(begun, job), job)
        run_between(work, CLOSED, LAST)
        listed = bool(work.training.listed)
        if not update and not work.training.beside:
            work.training = _without_update(work.training)
        strategy, of_axes = job.strategy, tuple(a.name for a in job.strategy.mesh)
        alike = replace(
            strategy, name="", mesh=(), microbatches=min(2, strategy.microbatches), pipelines=_rows(strategy)
        )
        key = (alike, of_axes, update)
        known = () if listed else self.placed.pop(key, ())
        if known:
            self.placed[key] = known  # those that were asked for last are kept
        rules = Rules(job, Diagnostics()) if known else None
        for asked, placed in known:
            assert rules is not None
            if placed.training.dense == work.training.dense and (sizes := asked.sizes(rules)) is not None:
                work.placed = replace(placed, training=work.training, sizes=sizes)
                return work
        asked = SizesAsked(self.chosen)
        work.placed = replace(place(work.training, asked), choices=(), moves=())  # which are for people
        if not listed:
            self.placed[key] = ((asked, work.placed), *known[: KEPT - 1])
            while len(self.placed) > KEPT:
                del self.placed[next(iter(self.placed))]
        return work

    def _closed(self, begun: Work, job: Job) -> Work:
        strategy = job.strategy
        places = tuple((axis, next(a.size for a in strategy.mesh if a.name == axis)) for axis in place_axes(strategy))
        if len(places) == 1:  # how many stages there are changes nothing yet
            places = tuple((axis, min(2, size)) for axis, size in places)
        again = (strategy.recomputes, _rows(strategy), strategy.places, places)
        if again not in self.closed:
            work = _another(begun, job)
            run_between(work, SHARED, CLOSED)
            _keep(self.closed, again, work)
        return self.closed[again]

    def _begun(self, job: Job) -> Work | None:
        """The passes that all strategies share; None for an entry that is not trained."""
        return run_passes(job, SHARED) if job.kind == "train" else None


def _rows(strategy: Strategy) -> tuple[PipelineRule, ...]:
    """What is cut into stages, whatever the order in which these run."""
    if any(p.orders for p in strategy.pipelines):
        return strategy.pipelines
    return tuple(replace(p, schedule="", chunks=1) for p in strategy.pipelines)


def _keep(kept: dict[object, Work], key: object, work: Work) -> None:
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = work


def _another(work: Work, job: Job) -> Work:
    """The same with another strategy, of which the passes so far asked nothing else."""
    found = copy(work)
    found.job, found.names, found.unlisted = job, work.names.copy(), dict(work.unlisted)
    if hasattr(work, "before_update"):
        found.before_update = work.before_update.copy()
        found.training = replace(work.training, job=job)
        found.serial = replace(work.serial, job=job)
    if hasattr(work, "placed"):
        found.placed = replace(work.placed, training=found.training)
    return found


def _without_update(training: Training) -> Training:
    """The same, but that nothing is done with the gradients. (What is beside them is laid out as the update has it.)"""
    return replace(training, update=replace(training.update, nodes=(), outputs=()), reports=())
