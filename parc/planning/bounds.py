"""What a strategy takes and needs at least, in closed forms of a few numbers: admissible, for all that is left out
only adds. `parc/certifying` has them once more, in words of its own.

Time. All devices together do the work of the serial program, so that one of them does its share at least:

    passes / N + launches * micro-batches / stages + update + messages of gradients and weights

- kernels take their launches, and a device's passes as long as the host needs to dispatch them, per micro-batch
  (what a stage sends may be ready before that)
- of p stages that run m micro-batches one after the other (1F1B, GPipe), stage k begins when the first micro-batch has
  gone through those before it, and these end when the last has come back: with t of a micro-batch through all, the
  slowest takes at least t / (1 - (1 - 1/m)^p), however they are cut (what weights make of the p inequalities
  m*t_k + t_0 + … + t_{k-1} <= T); and a stage has at least the layers that come out even, rounded up
- gradients: (d-1)/d of a device's share goes over the link of each level that the axis of data spans, once to be
  reduced and once as weights (or sums) come back; what systems hide beside a pass is taken off. From ZeRO-2 on they are
  reduced as they come, beside the passes, m times: then the longer of both counts; from ZeRO-3 on weights are gathered
  for each micro-batch as well.

Memory. Weights, gradients and the optimizer's states, evenly over all devices that may share them, and the driver's.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsl.data import dataclass
from parc.planning.space import DATA, STAGES, PlanChoice
from parc.planning.work import ClusterWork, ModelWork


@dataclass(frozen=True, slots=True)
class LowerBounds:
    """Lower bounds of a job's strategies on so many devices."""

    model: ModelWork
    cluster: ClusterWork
    devices: int
    layers: int

    def seconds(self, of: PlanChoice) -> float:
        """Of a step."""
        mesh, rules = of.mesh, of.rules
        stride, d, at = 1, 1, 1
        for role, size in reversed(of.axes):
            if role.kind == DATA:
                d, at = size, stride
            stride *= size
        return self.of(mesh.size(STAGES), d, at, mesh.microbatches, rules.zero, rules.recompute, rules.schedule)

    def of(self, stages: int, data: int, stride: int, m: int, zero: int, again: int, schedule: str) -> float:
        """The same in numbers. stride: devices between neighbours along the axis of data."""
        model, cluster, n = self.model, self.cluster, self.devices
        work = model.passes[again] / n
        through = work / m * stages + model.launches[again]  # of a micro-batch, through all stages
        share = m / stages * max(through, model.host[again])
        passes = [share]
        if stages > 1 and model.loop[again]:
            passes.append(model.loop[again] * -(-self.layers // stages) * stages / n)
        if schedule in ("gpipe", "one_f_one_b"):
            passes.append(through / (1 - (1 - 1 / m) ** stages))
        least = max(passes)
        update = model.update / n * (1 if zero else data) + model.fixed
        elements = model.parameters / (n // data)
        reduced = self.ring(elements * cluster.gradient_wire, data, stride)
        gathered = self.ring(elements * cluster.wire, data, stride)
        if zero < 2:
            messages = reduced + (gathered if zero else reduced)
            return max(least, share + max(0.0, messages - cluster.hidden * share / m)) + update
        beside = m * (reduced + (gathered if zero == 3 else 0.0))
        behind = gathered if zero == 2 else 0.0
        return max(least, max(share, beside) + max(0.0, behind - cluster.hidden * share / m)) + update

    def ring(self, size: float, members: int, stride: int) -> float:
        """Seconds of a reduce-scatter (an all-gather) of so many bytes at least: of the level that needs longest."""
        longest, left = 0.0, size
        for count, link in zip(spans(members, stride, self.cluster.domains), self.cluster.links, strict=True):
            longest = max(longest, left * (count - 1) / count / link)
            left /= count
        return longest

    def bytes(self, of: PlanChoice) -> float:
        """Of device memory, that the fullest device needs."""
        return self.needed(of.mesh.size(DATA), of.rules.zero)

    def needed(self, data: int, zero: int) -> float:
        """The same in numbers."""
        model, cluster, n = self.model, self.cluster, self.devices
        if zero == 3:
            return (model.stored + model.moments) / n + cluster.context
        apart = n // data
        kept = model.parameters * (cluster.copy / apart + cluster.gradient / (n if zero == 2 else apart))
        master = model.parameters * cluster.stored
        return kept + (master + model.moments) / (n if zero else apart) + cluster.context


def spans(members: int, stride: int, domains: Sequence[int]) -> list[int]:
    """How many of neighbours so far apart share a domain of level 0, how many such domains one of level 1, …"""
    found, below = [], 1
    for domain in domains:
        inside = min(members, max(1, -(-domain // stride))) if stride < domain else 1
        found.append(max(1, -(-inside // below)))
        below = max(inside, 1)
    if members > below:
        found[-1] *= -(-members // below)
    return found
