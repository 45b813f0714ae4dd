"""What a drawn case costs: on a drawn cluster, with a drawn stack, every figure and every picture of it.

The programs that other tests price are GPTs; here are convolutions, mixtures of experts, towers of loops, tables.
"""

from __future__ import annotations

import json
import math
import random
import traceback
from collections import defaultdict

from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import NOMINAL, Variation
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.graph import ITEMSIZE
from compiler.layout import local_type
from compiler.memory.action import FIRST
from compiler.memory.caching_allocator import reserved
from compiler.memory.fullest import fullest
from compiler.memory.lifetimes import TracedMemory
from compiler.memory.offsets import allocation
from compiler.memory.peak import memory_use, static_memory
from compiler.program import listed
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.estimate import Estimate
from parc.report.trace import Trace
from tests.cost.time.oracle import every_rank
from tests.memory.measured import exact
from tests.property.case import Case
from tests.property.check import Outcome, refusal, where

MEASURED = 4
"""Of every so many cases the devices run, and their memory is compared to the byte."""

DEVICES = ("ascend910", "ascend910b", "a100_80", "h100", "tpu_v4")


def with_cluster(case: Case) -> Compiled:
    """The case on a cluster of servers of 1 to 8 devices."""
    return compile_job(evaluate(Source("drawn.par", cluster_text(case))))


def cluster_text(case: Case) -> str:
    """The file of `with_cluster`."""
    r = random.Random(case.seed)
    devices = math.prod(size for _, size in case.mesh)
    inside = r.choice([n for n in (1, 2, 3, 4, 8) if devices % n == 0])
    device = r.choice(DEVICES)
    cluster = (
        f"use std.devices ({device})\n"
        f"cluster pod() {{\n  device npu = {device}\n  level server = {inside} npu over 100 GB/s, 2 us\n"
        f"  level pod = {devices // inside} server over 10 GB/s, 5 us\n"
        "  host memory 768 GiB, 200 GB/s over 32 GB/s\n  host compute 3 TFLOP/s\n"
        "  nvme capacity 3.2 TB, 24 GB/s over 6 GB/s\n}\n"
    )
    text = case.text.replace("train drawn()", "train drawn() on pod")
    return cluster + text


def check(case: Case) -> Outcome:
    """As `tests.property.check.check`, of what the case costs."""
    try:
        _check(case, measure=case.seed % MEASURED == 0)
    except ParcError as e:
        codes = {d.code for d in e.diagnostics}
        text = "\n".join(map(str, e.diagnostics))
        return Outcome("refused" if all(map(refusal, e.diagnostics)) else "failed", min(map(str, codes)), text)
    except Exception as e:
        return Outcome("failed", f"costs: {where(e)}", traceback.format_exc())
    return Outcome("proved")


def _check(case: Case, measure: bool) -> None:
    """AssertionError, or whatever went wrong. measure: whether the devices run, for their memory."""
    r = random.Random(-1 - case.seed)
    compiled = with_cluster(case)
    program, s = compiled.program, Simulation.of(compiled)
    changes = {
        "prefetch": r.choice([0.0, 1.0]),
        "overlap": r.choice([0.0, 1.0]),
        "hidden": r.choice([0.0, 0.5]),
        "slowdown": r.choice([0.0, 0.2]),
        "blocking_sends": r.choice([0.0, 1.0]),
        "fusion": r.choice([0.0, 1.0]),
        "fused_attention": r.choice([0.0, 1.0]),
    }
    calibration = of_cluster(s.cluster).changed(**changes)
    slow = Variation({r.randrange(program.devices): 2.0}, {"pod": r.choice([1.0, 3.0])})
    for variation in (NOMINAL, slow):
        found = s.run(calibration, variation)
        pricer = s.pricer(calibration, variation)
        every = list(range(program.devices))
        ends = every_rank(s, pricer, every, variation.devices)
        assert round(found.step_seconds * PICOSECONDS) == max(ends), "every rank played"
        for player in found.classes:
            assert len({ends[i] for first, n in player.ranks for i in range(first, first + n)}) == 1
        for spent, busy in zip(found.spent, found.busy, strict=True):
            parts = (spent.products, spent.vectors, spent.update, spent.host, spent.bubble, *spent.exposed.values())
            assert min(parts) >= -1e-12 and math.isclose(sum(parts), found.step_seconds, rel_tol=1e-9, abs_tol=1e-12)
            assert math.isclose(spent.products + spent.vectors + spent.update, busy, rel_tol=1e-9, abs_tol=1e-12)
            for link in spent.links:  # what a group of stages waits for is late peers, too
                assert link.axes == "stages" or link.exposed <= link.seconds * (1 + 1e-9), "waits longer than it sends"
        _tracks(Trace(found, "drawn", s.record(variation=variation), "all"))
        e = api.estimate(compiled, variation)
        _figures(e)
        page = api.report(e)
        assert page.endswith("</html>\n") and "NaN" not in page and "nan " not in page
    for cls in program.classes:
        memory = TracedMemory(program, cls)
        for group in cls.groups:
            placed = allocation(memory, group)
            for kind, peak in memory.use(group).items():
                assert peak.bytes == sum(peak.roles.values()) <= placed[kind].size
            assert reserved(memory, group) >= memory.use(group)["hbm"].bytes
    _systems(compiled, r)
    if measure:
        exact(program, 1)


