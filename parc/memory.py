"""What the fullest device of a job needs of its memories: with the software of its cluster, and in the emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from compiler.cost.kernels.program import Features
from compiler.cost.memory.systems import Need, Systems
from compiler.driver import Compiled
from compiler.memory.fullest import Fullest, fullest, traced
from compiler.memory.peak import memory_use
from compiler.memory.servers import worst_server
from compiler.memory.tiers import FIRST, Share
from compiler.model import Job
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Needs:
    """bytes: memory kind -> what has to be there on the device that needs most of it. group: whose devices need most
    device memory; roles: what is allocated of it at its peak, by role; stack: what the software makes of that, None in
    the emulator."""

    bytes: Mapping[str, int]
    group: int
    roles: Mapping[str, int]
    stack: Need | None
    moment: Callable[[], Fullest] = field(repr=False, compare=False)

    @property
    def most(self) -> int:
        """Of device memory."""
        return self.bytes.get(FIRST, 0)

    def fit(self, capacities: Mapping[str, float]) -> bool:
        """Whether no memory is too small; one without a capacity never is."""
        return all(n <= capacities.get(kind, n) for kind, n in self.bytes.items())


Measure = Callable[[Compiled, Features | None], Needs]


def of_program(compiled: Compiled, features: Features | None = None) -> Needs:
    """In the emulator, which holds the program's own values."""
    program = compiled.program
    use = memory_use(program)
    holding = [g for g, kinds in use.items() if FIRST in kinds]  # devices that only forward losses hold nothing
    group = max(holding, key=lambda g: (use[g][FIRST].bytes, -g))
    bytes = {FIRST: use[group][FIRST].bytes} | elsewhere(compiled)
    return Needs(bytes, group, use[group][FIRST].roles, None, lambda: fullest(traced(program, group), group, FIRST))


def of_stack(compiled: Compiled, features: Features | None = None) -> Needs:
    """On the cluster, with its software. features: of the program, if they are known. Memories of hosts hold what the
    program has there."""
    systems = Systems(compiled, features)
    group = max(systems.needs, key=lambda g: (systems.needs[g].needed, -g))
    need = systems.needs[group]
    return Needs(
        {FIRST: need.needed} | elsewhere(compiled),
        group,
        need.peak.roles,
        need,
        lambda: fullest(systems.traced(group), group, FIRST),
    )


def elsewhere(compiled: Compiled) -> dict[str, int]:
    """Memory kind -> bytes of a device of the server that needs most of it: of memories besides the devices' own."""
    program, shares = compiled.program, capacities(compiled.job)
    found: dict[str, dict[int, int]] = {}
    if any(s.memory != FIRST for c in program.classes for s in c.states):
        for group, kinds in memory_use(program).items():
            for kind, peak in kinds.items():
                if kind != FIRST:
                    found.setdefault(kind, {})[group] = peak.bytes
    sharing = {kind: shares[kind].sharing if kind in shares else 1 for kind in found}
    return {kind: worst_server(program, needs, sharing[kind]).bytes for kind, needs in found.items()}


def capacities(job: Job) -> dict[str, Share]:
    """A device's share of each memory of the job's cluster, in bytes."""
    return {} if job.cluster is None else {name: m.share for name, m in job.cluster.tiers.items()}
