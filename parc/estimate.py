"""What `parc cost` tells of a job: the timeline's figures, memory, and what would help most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.price.fitted import expected, used
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.cost.time.timeline import Timeline
from compiler.driver import Compiled
from compiler.layout import local_type
from compiler.limits import HELPED
from compiler.memory.caching_allocator import reserved
from compiler.memory.fullest import Fullest, fullest, traced
from compiler.memory.offsets import Allocation, allocation
from compiler.memory.peak import Peak, memory_use
from compiler.memory.tiers import FIRST
from compiler.numbering import Ranks, Runs, joined
from compiler.origin import Role
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import at_span
from parc.decoding import EntryPrice, entry_prices
from parc.memory import capacities, elsewhere
from parc.setup import parameters

MOST = 12
"""Values that are listed of a fullest moment."""

TWICE = "twice the batch in twice the micro-batches, for as many samples"


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Of some devices: the peak of one kind of memory in bytes, and what it consists of, with the cluster's software.

    reserved: what its allocator has got for that; needed: with what the driver takes, which has to fit. Both are the
    peak in other memories than the device's. program: the peak of the program's own values.
    """

    ranks: Runs
    memory: str
    peak: int
    roles: Mapping[str, int]
    reserved: int
    needed: int
    program: Peak

    @property
    def first(self) -> int:
        """The lowest rank."""
        return self.ranks[0][0]

    def as_json(self) -> dict[str, Any]:
        """Plain values, in bytes."""
        found = {"memory": self.memory, "peak": self.peak, "roles": dict(self.roles)}
        program = {"peak": self.program.bytes, "roles": dict(self.program.roles)}
        more = {"reserved": self.reserved, "needed": self.needed, "program": program}
        return {**_devices(self.ranks), **found, **more}


@dataclass(frozen=True, slots=True)
class ProgramMemory:
    """One memory of the devices that need most of it for the program's own values: the fullest moment, and what that
    takes of a memory that is handed out: with offsets that are fixed beforehand, and (of device memory) by a caching
    allocator."""

    ranks: Runs
    moment: Fullest
    allocation: Allocation
    reserved: int | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, in bytes."""
        handed = {"arena": self.allocation.size, "fragmentation": self.allocation.fragmentation}
        return {**_moment(self.ranks, self.moment), **handed, "reserved": self.reserved}


@dataclass(frozen=True, slots=True)
class FullMemory:
    """One memory of the devices that need most of it: its fullest moment with the cluster's software, what is reserved
    and needed for that, and the same of the program's own values."""

    ranks: Runs
    moment: Fullest
    reserved: int
    needed: int
    program: ProgramMemory

    def as_json(self) -> dict[str, Any]:
        """Plain values, in bytes."""
        found = {"reserved": self.reserved, "needed": self.needed, "program": self.program.as_json()}
        return {**_moment(self.ranks, self.moment), **found}


def _moment(ranks: Runs, m: Fullest) -> dict[str, Any]:
    return {
        "memory": m.memory,
        **_devices(ranks),
        "stage": m.group,
        "action": str(m.action) if m.action is not None else None,
        "where": str(m.where),
        "peak": m.peak,
        "roles": dict(m.roles),
        "largest": [
            {"name": a.name, "role": a.role, "type": a.type, "count": a.count, "bytes": a.bytes} for a in m.alive[:MOST]
        ],
    }


