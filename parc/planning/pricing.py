"""Exact prices of many strategies of one job: what does not depend on the strategy is done once."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from compiler.cost.memory.systems import Systems
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job, run_passes
from compiler.model import Job
from compiler.passes.pipeline import NAMES, PASSES, Work
from compiler.passes.place.place import Undivided
from compiler.passes.sparse import Unlisted
from compiler.strategy import Strategy
from parc.price import Price

SHARED = "prune"
"""The last pass that asks a strategy for nothing but whether parts of the model are kept apart."""


class StrategyPricer:
    """Prices strategies of a job as `parc.price.price` does, to the picosecond and the byte."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.known: dict[bool, Work | None] = {}
        self.simulation: Simulation | None = None
        self.bytes = 0

    def needed(self, strategy: Strategy) -> int:
        """Bytes of the fullest device, which are found sooner than the time. Raises ParcError for what cannot be
        lowered."""
        compiled = self.compiled(strategy)
        self.simulation = Simulation.of(compiled)
        self.bytes = Systems(compiled, self.simulation.features).fullest.needed
        return self.bytes

    def price(self) -> Price:
        """Of the strategy whose memory was asked for last."""
        assert self.simulation is not None
        simulation, of = self.simulation, self.simulation.features
        fits = self.bytes <= simulation.cluster.device.memory
        return Price(simulation.seconds(), self.bytes, fits, of.samples, of.tokens)

    def compiled(self, strategy: Strategy) -> Compiled:
        """The job with this strategy, not verified."""
        job = replace(self.job, strategy=strategy)
        apart = bool(strategy.places) or any(len(p.parts) > 1 for p in strategy.pipelines)
        if apart not in self.known:
            self.known[apart] = self._begun(job)
        begun = self.known[apart]
        if begun is None:
            return compile_job(job)
        work = copy(begun)
        work.job, work.names, work.unlisted = job, begun.names.copy(), dict(begun.unlisted)
        for step in PASSES[NAMES.index(SHARED) + 1 :]:
            try:
                step.run(work)
            except (Undivided, Unlisted):  # what is needed of whole batches, or no list after all: from the beginning
                return compile_job(job)
        return Compiled(job, work.serial, work.placed, work.staged, work.split, work.program)

    def _begun(self, job: Job) -> Work | None:
        """The passes that all strategies share; None for an entry that is not trained."""
        return run_passes(job, SHARED) if job.kind == "train" else None
