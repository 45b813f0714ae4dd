"""The price of a job: how long a step takes, and what it needs; for those who compare many strategies of one model."""

from __future__ import annotations

from compiler.cost.memory.systems import Systems
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job
from compiler.model import Job
from dsl.data import dataclass
from parc.memory import capacities, elsewhere


@dataclass(frozen=True, slots=True)
class Price:
    """seconds: of a step; needed: bytes of device memory, of the device that needs most; fits: whether it has them, and
    the other memories of its server what rests there;
    samples, tokens: that a step reads."""

    seconds: float
    needed: int
    fits: bool
    samples: int = 0
    tokens: int = 0


def room_elsewhere(compiled: Compiled) -> bool:
    """Whether memories besides the devices' own have room for what rests there."""
    there = capacities(compiled.job)
    return all(n <= there.get(kind, n) for kind, n in elsewhere(compiled).items())


def price(job: Job) -> Price:
    """Compile and simulate a job. Raises ParcError for what cannot be lowered, and E0801 without a cluster."""
    compiled = compile_job(job)
    simulation = Simulation.of(compiled)
    needed = Systems(compiled, simulation.features).fullest.needed
    fits, features = needed <= simulation.cluster.device.memory and room_elsewhere(compiled), simulation.features
    return Price(simulation.seconds(), needed, fits, features.samples, features.tokens)
