"""Numbers of devices and values of parameters that are free, such as the batch's: each case is a search of its own.

What is no faster than a case of as few devices, whose steps have as few samples, is of no use: that is
a limit for the searches that follow, which leave out by bounds what does not come below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf, prod
from time import monotonic

from compiler.evaluate import evaluate_file
from compiler.model import Job
from compiler.strategy import Strategy
from dsl.diagnostics import Diagnostic, ParcError, fail
from dsl.parser import parse
from dsl.source import Source
from parc.planning.answer import FoundNothing, FoundPlan, planned_file
from parc.planning.case_certificate import compared_certificate
from parc.planning.compared import CasePlan, ComparedPlans, FreeValues, search_of
from parc.planning.filled_answer import FilledPlan, filled_file
from parc.planning.found import Counts, PricedPlan
from parc.planning.holes import has_holes, open_params
from parc.planning.left_out import NOTHING_LEFT_OUT, SpaceWithout, refuse_open
from parc.planning.planning import KnownBefore, resized
from parc.planning.text import printed, text_params
from parc.planning.written import strategy_of
from parc.sweeping import values_of

MOST = 64
"""Cases of one search."""

NOTHING_FITS = "E0951"

WHOLE = ("E0106", "E0134", "E0801", "E0802", "E0803")
"""What is wrong with all cases alike."""


def free_values(
    source: Source,
    params: Mapping[str, str],
    job: str | None,
    strategy: str | None,
    devices: Sequence[int] = (),
    lists: Mapping[str, Sequence[str]] | None = None,
) -> FreeValues:
    """What is free: values in lists, and of a job without a strategy the parameters that are left open. Raises
    ParcError for a file that cannot be read, and E0134 for too many cases."""
    given = {name: (text,) for name, text in params.items()} | {n: tuple(v) for n, v in (lists or {}).items()}
    texts = text_params(parse(source.text, source.name))
    found = {name: values if name in texts else tuple(map(printed, values)) for name, values in given.items()}
    for name, values in found.items():
        if len(set(values)) < len(values):
            raise fail(
                "E0134", f"`{name}` has a value twice: {', '.join(given[name])}", help="each is a case of its own"
            )
    holes = open_params(source, job, strategy, found)
    for hole in holes:
        found[hole.name] = tuple(map(str, hole.values))
    made = FreeValues(tuple(found.items()), tuple(devices), bool(holes))
    if made.number > MOST:
        message = f"{made.number:,} cases are more than the {MOST} that are searched"
        raise fail("E0134", message, help="each case is a search of its own: give fewer values")
    return made


def planned_cases(
    source: Source,
    free: FreeValues,
    job: str | None,
    strategy: str | None,
    minimise: str,
    within: float | None,
    keep: int,
    told: Callable[[PricedPlan, Counts], None] | None = None,
    processes: int = 1,
    without: SpaceWithout = NOTHING_LEFT_OUT,
) -> ComparedPlans:
    """Search all cases, in equal shares of the time that is left. without: what no strategy has. Raises ParcError where
    nothing is found in any."""
    began = monotonic()
    todo = sorted(_cases(source, free, job), key=lambda c: (c[0].devices, c[0].samples))
    done: list[CasePlan] = []
    jobs: list[Job | None] = []
    search, stopped = search_of(minimise), False
    for at, (case, devices, made, wrong) in enumerate(todo):
        if stopped or wrong is not None:
            done.append(case if wrong is None else replace(case, error=_first(wrong)))
            jobs.append(made)
            continue
        share = None if within is None else max(0.0, within - (monotonic() - began)) / (len(todo) - at)
        before = _before(done, jobs, case, made, search)
        params = dict(case.params)
        case = replace(case, limit=before.limit)
        try:
            if has_holes(source, job, strategy, params):
                refuse_open(without)
                filled = filled_file(source, params, job, strategy, devices, search, share, keep)
                case, stopped = replace(case, found=filled, limit=inf), filled.filled.interrupted
            else:
                how = search, share, keep, told, before, processes, without
                found = planned_file(source, params, job, strategy, devices, *how)
                case, stopped = replace(case, found=found, planned=found.planned), found.planned.found.interrupted
        except ParcError as error:
            first, planned = _first(error), error.planned if isinstance(error, FoundNothing) else None
            if first.code in WHOLE or (first.limit and first.code != NOTHING_FITS):
                raise
            case = replace(case, planned=planned, error=first)
        except KeyboardInterrupt:
            if all(c.found is None for c in done):
                raise
            stopped = True
        done.append(case)
        jobs.append(made)
    values = [c.value(minimise) for c in done]
    if min(values) == inf:
        raise ParcError(*dict.fromkeys(c.error for c in done if c.error is not None))
    all_cases = ComparedPlans(tuple(done), values.index(min(values)), minimise, free)
    if any(isinstance(c.found, FilledPlan) for c in done):
        return all_cases
    return replace(all_cases, certificate=compared_certificate(all_cases, keep))


def listed(source: Source, params: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Of the values of parameters those that are lists (`256,512`, `1..5`), as of a sweep; texts are none. Raises
    ValueError for what is empty or endless."""
    if not any("," in text or ".." in text for text in params.values()):
        return {}
    texts = text_params(parse(source.text, source.name))
    lists = {n: values_of(text) for n, text in params.items() if n not in texts and ("," in text or ".." in text)}
    return {name: values for name, values in lists.items() if len(values) > 1}


