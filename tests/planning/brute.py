"""All candidates of a space, priced one by one by `parc.price.price`: what a search has to agree with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from compiler.model import Job
from dsl.diagnostics import ParcError
from parc.planning.bounds import LowerBounds, lower_bounds
from parc.planning.dims import splittable
from parc.planning.recomputes import recomputes
from parc.planning.space import PlanChoice, PlanRules, PlanSpace
from parc.planning.work import cluster_work, model_work
from parc.planning.written import strategy_of
from parc.price import Price, price


def space_of(job: Job) -> tuple[PlanSpace, LowerBounds]:
    """As `parc plan` has them."""
    split = splittable(job)
    scopes, cluster = recomputes(job, split), cluster_work(job)
    assert job.cluster is not None
    space = PlanSpace(job.cluster.devices, split, split.sizes[split.batch], scopes, cluster.domains)
    return space, lower_bounds(space, model_work(job, split, scopes), cluster)


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
        return price(replace(job, strategy=strategy_of(space, of)))
    except ParcError:
        return None


def some(space: PlanSpace, number: int, seed: int) -> list[PlanChoice]:
    """Some of all, drawn."""
    found = list(candidates(space))
    return random.Random(seed).sample(found, min(number, len(found)))


__all__ = ["PlanRules", "candidates", "priced", "some", "space_of"]