@dataclass(frozen=True, slots=True)
class Help:
    """How long the step would take if one thing were better."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class AssumedHits:
    """Of a table in another memory, of which each device keeps `rows` of the `of` rows of its piece: the share of
    look-ups that the price takes to be there; stated: by the strategy, else it is that of rows asked for alike often.
    """

    table: str
    rows: int
    of: int
    hits: float
    stated: bool


def assumed_hits(program: Program) -> tuple[AssumedHits, ...]:
    """Of all tables of which devices keep rows; of a pipeline's, by the first stage that has one."""
    found: dict[str, AssumedHits] = {}
    for cls in program.classes:
        for s in cls.states:
            if s.cache is not None and s.role is Role.WEIGHT:
                of = local_type(s.type, s.layout, program.sizes).dims[0].size
                stated = s.cache.hits is not None
                found.setdefault(s.logical, AssumedHits(s.logical, s.cache.rows, of, s.cache.hit(of), stated))
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A job with its cost. helps: best first, those that change anything; fullest: one of each kind of memory;
    systems: its memory with the cluster's software; variation: what is slower than it should be; decoding: of a job
    that decodes, its positions by themselves."""

    compiled: Compiled
    timeline: Timeline
    memory: tuple[MemoryRow, ...]
    helps: tuple[Help, ...]
    fullest: tuple[FullMemory, ...]
    systems: Systems
    variation: Variation | None = None
    decoding: tuple[EntryPrice, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes of device memory that are allocated at the peak of the device that needs most."""
        return self.systems.fullest.peak.bytes

    @property
    def reserved(self) -> int:
        """Bytes of device memory that its allocator has got for that."""
        return self.systems.fullest.reserved

    @property
    def needed(self) -> int:
        """Bytes of device memory that are taken of it, by the driver too: they have to fit."""
        return self.systems.fullest.needed

    @property
    def program_peak(self) -> int:
        """Bytes of device memory of the program's own values, on the device that needs most of them."""
        return max((m.program.bytes for m in self.memory if m.memory == FIRST), default=0)

    @property
    def capacity(self) -> float:
        """Bytes of device memory that a device has."""
        cluster = self.compiled.job.cluster
        return cluster.device.memory if cluster is not None else 0.0

    @property
    def fits(self) -> bool:
        """Whether no device needs more of any memory than it has."""
        there = capacities(self.compiled.job)
        needs = {FIRST: self.needed} | elsewhere(self.compiled)
        return all(n <= there.get(kind, n) for kind, n in needs.items())

    @property
    def caches(self) -> tuple[AssumedHits, ...]:
        """What the price takes to be in caches of rows."""
        return assumed_hits(self.compiled.program)

    def as_json(self) -> dict[str, Any]:
        """Plain values, in seconds and bytes."""
        t, job = self.timeline, self.compiled.job
        assert job.cluster is not None
        trained, every = parameters(job)
        return {
            "job": job.name,
            "model": job.model.name,
            "strategy": job.strategy.name,
            "cluster": job.cluster.name,
            "device": job.cluster.device.name,
            "stack": job.cluster.stack,
            "stack_used": used(job.cluster),
            "expected_error": expected(job.cluster).as_json(),
            "parameters": trained,
            "parameters_total": every,
            "mesh": {a.name: a.size for a in job.strategy.mesh},
            "devices": t.devices,
            "step_seconds": t.step_seconds,
            "tokens": t.tokens,
            "samples": t.samples,
            "tokens_per_second": t.tokens_per_second,
            "samples_per_second": t.samples_per_second,
            "mfu": t.mfu,
            "hfu": t.hfu,
            "flops_model": t.flops_model,
            "flops_hardware": t.flops_hardware,
            "bubble": t.bubble,
            "update_seconds": t.update_seconds,
            "exposed": t.exposed_by_axis,
            "traffic": t.traffic,
            "capacity": self.capacity,
            "allocated": self.peak,
            "reserved": self.reserved,
            "needed": self.needed,
            "program_peak": self.program_peak,
            "fits": self.fits,
            "memory": [m.as_json() for m in self.memory],
            "fullest": [f.as_json() for f in self.fullest],
            "bottleneck": t.bottleneck,
            "decoding": [e.as_json() for e in self.decoding],
            "caches": [
                {"table": c.table, "rows": c.rows, "of": c.of, "hits": c.hits, "stated": c.stated} for c in self.caches
            ],
            "helps": [{"what": h.what, "step_seconds": h.seconds} for h in self.helps],
            "top": [
                {
                    "name": c.name,
                    "kind": c.kind,
                    "seconds": c.seconds,
                    "calls": c.calls,
                    "flops": c.flops,
                    "bytes": c.bytes,
                }
                for c in t.top
            ],
        }


