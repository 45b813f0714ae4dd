"""The numbers of the bounds, from the model and the cluster, and the bounds themselves. See `docs/plan.md`.

Another way than the search's: kernels are taken one by one off the serial program's functions, with how often each runs
in a step; what a stage, a link and a device take at least is put together from these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate, product
from math import ceil, log2, prod
from operator import ge
from typing import Any

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Product
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.machine import machine
from compiler.driver import compile_job
from compiler.model import Job
from compiler.program import FunctionPhase
from compiler.strategy import SERIAL, RecomputeRule
from parc.certifying.by_hand import touched
from parc.certifying.counting import StatedAgain, before_back
from parc.certifying.kernels import carried, sendable, serial_kernels, smallest_sides
from parc.certifying.links import Lie, cluster_numbers, copies, divides, least_sent, weight_kinds

IN_TURN = ("gpipe", "one_f_one_b")


def numbers(
    job: Job,
    batch: str,
    layers: int,
    loops: Sequence[str],
    splits: Mapping[str, Sequence[str]],
    choices: Sequence[Sequence[StatedAgain]],
    by_hand: Sequence[Sequence[str]] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What bounds are made of: of the model, and of the cluster. splits: dims, by what splits them; by_hand:
    scopes of each of what may be written by hand."""
    cluster = job.cluster
    assert cluster is not None
    cal = of_cluster(cluster)
    late = 1 + cal.jitter * log2(ceil(cluster.devices / cluster.levels[0].count))
    rate = cluster.device.bandwidth * cal.vector
    lists: dict[str, list[Any]] = {k: [] for k in ("passes", "loop", "launches", "host", "activations")}
    update, written, first = 0.0, 0.0, None
    others: list[list[tuple[float, float]]] = [[] for _ in by_hand]
    for again in choices:
        rules = tuple(RecomputeRule(of.scope, of.keep) for of in again)
        strategy = replace(SERIAL, recomputes=rules, microbatch_dim=batch or None)
        compiled = compile_job(replace(job, strategy=strategy))
        of, found = machine(compiled.program, cluster), features(compiled.program)
        first = first or compiled.training
        gone = [n / rate for n in sendable(compiled, job, loops)]
        update = work = inside = launched = 0.0
        left_out = [touched(compiled.program, scopes_of) for scopes_of in by_hand]
        rest = [[0.0, 0.0] for _ in by_hand]
        for key, part in found.parts[0].items():
            for name, node, times, looped, sure in serial_kernels(part):
                fused = node.core and cal.fused_attention > 0
                if isinstance(node, Product):
                    share = cal.product * (cal.core if fused else node.k / (node.k + cal.ramp))
                    share *= max(1.0, cal.narrow) if not node.core else 1.0
                    seconds = node.flops * (node.kept if fused else 1.0) / (of.peak(node.dtype) * share)
                    number = 1.0
                else:
                    moved = min(node.bytes, node.loose + (node.bytes - node.loose) * cal.fusion)
                    seconds = 0.0 if fused else moved / rate
                    number = 0.0 if fused else node.ops * (1 - cal.fusion) + (cal.fusion if sure else 0.0)
                if key[0] is FunctionPhase.UPDATE:
                    update += times * seconds
                    continue
                work += times * seconds
                inside += times * seconds if looped else 0.0
                launched += times * number
                for sums, without in zip(rest, left_out, strict=True):
                    if isinstance(node, Product) and name not in without:
                        sums[0] += times * seconds
                        sums[1] += times * seconds if looped else 0.0
        work, inside, written = max(0.0, work - gone[0]), max(0.0, inside - gone[1]), min(update, gone[2])
        lists["passes"].append(work * late)
        each = late / layers if len(loops) == 1 else 0.0
        lists["loop"].append(inside * each)
        for kept, (all_of, looped_of) in zip(others, rest, strict=True):
            kept.append((all_of * late, looped_of * each))
        lists["launches"].append(launched * cal.launch * late)
        lists["host"].append(launched * cal.host)
        lists["activations"].append(Systems(compiled, found).fullest.turning)
    for all_of, looped_of in (pair for kept in others for pair in kept):
        for key_of, number in zip(("passes", "loop", "launches", "host"), (all_of, looped_of, 0.0, 0.0), strict=True):
            lists[key_of].append(number)
    model: dict[str, Any] = {**lists, "update": update, "written": written, "fixed": cal.fixed}
    read = {v.name for v in first.backward.inputs} if first is not None else set()
    model["weights"] = weight_kinds(job, loops, splits, read)
    model["sent"] = carried(first, batch, loops) if first is not None else [0.0, 0.0]
    model["least"] = smallest_sides(first, batch) if first is not None else {"rows": 0, "columns": 0}
    return model, cluster_numbers(job)


