"""What the checks of a file ask of its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from compiler.cost.memory import memory_use
from compiler.cost.simulate import Simulation
from compiler.cost.timeline import Timeline
from compiler.driver import Compiled
from compiler.evaluate import Check
from dsl.diagnostics import Diagnostics, ParcError


class Results:
    """The results of a compiled job; a step is simulated only if something is asked of it."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled

    @cached_property
    def timeline(self) -> Timeline:
        """Raises ParcError (E0801) if the job has no cluster."""
        return Simulation.of(self.compiled).run()

    def get(self, name: str) -> int | float:
        """A result by its name (`compiler.evaluate.checks.RESULTS`), in base units."""
        if name == "memory.peak":
            kinds = memory_use(self.compiled.program).values()
            return max((k["hbm"].bytes for k in kinds if "hbm" in k), default=0)
        return float(getattr(self.timeline, "step_seconds" if name == "step_time" else name))


def require(checks: Iterable[Check], jobs: Sequence[Compiled]) -> None:
    """Raises ParcError with all checks that do not hold; those that speak of other jobs too are left alone."""
    results = {c.job.name: Results(c) for c in jobs}
    found = Diagnostics()
    for check in checks:
        if not set(check.jobs) <= set(results):
            continue
        try:
            check.require(lambda job, name: results[job].get(name))
        except ParcError as error:
            for diagnostic in error.diagnostics:
                found.add(diagnostic)
    found.raise_if_any()
