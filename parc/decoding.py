"""What positions by themselves cost, of a job that decodes: the first ones at once, and each one more."""

from __future__ import annotations

from typing import Any

from compiler.cost.memory.systems import Systems
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job
from compiler.memory.peak import memory_use
from compiler.model import DECODING
from compiler.origin import Role
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class EntryPrice:
    """An entry of a job that decodes: `positions` new ones of `sequences`, in so many seconds, over a context of which
    all places are read. needed: bytes of device memory of the device that needs most; kept: those of what is kept of
    earlier positions, on the device that keeps most."""

    entry: str
    positions: int
    context: int
    sequences: int
    seconds: float
    needed: int
    kept: int

    @property
    def tokens_per_second(self) -> float:
        """New positions of all sequences."""
        return self.positions * self.sequences / self.seconds

    def as_json(self) -> dict[str, Any]:
        """Plain values, in seconds and bytes."""
        return {
            "entry": self.entry,
            "positions": self.positions,
            "context": self.context,
            "sequences": self.sequences,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "needed": self.needed,
            "kept": self.kept,
        }


def entry_prices(compiled: Compiled) -> tuple[EntryPrice, ...]:
    """The prices of `prefill` and `decode`; none of a job that does not decode. Raises ParcError (E0801) without a
    cluster."""
    job = compiled.job
    if not compiled.decodes:
        return ()
    return tuple(entry_price(compile_job(job, entry)) for entry in DECODING)


def entry_price(compiled: Compiled) -> EntryPrice:
    """The price of one entry of a job that decodes."""
    job, entry = compiled.job, compiled.training.entry
    assert job.decoding is not None
    dim = job.decoding.dim
    whole = next(i.value.type for i in job.model.inputs if i.value.type.has(dim))
    simulation = Simulation.of(compiled)
    states = [kinds["hbm"].roles.get(Role.STATE, 0) for kinds in memory_use(compiled.program).values()]
    return EntryPrice(
        entry,
        job.decoding.length(entry),
        whole.size(dim),
        whole.elements // whole.size(dim),
        simulation.seconds(),
        Systems(compiled, simulation.features).fullest.needed,
        max(states, default=0),
    )
