"""Fewer layers that are computed again than a choice of the space says: those that keep most for what they cost.

A choice speaks of all loops at the top alike. Of a model with several (a U-Net has one for each size of its images)
some keep far more than others for as much work: their layers are computed again first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from compiler.graph import Graph
from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.origin import within
from parc.planning.bounds import LowerBounds
from parc.planning.dims import Splittable
from parc.planning.found import PricedPlan
from parc.planning.recomputes import Again, kept_by_loops
from parc.planning.space import STAGES


def densest(job: Job, split: Splittable, again: Again) -> tuple[int, ...]:
    """The loops at the top, by number: those first of which most bytes need not be kept for each product that is made
    again; of those that cost no product, those that keep most."""
    if len(split.loops) == 1:
        return (0,)
    less = [a - b for a, b in zip(kept_by_loops(job, split, ()), kept_by_loops(job, split, again), strict=True)]
    work = [_again(job.model.graph, path, again) for path in split.paths]

    def cost(i: int) -> tuple[float, int]:
        return (work[i] / less[i] if less[i] > 0 else float("inf")), -less[i]

    return tuple(sorted(range(len(work)), key=cost))


def _again(graph: Graph, path: str, again: Again) -> int:
    """Multiplications of the products of a loop that are made again."""
    rules = [rule for rule in again if within(str(rule.scope), path)]
    kept = {name for rule in rules for name in rule.keep}

    def of(body: Graph) -> int:
        found = 0
        for node in body.nodes:
            made = node.outputs[0].origin.path if node.outputs else ""
            if isinstance(node.op, Repeat):
                found += node.op.count * of(node.op.body)
            elif isinstance(node.op, Contract) and made not in kept and any(within(made, r.scope) for r in rules):
                a, b = (v.type for v in node.inputs)
                found += prod({d.name: d.size for d in (*a.dims, *b.dims)}.values())
        return found

    loops = (n.op for n in graph.nodes if isinstance(n.op, Repeat) and n.op.body.name == path)
    return sum(loop.count * of(loop.body) for loop in loops)


def of_loops(split: Splittable, order: Sequence[int], layers: int) -> tuple[int, ...]:
    """Of each loop how many of its first layers are computed again, where so many are of all, in this order."""
    found = [0] * len(split.loops)
    for i in order:
        found[i] = min(split.loops[i][1], layers)
        layers -= found[i]
    return tuple(found)


def fewer_lines(split: Splittable, lines: Sequence[str], again: Sequence[int]) -> list[str]:
    """Statements with rules of recomputation for the first layers of each loop alone, or none of it."""
    found = []
    for line in lines:
        head, _, rest = line.partition(" ")
        scope = rest.split(" ")[0]
        of = next((i for i, p in enumerate(split.paths) if head == "recompute" and within(scope, p)), None)
        if of is not None and again[of] < split.loops[of][1]:
            if not again[of]:
                continue
            path = re.escape(split.paths[of])
            line = re.sub(rf"(?<![\w.])({path})(?=[\s.,]|$)", rf"\g<1>[0..{again[of]}]", line)
        found.append(line)
    return found


def promised(bounds: LowerBounds, plan: PricedPlan) -> float:
    """What a plan would take, roughly, with as few layers computed again as have to be."""
    model, of = bounds.model, plan.candidate
    which = bounds.which(of.rules.recompute, of.rules.by)
    m, p = of.mesh.microbatches, of.mesh.size(STAGES)
    less = (model.activations[0] - model.activations[of.rules.recompute]) * min(m, p) / (m * bounds.devices)
    room = bounds.cluster.memory - plan.price.needed
    share = min(1.0, room / less) if less > 0 else 1.0
    longer = model.passes[which]  # 0 where no more is known than that gradients are written
    return plan.value * (1 - (1 - model.passes[0] / longer) * share) if longer else plan.value