def _systems(compiled: Compiled, r: random.Random) -> None:
    """Training systems keep no more than some times what the program does, less with fused attention, and as much in
    every group as what is alive at its fullest moment adds up to."""
    fused, plain = (Systems(compiled, fused=kind) for kind in (True, False))
    program = memory_use(compiled.program)
    for group, need in plain.needs.items():
        less = fused.needs[group]
        assert 0 < less.peak.bytes <= need.peak.bytes, "fused attention keeps more"
        for n in (less, need):
            assert n.peak.bytes == sum(n.peak.roles.values()) and min(n.peak.roles.values()) > 0
            assert n.peak.bytes <= n.reserved <= n.needed and n.kept + n.turning >= n.peak.bytes
        assert need.peak.bytes <= 6 * program[group][FIRST].bytes, "far more than the program itself"
        (cls,) = (c for c in compiled.program.classes if group in c.groups)
        computes = ITEMSIZE[plain.features.compute]
        mixed = any(ITEMSIZE[s.type.dtype] > computes for s in cls.states if s.role == "weight")
        if not compiled.job.strategy.shards and not mixed:  # as much as the program, all the time
            static = static_memory(cls, compiled.program.sizes)
            trained = {(s.logical, s.chunk) for s in cls.states if s.role == "gradient" and not s.numbers}
            weights = [s for s in cls.states if s.role == "weight" and (s.logical, s.chunk) in trained]
            sums = {role: sum(n for _, n in static.get((FIRST, role), ())) for role in ("weight", "optimizer")}
            lists = [s for s in cls.states if s.role == "rows" or s.numbers]
            parts = {True: compiled.program.microbatches, False: 1}
            sizes = compiled.program.sizes
            sums["gradient"] = sum(
                local_type(s.type, s.layout, sizes).bytes * parts[listed(s)] for s in (*weights, *lists)
            )
            assert {role: need.peak.roles.get(role, 0) for role in sums} == sums, (
                "states of a system without mixed precision"
            )
        found = fullest(plain.traced(group), group, FIRST)
        assert found.peak == need.peak.bytes == sum(a.bytes for a in found.alive) and found.roles == need.peak.roles


def _figures(e: Estimate) -> None:
    """Those that follow from each other do."""
    t = e.timeline
    assert 0 <= t.mfu <= t.hfu * (1 + 1e-9) and 0 <= t.bubble < 1
    assert math.isclose(t.tokens_per_second * t.step_seconds, t.tokens, rel_tol=1e-9)
    assert t.devices > 1 or not (t.exposed or t.bubble or t.traffic), "a device alone waits for nobody"
    assert all(0 < h.seconds < t.step_seconds for h in e.helps)
    for f in e.fullest:
        m = f.moment
        assert m.peak == sum(m.roles.values()) == sum(a.bytes for a in m.alive), "the waterfall adds up to the peak"
        assert m.memory != "hbm" or m.peak == e.peak


def _tracks(trace: Trace) -> None:
    """Events of a thread nest or follow each other, in nanoseconds as Perfetto cuts them."""
    tracks = defaultdict(list)
    for event in json.loads("".join(trace.text()))["traceEvents"]:
        if event["ph"] == "X":
            start = int(event["ts"] * 1000)
            tracks[event["pid"], event["tid"]].append((start, -(start + int(event["dur"] * 1000))))
    for events in tracks.values():
        open_until: list[int] = []
        for start, end in sorted(events):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or -end <= open_until[-1], "events overlap"
            open_until.append(-end)