_Case = tuple[CasePlan, int | None, Job | None, ParcError | None]
"""A case, the devices that are asked for, its job without a strategy, or what is wrong with it."""


def _cases(source: Source, free: FreeValues, job: str | None) -> Iterator[_Case]:
    names = [name for name, _ in free.params]
    for values in product(*(values for _, values in free.params)):
        params = tuple(zip(names, values, strict=True))
        for devices in free.devices or (None,):
            case = CasePlan(params, devices or 0)
            try:
                made = evaluate_file(source, dict(params), job, "serial").job
            except ParcError as error:
                if _first(error).code in WHOLE or _first(error).limit:
                    raise
                yield case, devices, None, error
                continue
            if made.cluster is not None and devices is not None:
                made = replace(made, cluster=resized(made.cluster, devices))
            samples, tokens = reads(made)
            if made.cluster is not None:
                levels = tuple(level.count for level in made.cluster.levels)
                case = replace(case, devices=made.cluster.devices, levels=levels)
            yield replace(case, samples=samples, tokens=tokens), devices, made, None


def _first(error: ParcError) -> Diagnostic:
    return next((d for d in error.diagnostics if d.severity == "error"), error.diagnostics[0])


def reads(job: Job) -> tuple[int, int]:
    """Samples and tokens of a step, by the model's inputs: all elements of the first of whole numbers in two dims."""
    inputs = [i.value.type for i in job.model.inputs]
    samples = next((t.dims[0].size for t in inputs if t.dims), 1) if inputs else 0
    return samples, next((prod(t.shape) for t in inputs if t.dtype == "int32" and len(t.dims) == 2), samples)


def _before(
    done: Sequence[CasePlan], jobs: Sequence[Job | None], case: CasePlan, made: Job | None, search: str
) -> KnownBefore:
    """What cases of the same weights, of as few devices and samples, are as good as; and what is most like their
    plans."""
    limit, like = inf, []
    for other, of in zip(done, jobs, strict=True):
        price = other.price
        if price is None or of is None or made is None or _weights(of) != _weights(made):
            continue
        smaller = other.devices <= case.devices and other.samples <= case.samples
        if smaller and (other.samples, other.tokens) == (price.samples, price.tokens):
            value = other.value(search)
            limit = min(limit, value if search == "memory" else value * max(1, case.tokens))
        if isinstance(other.found, FoundPlan):
            like = [*_grown(other.found, other, case)]
    return KnownBefore(limit, tuple(like))


def _weights(job: Job) -> list[tuple[str, object]]:
    return [(w.value.name, w.value.type) for w in job.model.weights]


def _grown(found: FoundPlan, other: CasePlan, case: CasePlan) -> Iterator[Strategy]:
    """The best plan of another case, where more devices share the batch, or in more micro-batches."""
    space = found.planned.space
    plan = strategy_of(space, found.best[0].candidate)
    data = {rule.axis for rule in plan.splits if rule.dims[-1:] == (space.split.batch,)}
    axis = next((a.name for a in plan.mesh if a.name in data), None)
    if case.devices % other.devices or (axis is None and case.devices != other.devices):
        return
    times = case.devices // other.devices
    mesh = tuple(replace(a, size=a.size * times) if a.name == axis else a for a in plan.mesh)
    more = case.samples // max(1, other.samples) // times
    yield replace(plan, mesh=mesh, microbatches=plan.microbatches * max(1, more))
