"""What the checks of a file ask of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from compiler.cost.price.kinds import STAGES
from compiler.driver import Compiled
from compiler.evaluate import Check, CheckResult
from compiler.evaluate.checks import no_result
from compiler.model import DECODING
from dsl.diagnostics import Diagnostics, ParcError
from parc.setup import parameters

if TYPE_CHECKING:  # most checks ask for no costs: what computes them is imported where it is used
    from compiler.cost.kernels.program import Features
    from compiler.cost.memory.systems import Systems
    from compiler.cost.time.simulate import Simulation
    from compiler.cost.time.timeline import Timeline
    from compiler.memory.peak import Peak
    from parc.decoding import EntryPrice

ROLES = ("weight", "gradient", "optimizer", "state", "saved", "activation", "message", "input")
"""What memory is of, in every job; it may be of other things as well, which have to be there to be asked for."""

_TIMELINE = {"step_time": "step_seconds", "update_time": "update_seconds"}
_FEATURES = {"hardware_flops": "flops", "samples": "samples", "tokens": "tokens"}


class Results:
    """The results of a compiled job; each thing is computed only if something is asked of it."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled

    @cached_property
    def simulation(self) -> Simulation:
        """Raises ParcError (E0801) if the job has no cluster."""
        from compiler.cost.time.simulate import Simulation

        return Simulation.of(self.compiled)

    @cached_property
    def timeline(self) -> Timeline:
        """Raises ParcError (E0801) if the job has no cluster."""
        return self.simulation.run()

    @cached_property
    def features(self) -> Features:
        """What does not depend on the cluster."""
        from compiler.cost.kernels.program import features

        has_cluster = self.compiled.job.cluster is not None
        return self.simulation.features if has_cluster else features(self.compiled.program)

    @cached_property
    def flops(self) -> float:
        """Of products that a step needs; it depends on the model alone."""
        from compiler.cost.kernels.flops import model_flops

        return model_flops(self.compiled.training)

    @cached_property
    def systems(self) -> Systems | None:
        """Memory with the software of the job's cluster; None without a cluster."""
        from compiler.cost.memory.systems import Systems

        return Systems(self.compiled, self.features) if self.compiled.job.cluster is not None else None

    @cached_property
    def program_memory(self) -> tuple[Peak, ...]:
        """The peak of the program's own values in device memory, of a device of each group."""
        from compiler.memory.peak import memory_use
        from compiler.memory.tiers import FIRST

        return tuple(kinds[FIRST] for kinds in memory_use(self.compiled.program).values() if FIRST in kinds)

    @property
    def memory(self) -> tuple[Peak, ...]:
        """The peak of device memory, of a device of each group."""
        systems = self.systems
        return self.program_memory if systems is None else tuple(need.peak for need in systems.needs.values())

    def _memory(self, family: str, one: str) -> int | float:
        """`memory.one`, `program_memory.one`: of the group whose devices need most."""
        from compiler.memory.peak import Peak

        program = self.compiled.program
        every = self.memory if family == "memory" else self.program_memory
        systems = self.systems if family == "memory" else None
        peak = max(every, key=lambda p: p.bytes, default=Peak(0, {})) if systems is None else systems.fullest.peak
        if one == "total":
            return sum(p.bytes for p in every) * (program.devices // program.groups)
        found = {"peak": peak.bytes}
        if family == "memory":
            found["reserved"] = systems.fullest.reserved if systems else peak.bytes
            found["needed"] = systems.fullest.needed if systems else peak.bytes
        roles = dict.fromkeys(ROLES, 0) | dict(peak.roles)
        others = (*found, "total", *(["capacity"] if family == "memory" else []))
        return found[one] if one in found else _member(f"{family}.{one}", one, roles, others)

    @cached_property
    def entries(self) -> dict[str, EntryPrice]:
        """What new positions by themselves cost, of a job that decodes."""
        from parc.decoding import entry_prices

        return {e.entry: e for e in entry_prices(self.compiled)}

    def _entry(self, entry: str, one: str) -> int | float:
        """Of the first positions at once, or of one more. Raises ParcError: E0101 for a job that does not decode."""
        if self.simulation.cluster is None or entry not in self.entries:
            raise no_result(f"{entry}.{one}", ["step_time"])
        of = self.entries[entry]
        return {"step_time": of.seconds, "tokens_per_second": of.tokens_per_second, "memory.needed": of.needed}[one]

    def _elsewhere(self, kind: str, one: str) -> int | float:
        """Of a memory besides the devices' own: a device's part, in the server that needs most. Raises ParcError: E0801
        for the capacity if the job has no cluster."""
        from parc.memory import capacities, elsewhere

        if one == "peak":
            return elsewhere(self.compiled).get(kind, 0)
        assert self.simulation.cluster is not None
        return _whole(capacities(self.compiled.job).get(kind, 0.0))

    def get(self, name: str) -> int | float:
        """A result by its name (`compiler.evaluate.checks.RESULTS` and `FAMILIES`), in base units.

        Raises ParcError: E0801 if it needs a cluster, E0101 if the job has no such thing.
        """
        program = self.compiled.program
        if name == "parameters":
            return parameters(self.compiled.job)[0]
        if name == "parameters.total":
            return parameters(self.compiled.job)[1]
        if name == "devices":
            return program.devices
        if name == "flops":
            return _whole(self.flops)
        if name in _FEATURES:
            return _whole(getattr(self.features, _FEATURES[name]))
        if name == "memory.capacity":
            return _whole(self.simulation.cluster.device.memory)
        if name == "peak_flops":
            return self.timeline.peak_flops * program.devices
        family, _, one = name.partition(".")
        if family in DECODING:
            return self._entry(family, one)
        if family in ("memory", "program_memory"):
            return self._memory(family, one)
        if family.endswith("_memory"):
            return self._elsewhere(family.removesuffix("_memory"), one)
        if one:
            by_axes = self.timeline.exposed_by_axis if family == "exposed" else self.timeline.traffic
            axes = [a.name for a in program.axes if a.kind == "mesh"]
            sums = {a: sum(x for over, x in by_axes.items() if a in over.axes) for a in axes}
            if program.groups > 1:
                sums.setdefault(STAGES, by_axes.get(STAGES, 0))
            return _member(name, one, sums)
        return float(getattr(self.timeline, _TIMELINE.get(name, name)))


def _member(name: str, one: str, found: Mapping[str, int | float], others: Sequence[str] = ()) -> int | float:
    """`found[one]`. Raises ParcError (E0101) with what there is."""
    if one not in found:
        family = name.partition(".")[0]
        raise no_result(name, [f"{family}.{n}" for n in (*others, *found)])
    return found[one]


def _whole(number: float) -> int | float:
    """Counts of whole things as such: they compare exactly."""
    return int(number) if float(number).is_integer() else number


def require(
    checks: Iterable[Check], jobs: Sequence[Compiled], told: Callable[[CheckResult], None] | None = None
) -> None:
    """Raises ParcError with all checks that do not hold; those that speak of other jobs too are left alone.

    `told` hears of every check that was evaluated.
    """
    results = {c.job.name: Results(c) for c in jobs}
    found = Diagnostics()
    for check in checks:
        if not set(check.jobs) <= set(results):
            continue
        try:
            check.require(lambda job, name: results[job].get(name), told)
        except ParcError as error:
            for diagnostic in error.diagnostics:
                found.add(diagnostic)
    found.raise_if_any()
