"""The numbers of the bounds, from the model and the cluster, and the bounds themselves. See `docs/plan.md`.

Another way than the search's: kernels are taken one by one off the serial program's functions, with how often each runs
in a step; what a stage, a link and a device take at least is put together from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import ceil, log2, prod
from typing import Any

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Part, Product, Vector, WorkLoop
from compiler.cost.memory.footprint import footprint
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.compute import launches
from compiler.cost.price.machine import machine
from compiler.driver import compile_job
from compiler.graph import ITEMSIZE
from compiler.model import Job
from compiler.program import FunctionPhase
from compiler.strategy import SERIAL, RecomputeRule


def numbers(
    job: Job, batch: str, layers: int, loops: int, rows: Sequence[str], choices: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What bounds are made of: of the model, and of the cluster."""
    cluster = job.cluster
    assert cluster is not None
    cal = of_cluster(cluster)
    late = 1 + cal.jitter * log2(ceil(cluster.devices / cluster.levels[0].count))
    lists: dict[str, list[Any]] = {k: [] for k in ("passes", "loop", "launches", "host", "activations")}
    update = 0.0
    for scopes in choices:
        strategy = replace(SERIAL, recomputes=tuple(map(RecomputeRule, scopes)), microbatch_dim=batch or None)
        compiled = compile_job(replace(job, strategy=strategy))
        of, found = machine(compiled.program, cluster), features(compiled.program)
        work = inside = launched = dispatched = 0.0
        update = 0.0
        for key, part in found.parts[0].items():
            for node, times, looped in _kernels(part):
                if isinstance(node, Product):
                    fused = node.core and cal.fused_attention > 0
                    share = cal.product * (cal.core if fused else node.k / (node.k + cal.ramp))
                    share *= max(1.0, cal.narrow) if not node.core else 1.0
                    seconds = node.flops * (node.kept if fused else 1.0) / (of.peak(node.dtype) * share)
                    number, host = 1.0, launches(node, cal)
                else:
                    moved = min(node.bytes, node.loose + (node.bytes - node.loose) * cal.fusion)
                    seconds = moved / (cluster.device.bandwidth * cal.vector)
                    if node.core and cal.fused_attention > 0:
                        seconds = 0.0
                    number = host = launches(node, cal)
                if key[0] is FunctionPhase.UPDATE:
                    update += times * seconds
                    continue
                work += times * seconds
                inside += times * seconds if looped else 0.0
                launched += times * number
                dispatched += times * host
        lists["passes"].append(work * late)
        lists["loop"].append(inside * late / layers if loops == 1 else 0.0)
        lists["launches"].append(launched * cal.launch * late)
        lists["host"].append(dispatched * cal.host)
        lists["activations"].append(Systems(compiled, found).fullest.turning)
    trained = [w for w in job.model.weights if w.trained]
    of_states = {u.weight: u.states for u in job.updates}
    model = {
        **lists,
        "update": update,
        "fixed": cal.fixed,
        "parameters": sum(prod(w.value.type.shape) for w in trained if not {*w.value.type.names} & {*rows}),
        "stored": sum(w.value.type.bytes for w in trained),
        "moments": sum(s.value.type.bytes for w in trained for s in of_states.get(w.name, ())),
    }
    return model, _cluster(job)


def _cluster(job: Job) -> dict[str, Any]:
    cluster = job.cluster
    assert cluster is not None
    cal, keeps = of_cluster(cluster), footprint(cluster.device, cluster.stack)
    compute, master = ITEMSIZE[job.precision.compute], ITEMSIZE[job.precision.master]
    copy, gradient, stored = float(master), float(master), 0
    if compute < master:
        stored = master
        copy = keeps.copy if compute == 2 else float(compute)
        if compute == 2:
            gradient = keeps.gradient_f16 if job.precision.compute == "f16" else keeps.gradient
    counts = [level.count for level in cluster.levels]
    return {
        "links": [v.bandwidth * (cal.inner if i == 0 else cal.outer) for i, v in enumerate(cluster.levels)],
        "domains": [prod(counts[: i + 1]) for i in range(len(counts))],
        "hidden": max(cal.hidden, cal.hidden_gather),
        "wire": min(cal.wire, master),
        "gradient_wire": min(cal.gradient_wire, master),
        "memory": cluster.device.memory,
        "context": keeps.context,
        "copy": copy,
        "gradient": gradient,
        "stored": stored,
    }


