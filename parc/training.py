"""Runs a lowered program, on emulated devices or by an engine, step by step or batch by batch: `parc run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from compiler.memory.capacity import check_capacity
from compiler.memory.peak import MemoryUse, memory_use
from compiler.model import DataSpec
from compiler.program import InputDecl, Program
from compiler.text.printer import show_devices
from compiler.traffic import collectives
from dsl.data import dataclass
from parc.keeping import Keeper, Keeping, Saved
from runtime.data import open_data
from runtime.executor import Executor
from runtime.stacked import Emulator


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """High-water mark of one memory of each of these devices: bytes, and what they were of at that moment."""

    devices: str
    memory: str
    peak: int
    roles: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AxesTraffic:
    """One kind of communication over some axes, per step, of the device that sends most of it."""

    op: str
    axes: tuple[str, ...]
    calls: float
    bytes: float


@dataclass(frozen=True, slots=True)
class RowsKept:
    """A table that rests in another memory, of which each device keeps `rows`: how many rows all devices asked for,
    fetched and returned in the run, and the share that they had (`hits`)."""

    table: str
    rows: int
    asked: int
    fetched: int
    returned: int
    hits: float


@dataclass(frozen=True, slots=True)
class Progress:
    """After a step: its number and loss, and what two clocks show: the real one, and that of the job's cluster.

    Seconds since the first step began; `simulated_seconds` is None without a cluster, `loss` where none is made.
    """

    step: int
    loss: float | None
    seconds: float
    simulated_seconds: float | None


@dataclass(slots=True)
class RunResult:
    """What a run gave: loss (if there is one) and metrics of each of its `steps`; memory; communication. `data`: the
    reader, or `synthetic`.

    first: updates before those of this run; began: the checkpoint that it began with; saved: those that it made.
    caches: what those of tables did, on the emulator.
    entry: what was run, `train_step`, `evaluate` or `infer`; outputs: the model's, of the last batch.
    step_seconds: what a step took here, on the average; simulated_step_seconds: what it takes on the job's cluster of
    `device`s as the cost model has it, None where there is no cluster.
    """

    name: str
    devices: int
    data: str
    device: str | None = None
    step_seconds: float = 0.0
    simulated_step_seconds: float | None = None
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    memory: tuple[PeakMemory, ...] = ()
    traffic: tuple[AxesTraffic, ...] = ()
    entry: str = "train_step"
    outputs: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    first: int = 0
    began: str | None = None
    saved: list[Saved] = field(default_factory=list)
    caches: tuple[RowsKept, ...] = ()


def run(
    program: Program,
    steps: int,
    data: DataSpec | None = None,
    capacities: Mapping[str, float] | None = None,
    progress: Callable[[Progress], None] | None = None,
    simulated: tuple[str, float] | None = None,
    executor: Callable[..., Executor] = Emulator,
    every: Sequence[InputDecl] | None = None,
    keeping: Keeping = Keeping(),  # noqa: B008
    outputs: Callable[[Mapping[str, Any]], None] | None = None,
) -> RunResult:
    """Train for some steps (or whatever the program's first entry is), on made-up data if there are none; `progress`
    hears of each, `outputs` of what each puts out. A run that goes on from a checkpoint ends with the same step.

    `simulated`: the cluster's device, and the seconds that a step takes there. `executor`: what runs the program.
    `every`: see `open_data`. `keeping`: checkpoints.
    Raises ParcError: out of memory, data that do not fit, checkpoints that cannot be read or written, and what the
    executor raises.
    """
    reader = open_data(data, program.inputs, every)
    memory = memory_use(program)
    check_capacity(program, capacities or {})
    keeper = Keeper(keeping, program)
    begun = keeper.begin()
    run = executor(program) if begun.arrays is None else executor(program, initial=begun.arrays)
    run.steps = begun.steps
    first, begun = begun.data, replace(begun, arrays=None)
    device, ideal = simulated or (None, None)
    result = RunResult(program.name, program.devices, data.reader if data is not None else "synthetic", device)
    result.simulated_step_seconds, result.entry = ideal, program.entries[0].name
    result.steps, result.first, result.began = max(0, steps - first), first, begun.folder
    scored = program.entries[0].scored
    start = time.perf_counter()
    for number in range(first + 1, steps + 1):
        done = run.step(reader.batch(program.seed, number - 1))
        loss = float(done.loss) if scored else None
        result.losses += [loss] if loss is not None else []
        for name, value in {**done.metrics, **done.reports}.items():
            result.metrics.setdefault(name, []).append(float(value))
        result.outputs = done.outputs
        if outputs is not None:
            outputs(done.outputs)
        if progress is not None:
            taken = time.perf_counter() - start
            progress(Progress(number, loss, taken, None if ideal is None else (number - first) * ideal))
        if (saved := keeper.after(run, number, number == steps)) is not None:
            result.saved.append(saved)
    kept = sum(s.seconds for s in result.saved)
    result.step_seconds = (time.perf_counter() - start - kept) / max(1, result.steps)
    result.memory = _memory(program, memory)
    result.traffic = _traffic(program)
    kept_rows = {s.logical: s.cache.rows for c in program.classes for s in c.states if s.cache is not None}
    result.caches = tuple(
        RowsKept(name, kept_rows[name], c.asked, c.fetched, c.returned, c.hits) for name, c in run.caches.items()
    )
    return result


def _memory(program: Program, used: Mapping[int, MemoryUse]) -> tuple[PeakMemory, ...]:
    """Groups of devices that use the same amounts share a row."""
    rows: dict[tuple[str, int, tuple[tuple[str, int], ...]], list[int]] = {}
    for group, use in used.items():
        for kind, peak in use.items():
            roles = tuple((r, n) for r, n in peak.roles.items() if n)
            rows.setdefault((kind, peak.bytes, roles), []).append(group)
    return tuple(
        PeakMemory(_devices(program, groups), kind, peak, dict(roles)) for (kind, peak, roles), groups in rows.items()
    )


def _devices(program: Program, groups: Sequence[int]) -> str:
    return show_devices(program, groups)


def _traffic(program: Program) -> tuple[AxesTraffic, ...]:
    found: dict[tuple[int, ...], dict[tuple[str, tuple[str, ...]], AxesTraffic]] = {}
    for c in collectives(program):
        own, key = found.setdefault(c.groups, {}), (c.op, c.axes)
        before = own.get(key, AxesTraffic(*key, 0, 0))
        own[key] = AxesTraffic(*key, before.calls + c.count, before.bytes + c.bytes)
    most: dict[tuple[str, tuple[str, ...]], AxesTraffic] = {}
    for own in found.values():
        for key, sent in own.items():
            if key not in most or most[key].bytes < sent.bytes:
                most[key] = sent
    return tuple(most[key] for key in sorted(most))