class Floors:
    """Lower bounds, from the numbers of a certificate that were found to be right."""

    def __init__(
        self,
        model: dict[str, Any],
        cluster: dict[str, Any],
        devices: int,
        turns: Sequence[int],
    ) -> None:
        """turns: of each loop that stages are cut from."""
        self.model, self.cluster, self.devices, self.turns = model, cluster, devices, turns
        self.layers, self.loops = sum(turns), len(turns)
        self.seconds = cache(self._seconds)
        self.bytes = cache(self._bytes)
        self.messages = cache(self._messages)
        self.stages = cache(self._stages)
        self.at_most = cache(self._at_most)

    def _seconds(
        self,
        lie: Lie,
        m: int,
        zero: int,
        again: int,
        schedule: str,
        known: float = 0.0,
    ) -> float:
        """Of a step. known: what a micro-batch takes of the stages together."""
        stages, replicas = lie.stages, lie.replicas
        model, each = self.model, 1 / self.devices
        work, launched, host = model["passes"][again] * each, model["launches"][again], model["host"][again]
        pieces = {"rows": m * self.devices / stages, "columns": self.devices / (stages * replicas)}
        if any(0 < side < 2 * pieces[kind] for kind, side in model["least"].items()):
            launched = host = 0.0  # kernels may be fewer: a product with a vector joins others
        busy = max(work + launched * m / stages, host * m / stages)
        idle = busy
        if stages > 1:
            idle = max(idle, model["loop"][again] * each * stages * ceil(self.layers / stages))
        if schedule in IN_TURN:  # stages wait for the first to come back
            # the sum of a geometric series: 1 + q + ... + q^(p-1) with q = 1 - 1/m, which is m where nothing is left
            series = sum((1 - 1 / m) ** k for k in range(stages))
            idle = max(idle, (work * stages / m + launched) * m / series)
        elif schedule != "zero_bubble":
            idle = max(idle, work * stages / m + launched)
        busy = max(busy, known * m / stages)
        idle = max(idle, busy)
        last = self.updates(lie, zero) + model["fixed"]
        reduce, gather = self.messages(lie, "", zero > 1)
        hides = self.cluster["hidden"] * busy / m
        beside, behind = [
            (0.0, 2 * reduce),
            (0.0, reduce + min(reduce, gather)),
            (m * reduce, gather),
            (m * (reduce + gather + self.messages(lie, "again", True)[1]), 0.0),
        ][zero]
        return float(max(idle, max(busy, beside) + max(0.0, behind - hides)) + last)

    def _messages(self, lie: Lie, which: str, sharded: bool) -> tuple[float, float]:
        """Of gradients that are reduced, and of weights that are gathered, on the average device. which: `loop`, or
        read `again`, or all; sharded: of those that surely are."""
        links, domains = self.cluster["links"], tuple(self.cluster["domains"])
        sent = [0.0] * len(links)
        for weight in self.model["weights"]:
            axes = copies(lie, weight)
            if (which and not weight[which]) or (sharded and not divides(lie, weight, self.devices)):
                continue
            each = weight["elements"] / self.devices * prod(n for n, _ in axes)
            sent = [before + each * of for before, of in zip(sent, least_sent(tuple(axes), domains), strict=True)]
        seconds = max(of / link for of, link in zip(sent, links, strict=True))
        return seconds * self.cluster["gradient_wire"], seconds * self.cluster["wire"]

    # --- with what is known of layers ----------------------------------------------------------------------------

    def _stages(self, stages: int, chunks: int) -> list[tuple[int, int]]:
        """Of each stage in turn: layers of the first chunks before it, and its own. What does not come out even goes
        to the stages between the ends first."""
        counts = self.counts(stages * chunks)
        return [(sum(counts[:k]), sum(counts[k::stages])) for k in range(stages)]

    def counts(self, chunks: int) -> list[int]:
        """Layers of each chunk, in the order in which a micro-batch comes to them."""
        counts = [self.layers // chunks] * chunks
        for k in [*range(1, chunks - 1), 0, chunks - 1][: self.layers % chunks]:
            counts[k] += 1
        return counts

    def outside(self, again: int) -> float:
        """Work that is in no loop, as far as that is known."""
        passes, loop = self.model["passes"][again], self.model["loop"][again]
        return float(max(passes - loop * self.layers, 0.0)) if self.loops == 1 else 0.0

    def updates(self, lie: Lie, zero: int) -> float:
        """What the optimizer takes of the average device: all that a replica has, or a part of it, which is sent on."""
        if zero == 0:
            return float(self.model["update"] / self.devices * (lie.replicas if lie.alike else 1))
        return float((self.model["update"] - self.model["written"]) / self.devices)

    def together(self, stages: int, m: int, again: int, layer: Mapping[str, float]) -> float:
        """What a micro-batch takes of all stages together."""
        both = layer["forward"] + layer["backward"] + layer["added"]
        if stages == 1:
            return both + layer["rest"]
        return both + max(layer["tail"], self.outside(again) * stages / (self.devices * m))

    def row(
        self,
        lie: Lie,
        m: int,
        zero: int,
        again: int,
        schedule: str,
        chunks: int,
        layer: Mapping[str, float],
        pace: tuple[float, float, float] | None = None,
    ) -> float:
        """Of the stage that ends last, and then what the first stage has to send behind its passes."""
        numbers = lie, m, zero, schedule, chunks
        found = self._row(*numbers, layer, self.together(lie.stages, m, again, layer))
        if zero < 2 or not layer["forward"]:
            return found
        # each pass lasts until what goes beside it is over, and a layer's share of that goes with the layer
        reduce, gather = self.messages(lie, "loop", True)
        _, once_more = self.messages(lie, "again", True)
        if zero == 2:
            gather = once_more = 0.0
        all_of_them = lie.stages  # each has its part of the layers
        back = (reduce + once_more) * all_of_them
        passes = {"forward": max(layer["forward"], gather * all_of_them), "backward": max(layer["backward"], back)}
        beside = {**layer, **passes, "rest": 0.0, "tail": 0.0}
        found = max(found, self._row(*numbers, beside, sum(passes.values()) + layer["added"], layer))
        if pace is None:
            return found
        for name, seconds in zip(("forward", "backward"), pace[:2], strict=True):
            passes[name] = max(passes[name], self.layers * seconds)
        passes["backward"] += max(0.0, self.layers * pace[2] - sum(passes.values()))
        return max(found, self._row(*numbers, {**beside, **passes}, sum(passes.values()) + layer["added"], layer))

    def _row(
        self,
        lie: Lie,
        m: int,
        zero: int,
        schedule: str,
        chunks: int,
        layer: Mapping[str, float],
        all_stages: float,
        bare: Mapping[str, float] | None = None,
    ) -> float:
        """bare: the layer without messages beside it: others wait for no more of it than that, and while a stage waits
        for others, it sends what goes beside its first pass and its last one."""
        model, stages = self.model, lie.stages
        ends, first, share, which, extra = 0.0, 0.0, 0.0, "loop", model["fixed"]
        if stages == 1:
            ends, first, share, which = m * all_stages, all_stages, 1.0, ""
            extra += self.updates(lie, zero)
        elif self.loops != 1:
            ends = all_stages * m / stages
            if bare is None and schedule != "zero_bubble":  # nobody waits until others have added their gradients up
                turns = sum((1 - 1 / m) ** k for k in range(stages)) if schedule in IN_TURN else m
                ends = max(ends, (all_stages - layer["added"]) * m / turns)
        else:
            ahead, adding = layer["forward"] / self.layers, layer["added"] / self.layers
            both = ahead + layer["backward"] / self.layers + adding
            to_next, to_last = self.between(lie, m)
            way = to_next if schedule == "zero_bubble" else to_next + to_last
            hidden = 0.0
            if bare is not None:
                ahead = bare["forward"] / self.layers
                hidden = both - ahead - bare["backward"] / self.layers - adding
            waits = ahead if schedule == "zero_bubble" else both - hidden - adding
            cut = self.stages(stages, chunks)
            counts = self.counts(stages * chunks)
            found = []
            for k, (before, own) in enumerate(cut):
                busy = m * own * both
                if self.cluster["waits"]:  # all chunks but the last of all send each micro-batch on
                    busy += m * to_next * (chunks if k < stages - 1 else chunks - 1)
                if k > 0:  # the first stage goes back and adds up; this one adds up meanwhile
                    busy -= adding * max(0, counts[k] - counts[0]) + own * hidden
                found.append(busy + before * waits + k * way)
            found[-1] += m * layer["tail"]
            if schedule in IN_TURN:
                found[-1] += all_stages - both * self.layers - layer["tail"]
            if schedule != "zero_bubble":  # the last micro-batch comes behind all others, and goes back through all
                through = [(layer if bare is None else bare)[pass_] for pass_ in ("forward", "backward", "tail")]
                found.append((m - 1) * counts[0] * ahead + sum(through) + way * (stages - 1) * chunks)
            ends = max(found)
            first, share = cut[0][1] * both, cut[0][1] * stages / self.layers
        reduce, gather = self.messages(lie, which, zero > 1)
        behind = share * {0: reduce + reduce, 1: reduce + min(reduce, gather), 2: gather, 3: 0.0}[zero]
        return float(ends + max(0.0, behind - self.cluster["hidden"] * first) + extra)

    def adding(self, lie: Lie, m: int, zero: int, away: tuple[str, ...]) -> float:
        """Seconds in which a micro-batch's gradients of all layers, whole on each device that has the same of a weight,
        are added to those before it."""
        if zero > 1 or m == 1 or away:
            return 0.0
        alike = ((w["elements"], prod(n for n, _ in copies(lie, w))) for w in self.model["weights"] if w["loop"])
        return float(sum(n * whole for n, whole in alike) * lie.stages * self.cluster["added"] / self.devices)

    def between(self, lie: Lie, m: int) -> tuple[float, float]:
        """Seconds of a micro-batch's way from a stage to the next, and back: what a loop carries on, in as many parts
        as a stage has devices, over the innermost level that two stages may have in common."""
        stages, devices = lie.stages, self.devices
        outermost = max((n * apart for kind, n, apart in lie.axes if kind == "data"), default=0)
        if stages == 1 or (not lie.axes and stages < devices):
            return 0.0, 0.0
        inside = lie.replicas if outermost == devices else 1  # replicas are outermost: stages are next to each other
        apart = devices // stages // inside
        level = sum(1 for domain in self.cluster["domains"][:-1] if apart >= domain)
        forward, back = (of * stages / devices / m / self.cluster["links"][level] for of in self.model["sent"])
        return forward, back

    def held(
        self,
        lie: Lie,
        m: int,
        zero: int,
        schedule: str,
        chunks: int,
        layer: Mapping[str, float],
        away: tuple[str, ...] = (),
    ) -> float:
        """Bytes of one of the first two stages, when it has run forward until it first runs back."""
        times, stages = 1 + self.cluster["reserve"], lie.stages
        if stages == 1:
            return float(self.bytes(lie, zero, (), away) + layer["saved"] * times)
        found = float(self.bytes(lie, zero, (), away))
        each = [layer["saved"]] if self.loops == 1 else [layer.get(f"kept {i}", 0.0) for i in range(self.loops)]
        for mine, there in self.at_most(stages, chunks, m, schedule):
            kept = sum(n * size / turns for n, size, turns in zip(there, each, self.turns, strict=True))
            found = max(found, kept * times + self.bytes(lie, zero, mine, away))
        return found

    def _at_most(self, stages: int, chunks: int, m: int, schedule: str) -> list[tuple[tuple[int, ...], ...]]:
        """Of stages: turns of each loop that they have, and those of all micro-batches for which something is there as
        they first run back. Without those that have the same turns as another one, and hold no more."""
        ends = [*accumulate(self.counts(stages * chunks), initial=0)]
        starts = [*accumulate(self.turns, initial=0)]
        found: list[tuple[tuple[int, ...], ...]] = []
        for stage in range(stages):
            mine, there = [0] * self.loops, [0] * self.loops
            runs = Counter(before_back(stages, chunks, m, schedule, stage))
            for chunk, loop in product(range(chunks), range(self.loops)):
                at = chunk * stages + stage
                turns = min(ends[at + 1], starts[loop + 1]) - max(ends[at], starts[loop])
                mine[loop] += max(0, turns)
                there[loop] += max(0, turns) * runs[chunk]
            one = tuple(mine), tuple(there)
            if not any(a == one[0] and all(map(ge, b, one[1])) for a, b in found):
                found.append(one)
        return found

    def moved(self, lie: Lie, zero: int, away: tuple[str, ...]) -> float:
        """Seconds in which a device's link to its host is busy with the optimizer's states, as they come."""
        if "optimizer" not in away or not self.cluster["host"]:
            return 0.0
        each = (w["moments"] * (1 if zero else prod(n for n, _ in copies(lie, w))) for w in self.model["weights"])
        return float(sum(each) / self.devices / self.cluster["host"])

    def _bytes(self, lie: Lie, zero: int, mine: tuple[int, ...] = (), away: tuple[str, ...] = ()) -> float:
        """mine: of a stage with so many turns of each loop, without what is in none (nothing: of the average device);
        away: what rests with the hosts."""
        cluster, found = self.cluster, 0.0
        moments, weights = int("optimizer" not in away), int("weights" not in away)
        of_loop = [n * lie.stages / turns for n, turns in zip(mine, self.turns, strict=False)]
        for weight in self.model["weights"]:
            whole = prod(n for n, _ in copies(lie, weight))  # devices that have the same
            kept = weights * cluster["copy"] + cluster["gradient"] / (whole if zero == 2 else 1)
            kept *= weight["elements"] * whole
            states = weights * weight["elements"] * cluster["stored"] + moments * weight["moments"]
            if zero == 3:
                kept, states = 0.0, weights * weight["stored"] + moments * weight["moments"]
            part = 1.0 if not mine else of_loop[weight["loop"] - 1] if weight["loop"] else 0.0
            found += part * (kept + states * (1 if zero else whole))
        return float(found / self.devices + cluster["context"])