def _devices(ranks: Runs) -> dict[str, Any]:
    """As plain values: the lowest rank, how many there are, and all."""
    return {"first": ranks[0][0], "devices": sum(n for _, n in ranks), "ranks": [list(run) for run in ranks]}


def estimate(compiled: Compiled, variation: Variation | None = None) -> Estimate:
    """Raises ParcError: E0801 if the job has no cluster, E0931 if too much would be played."""
    simulation = Simulation.of(compiled)
    with at_span(compiled.job.span):
        timeline = simulation.run(None, variation)
    seconds = timeline.step_seconds
    asked = _better(simulation, variation) if simulation.groups.plan.played <= HELPED else ()
    found = [Help(what, simulation.seconds(c, v)) for what, c, v in asked]
    if not (variation and variation.devices):
        # What a step does once is then done once for twice as many samples.
        once = seconds - timeline.once_seconds / 2
        found.append(Help(TWICE, once))
    helps = sorted((h for h in found if h.seconds < 0.995 * seconds), key=lambda h: h.seconds)
    systems = Systems(compiled, simulation.features)
    rows = _memory(systems)
    full, entries = tuple(_fullest(systems, rows)), entry_prices(compiled)
    return Estimate(compiled, timeline, rows, tuple(helps), full, systems, variation, entries)


def _better(simulation: Simulation, variation: Variation | None) -> Iterator[tuple[str, Calibration, Variation | None]]:
    """What could be better: each with the calibration and variation that stand for it."""
    cal, varied = simulation.calibration, variation or Variation()
    if varied.devices:
        yield "no slow devices", cal, Variation({}, varied.links)
        return
    for level in simulation.cluster.levels:
        links = {**varied.links, level.name: varied.links.get(level.name, 1.0) / 2}
        yield f"links of {level.name} twice as fast", cal, Variation({}, links)
    yield "products of matrices twice as fast", cal.changed(product=2 * cal.product), variation
    yield "memory twice as fast", cal.changed(vector=2 * cal.vector), variation
    yield "kernels that cost the host nothing", cal.changed(host=0.0, launch=0.0), variation
    if not simulation.fuses:
        yield "the strategy without `fuse off`", of_cluster(simulation.cluster), variation
    elif not cal.fused_attention:
        yield "fused attention", cal.changed(fused_attention=1.0), variation
    if not cal.hidden:
        yield "gradients reduced beside the backward pass", cal.changed(hidden=1.0), variation


def _memory(systems: Systems) -> tuple[MemoryRow, ...]:
    """Groups in a row that need the same are one row."""
    of = Ranks.of(systems.program)
    rows: list[MemoryRow] = []
    for group, kinds in memory_use(systems.program).items():
        for kind, own in kinds.items():
            need, ranks = systems.needs[group], of.members([group])
            row = MemoryRow(ranks, kind, own.bytes, own.roles, own.bytes, own.bytes, own)
            if kind == FIRST:
                row = MemoryRow(ranks, kind, need.peak.bytes, need.peak.roles, need.reserved, need.needed, own)
            last = next((r for r in reversed(rows) if r.memory == kind), None)
            if last and replace(row, ranks=last.ranks) == last:
                rows[rows.index(last)] = replace(last, ranks=joined((*last.ranks, *ranks)))
            else:
                rows.append(row)
    return tuple(rows)


def _fullest(systems: Systems, rows: Sequence[MemoryRow]) -> Iterator[FullMemory]:
    """The first devices that need most of each kind."""
    program = systems.program
    for kind in dict.fromkeys(r.memory for r in rows):
        here = [r for r in rows if r.memory == kind]
        row = max(here, key=lambda r: (r.needed, -r.first))
        own = max(here, key=lambda r: (r.program.bytes, -r.first))
        group, own_group = (Ranks.of(program).group(r.first) for r in (row, own))
        memory = traced(program, own_group)
        moment = fullest(memory, own_group, kind)
        caching = reserved(memory, own_group) if kind == FIRST else None
        told = ProgramMemory(own.ranks, moment, allocation(memory, own_group)[kind], caching)
        if kind == FIRST:
            moment = fullest(systems.traced(group), group, kind)
        yield FullMemory(row.ranks, moment, row.reserved, row.needed, told)