def _kernels(part: Part, times: int = 1, looped: bool = False) -> list[tuple[Product | Vector, int, bool]]:
    """Products and element-wise kernels, how often each runs, and whether in a loop."""
    found: list[tuple[Product | Vector, int, bool]] = []
    for node in part.nodes:
        if isinstance(node.work, WorkLoop):
            if not node.again:
                found += _kernels(node.work.body, times * node.work.count, True)
        elif isinstance(node.work, Product | Vector) and not node.again:
            found.append((node.work, times, looped))
    return found


class Floors:
    """Lower bounds, from the numbers of a certificate that were found to be right."""

    def __init__(self, model: dict[str, Any], cluster: dict[str, Any], devices: int, layers: int) -> None:
        self.model, self.cluster, self.devices, self.layers = model, cluster, devices, layers
        self.seconds = cache(self._seconds)
        self.bytes = cache(self._bytes)

    def _seconds(self, stages: int, replicas: int, stride: int, m: int, zero: int, again: int, in_turn: bool) -> float:
        """Of a step. stride: from one replica to the next; in_turn: stages wait for the first to come back."""
        model, cluster, each = self.model, self.cluster, 1 / self.devices
        work, launched = model["passes"][again] * each, model["launches"][again]
        busy = max(work + launched * m / stages, model["host"][again] * m / stages)
        idle = busy
        if stages > 1:
            idle = max(idle, model["loop"][again] * each * stages * ceil(self.layers / stages))
        if in_turn:
            # the sum of a geometric series: 1 + q + ... + q^(p-1) with q = 1 - 1/m, which is m where nothing is left
            series = sum((1 - 1 / m) ** k for k in range(stages))
            idle = max(idle, (work * stages / m + launched) * m / series)
        last = model["update"] * each * (replicas if zero == 0 else 1) + model["fixed"]
        share = model["parameters"] * replicas * each
        reduce = self._ring(share * cluster["gradient_wire"], replicas, stride)
        gather = self._ring(share * cluster["wire"], replicas, stride)
        hides = cluster["hidden"] * busy / m
        beside, behind = [
            (0.0, 2 * reduce),
            (0.0, reduce + gather),
            (m * reduce, gather),
            (m * (reduce + gather), 0.0),
        ][zero]
        return float(max(idle, max(busy, beside) + max(0.0, behind - hides)) + last)

    def _ring(self, size: float, members: int, stride: int) -> float:
        """Of the links of each level, the longest: a device sends all but its own part to those that it reaches there,
        of what inner levels have left of it."""
        longest, reached = 0.0, 1
        last = len(self.cluster["domains"]) - 1
        for i, (domain, link) in enumerate(zip(self.cluster["domains"], self.cluster["links"], strict=True)):
            inside = members if i == last else max(1, min(members, ceil(domain / stride) if stride < domain else 1))
            count = max(1, ceil(inside / reached))
            longest = max(longest, size / reached * (1 - 1 / count) / link)
            reached *= count
        return longest

    def _bytes(self, replicas: int, zero: int) -> float:
        model, cluster, n = self.model, self.cluster, self.devices
        whole, parts = replicas / n, 1 / n
        if zero == 3:
            return float((model["stored"] + model["moments"]) * parts + cluster["context"])
        elements = model["parameters"]
        found = elements * cluster["copy"] * whole
        found += elements * cluster["gradient"] * (parts if zero == 2 else whole)
        states = elements * cluster["stored"] + model["moments"]
        return float(found + states * (parts if zero else whole) + cluster["context"])
