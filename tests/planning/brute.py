"""All candidates of a space, priced one by one by `parc.price.price`: what a search has to agree with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from compiler.model import Job
from dsl.diagnostics import ParcError
from parc.planning.bounds import LowerBounds, lower_bounds
from parc.planning.dims import splittable
from parc.planning.left_out import NOTHING_LEFT_OUT, SpaceWithout
from parc.planning.planning import with_implementations
from parc.planning.pricing import StrategyPricer
from parc.planning.recomputes import recomputes
from parc.planning.space import DATA, EXPERTS, PlanChoice, PlanRules, PlanSpace
from parc.planning.work import cluster_work, model_work
from parc.planning.written import strategy_of
from parc.price import Price, price


def space_of(job: Job, without: SpaceWithout = NOTHING_LEFT_OUT) -> tuple[PlanSpace, LowerBounds]:
    """As `parc plan` has them."""
    split = splittable(job)
    scopes, cluster = recomputes(job, split), cluster_work(job)
    assert job.cluster is not None
    numbers = job.cluster.devices, split, split.sizes[split.batch], scopes, cluster.domains
    space = PlanSpace(*numbers, without=without)
    space = space if without.ring else with_implementations(space, job)
    return space, lower_bounds(space, model_work(job, split, scopes, space.implementations), cluster)


def candidates(space: PlanSpace) -> Iterator[PlanChoice]:
    """All that no number speaks against, written out."""
    for mesh in space.meshes():
        for rules, ways in space.bunches(mesh):
            for first in ways.first:
                for zero in ways.zero:
                    for schedule, chunks in ways.schedules:
                        more = {"first": first, "zero": zero, "schedule": schedule, "chunks": chunks}
                        yield PlanChoice(mesh, replace(rules, **more))  # type: ignore[arg-type]


def priced(job: Job, space: PlanSpace, of: PlanChoice) -> Price | None:
    """None for what cannot be lowered."""
    try:
        return price(space.job_of(job, strategy_of(space, of)))
    except ParcError:
        return None


def all_priced(job: Job, space: PlanSpace) -> dict[PlanChoice, Price]:
    """All that can be lowered, one after the other. What strategies share is made once, as in a search; nothing is left
    out by a bound."""
    pricer, found = StrategyPricer(job, space.by_hand), {}
    for of in candidates(space):
        try:
            pricer.needed(strategy_of(space, of))
        except ParcError:
            continue
        found[of] = pricer.price()
    return found


def inside(space: PlanSpace, of: PlanChoice) -> bool:
    """Whether it is in no corner of the space: one of its choices at least is neither the first nor the last that there
    is: devices are shared by several axes, some of the batches, a middle stage of ZeRO, some is computed again."""
    pieces = of.mesh.size(DATA) * of.mesh.size(EXPERTS)
    return (
        len(of.axes) > 1
        or 1 < of.mesh.microbatches < space.batch // pieces
        or of.rules.zero in (1, 2)
        or 0 < of.rules.recompute < len(space.recomputes) - 1
    )


def some(space: PlanSpace, number: int, seed: int) -> list[PlanChoice]:
    """Some of all, drawn."""
    found = list(candidates(space))
    return random.Random(seed).sample(found, min(number, len(found)))


__all__ = ["PlanRules", "all_priced", "candidates", "inside", "priced", "some", "space_of"]
