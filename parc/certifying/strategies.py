"""The rules that a candidate of a certificate stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.memory.tiers import HOST
from compiler.strategy import (
    ImplementRule,
    MeshAxis,
    OffloadRule,
    PipelineRule,
    RecomputeRule,
    ShardRule,
    SplitRule,
    Strategy,
)
from dsl.source import Span
from parc.certifying.by_hand import WrittenByHand
from parc.certifying.counting import StatedSpace
from parc.certifying.stated import StatedPart

CLASSES = ("optimizer", "gradients", "weights")


def strategy_of(
    mesh: Mapping[str, int],
    m: int,
    rules: Mapping[str, Any],
    space: StatedSpace,
    stated: StatedPart,
    by_hand: WrittenByHand,
) -> Strategy:
    """The rules that a candidate's choices stand for (docs/plan.md); each stands at a place of its own. Raises
    ParcError for what is written by hand and cannot be along so many devices."""
    place = iter([Span("<certificate>", n, n + 1) for n in range(3 * len(mesh) + 64)])
    of = stated["space"]
    batch = of["batch"]["dim"].text()
    splits, shards, pipelines = [], [], []
    again = space.recomputes[rules["recompute"]]
    instead = space.by_hand[rules["by"] - 1] if rules["by"] else None
    implementations: tuple[ImplementRule, ...] = ()
    for axis, size in mesh.items():
        kind = space.kind(axis)
        if kind == "stages":
            parts = tuple(loop.pair()[0].text() for loop in of["loops"].each())
            pipelines.append(PipelineRule(parts, axis, rules["schedule"], rules["chunks"]))
            continue
        if kind == "inner":
            dims = [d for d in space.splits["inner"] if space.sizes[d] % size == 0]
            dims += [rules["along"]] if rules["along"] else []
            splits.append(SplitRule(tuple(dims), axis, span=next(place)))
            continue
        if kind == "positions":
            dims = [*(space.heads(mesh) if rules["heads"] else []), space.dim(axis)]
            zigzag = instead is not None and instead.zigzag
            splits.append(SplitRule(tuple(dims), axis, ("activations",), span=next(place), zigzag=zigzag))
            if rules["by"]:
                implementations = by_hand.plan(rules["by"], size).strategy.implementations
        else:
            before = space.splits["experts"] if kind == "experts" else rules["rows"]
            splits.append(SplitRule((*before, batch), axis, span=next(place)))
        if rules["zero"]:
            shards.append(ShardRule(CLASSES[: rules["zero"]], axis, span=next(place)))
    return Strategy(
        "certified",
        tuple(MeshAxis(a, n) for a, n in mesh.items()),
        tuple(splits),
        tuple(shards),
        pipelines=tuple(pipelines),
        recomputes=tuple(RecomputeRule(a.scope, a.beside(instead), next(place)) for a in again[:32]),
        implementations=implementations,
        offloads=(OffloadRule(rules["offload"], HOST, span=next(place)),) if rules["offload"] else (),
        microbatches=m,
        microbatch_dim=batch or None,
        microbatch_span=next(place),
    )
