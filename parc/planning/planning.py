"""A plan: everything from a job to what the search found."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from time import monotonic

from compiler.model import Cluster, Job
from compiler.strategy import Strategy
from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.planning.bounds import LowerBounds, lower_bounds
from parc.planning.dims import splittable
from parc.planning.firsts import firsts
from parc.planning.found import Counts, Found, PricedPlan
from parc.planning.implementing import implementing
from parc.planning.left_out import NOTHING_LEFT_OUT, SpaceWithout
from parc.planning.offloads import NOTHING, Away
from parc.planning.pricing import StrategyPricer
from parc.planning.recomputes import recomputes
from parc.planning.search import STEP, Search
from parc.planning.space import POSITIONS, PlanSpace
from parc.planning.whole_batch import needs_whole_batch
from parc.planning.work import cluster_work, model_work


@dataclass(frozen=True, slots=True)
class KnownBefore:
    """What is known of other searches. limit: only what is below it is wanted; like: strategies, what is most like
    which is priced first."""

    limit: float = inf
    like: tuple[Strategy, ...] = ()


NONE = KnownBefore()
"""Nothing."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What was searched, by which bounds, and what was found. here: of strategies that are all on the devices what
    became, where none was found that fits and those with the hosts were searched."""

    job: Job
    space: PlanSpace
    bounds: LowerBounds
    found: Found
    minimise: str
    here: Counts | None = None


def plan(
    job: Job,
    minimise: str = STEP,
    within: float | None = None,
    told: Callable[[PricedPlan, Counts], None] | None = None,
    taken: Collection[str] | None = (),
    away: tuple[Away, ...] = NOTHING,
    own: Strategy | None = None,
    before: KnownBefore = NONE,
    processes: int = 1,
    without: SpaceWithout = NOTHING_LEFT_OUT,
) -> Planned:
    """Search all strategies of a job on its cluster. Of the strategy that it has nothing is taken.

    minimise: `STEP` or `MEMORY`; within: seconds that all of it may take; told: hears of each better plan; taken:
    names that stand for something of the file's own, so that no implementation is called so (None: without any);
    away: the choices of what rests with the hosts; own: a strategy: what is most like it is priced first, and the
    plainest (None: the search begins where it likes); before: what is known of other searches;
    processes: among so many the search is shared out (`parts`); without: what no strategy has.

    Raises ParcError: E0801 without a cluster, E0802 for a job that does not train.
    """
    if job.cluster is None:
        raise fail("E0801", f"the job `{job.name}` does not say on which cluster it runs", job.span, help=ON)
    if job.kind != "train":
        raise fail(
            "E0802", f"no strategies are searched for `{job.name}`, which does not train", job.span, help=GOES_ON
        )
    began = monotonic()
    split = splittable(job)
    scopes = recomputes(job, split)
    cluster = cluster_work(job)
    batch = split.sizes.get(split.batch, 1)
    whole = needs_whole_batch(job, split.batch, batch)
    numbers = job.cluster.devices, split, batch, scopes, cluster.domains
    space = PlanSpace(*numbers, offloads=away, whole=whole, without=without)
    if taken is not None and not without.ring:
        space = with_implementations(space, job, taken)
    bounds = lower_bounds(space, model_work(job, split, scopes, space.implementations), cluster)
    with _seldom_collected():
        like = (own, *before.like) if own is not None else before.like
        begin = tuple(dict.fromkeys(first for strategy in like for first in firsts(space, strategy)))
        pricer = StrategyPricer(job, space.by_hand)
        search = Search(space, bounds, pricer, minimise, told, begin, before.limit, processes)
        found = search.run(None if within is None else max(0.0, within - (monotonic() - began)))
    return Planned(job, space, bounds, found, minimise)


def with_implementations(space: PlanSpace, job: Job, taken: Collection[str] = ()) -> PlanSpace:
    """The space with what can be written by hand in the place of scopes, along its axis of positions."""
    axes = {role.name: role.dim for role in space.roles if role.kind == POSITIONS}
    return replace(space, by_hand=implementing(job, space.split, axes, taken))


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Python looks for cycles of garbage less often: graphs are many small objects, of which few are in cycles."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def resized(cluster: Cluster, devices: int) -> Cluster:
    """The cluster with another number of devices: inner levels stay as far as that divides, the outermost has the
    rest."""
    levels, left = [], devices
    for level in cluster.levels[:-1]:
        count = max(n for n in range(1, min(level.count, left) + 1) if left % n == 0)
        levels.append(replace(level, count=count))
        left //= count
    return replace(cluster, levels=(*levels, replace(cluster.levels[-1], count=left)))


GOES_ON = (
    "leave numbers of its own strategy open, such as `mesh (dp = auto, tp = auto)` or `param tp = auto in {1, 2, 4}`, "
    "and `parc plan` finds them: all are priced, without bounds"
)
OPEN = "`auto` leaves numbers of its own strategy open, such as `mesh (tp = auto)`: these are found for any job"
ON = "`train model(…) on pod using strategy`, where `pod` is a `cluster`"
