"""Holes filled: all their values, those that no number speaks against evaluated, the best of them by price."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import field, replace
from itertools import product
from math import inf, prod
from time import monotonic

from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.model import DECODING, Job
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.planning.bounds import LowerBounds
from parc.planning.dims import splittable
from parc.planning.holes import Hole, OpenFile
from parc.planning.search import STEP
from parc.planning.spread import Spread
from parc.planning.work import cluster_work, model_work
from parc.price import Price, price

WHOLE = ("E0134", "E0001", "E0801")
"""What is wrong with all values alike."""


@dataclass(frozen=True, slots=True)
class FilledValues:
    """Values of the holes, and what a step takes and needs with them. value: what is minimised: seconds of a step (of a
    token, where a hole may change how many a step has), or bytes."""

    values: tuple[tuple[Hole, int], ...]
    price: Price
    value: float
    bound: float


@dataclass(slots=True)
class Filled:
    """What was found. total: all values of all holes together; numbers: those of which the mesh is not as large as the
    cluster; same: those that say what others say; refused: by code; not_better: by bounds; left: not looked at; least:
    their lowest bound."""

    total: int
    fitting: list[FilledValues] = field(default_factory=list)
    numbers: int = 0
    same: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unfit: int = 0
    not_better: int = 0
    left: int = 0
    least: float | None = None
    smallest: int | None = None
    first: ParcError | None = None
    interrupted: bool = False


def fill(
    of: OpenFile,
    params: Mapping[str, str],
    job: str | None,
    strategy: str | None,
    devices: int,
    minimise: str,
    within: float | None,
    told: Callable[[FilledValues], None] | None = None,
) -> Filled:
    """Try all values. Raises ParcError for what is wrong with all of them alike."""
    began = monotonic()
    found = Filled(prod(len(h.values) for h in of.holes))
    open: list[tuple[float, int, tuple[tuple[Hole, int], ...], Job]] = []
    bounds: LowerBounds | None = None
    legal = list(_of_the_size(of, devices))
    may_change = any(h.param and h.name in of.touched for h in of.holes)

    def each(price: Price) -> int:
        return max(1, price.tokens) if may_change else 1

    found.numbers = found.total - len(legal)
    told_apart: set[Hashable] = set()
    left: list[float] = []  # bounds of what is not looked at
    try:
        for at, values in enumerate(legal):
            if within is not None and monotonic() - began > within / 2 and bounds is not None and open:
                found.left = len(legal) - at
                left.append(_floor(of, bounds, open[0][-1], minimise))
                break
            try:
                made = evaluate_file(of.filled(dict(values)), params, job, strategy).job
                if made.cluster is not None and made.cluster.devices != devices:
                    found.numbers += 1
                    continue
                if (key := _said(of, values, made)) in told_apart:
                    found.same += 1
                    continue
                told_apart.add(key)
                if bounds is None:
                    bounds = _bounds(made)
                open.append((_bound(of, bounds, made, minimise), at, values, made))
            except ParcError as error:
                _refuse(found, error)
        best = inf
        open.sort(key=lambda o: o[:2], reverse=True)
        while open:
            bound, _, values, made = open[-1]
            if bound >= best:
                found.not_better += len(open)
                open = []
                break
            if within is not None and monotonic() - began > within and found.fitting:
                break
            try:
                took = filled_price(made)
            except ParcError as error:
                _refuse(found, error)
                open.pop()
                continue
            open.pop()
            if not took.fits:
                found.unfit += 1
                found.smallest = min(took.needed, found.smallest or took.needed)
                continue
            value = took.seconds / each(took) if minimise == STEP else float(took.needed)
            found.fitting.append(FilledValues(values, took, value, bound))
            if value < best:
                best = value
                if told is not None:
                    told(found.fitting[-1])
    except KeyboardInterrupt:
        if not found.fitting:
            raise
        found.interrupted = True
    found.left += len(open)
    left += [bound for bound, *_ in open]
    found.least = min(left, default=None)
    found.fitting.sort(key=lambda f: (f.value, f.price.seconds, f.price.needed, [n for _, n in f.values]))
    return found


def _said(of: OpenFile, values: tuple[tuple[Hole, int], ...], made: Job) -> Hashable:
    """What tells values from others: where stages are one, however many chunks it has is the same, and where an axis is
    of one device, nothing is stored in pieces on it."""
    sizes = {a.name: a.size for a in made.strategy.mesh}
    rules = made.strategy.pipelines
    if prod(sizes[a] for a in {*(r.axis for r in rules), *(r.axis for r in made.strategy.places)}) == 1:
        rules = tuple(replace(r, chunks=1) if not r.homes and not r.orders else r for r in rules)
    shards = tuple(r for r in made.strategy.shards if sizes[r.axis] > 1)
    model = tuple(n for h, n in values if h.param and h.name in of.touched)
    return replace(made.strategy, pipelines=rules, shards=shards), made.cluster, model


def _of_the_size(of: OpenFile, devices: int) -> Iterator[tuple[tuple[Hole, int], ...]]:
    """All values whose mesh is as large as the cluster, as far as the file says so."""
    mesh = of.mesh
    sized = [h for h in of.holes if mesh is not None and h in mesh]
    rest = [h for h in of.holes if h not in sized]

    def sizes(at: int, left: int) -> Iterator[tuple[int, ...]]:
        if at == len(sized):
            if left == 1 or mesh is None:
                yield ()
            return
        times = sum(part == sized[at] for part in mesh or ())
        for value in sized[at].values:
            if value > 0 and left % value**times == 0:
                for others in sizes(at + 1, left // value**times):
                    yield (value, *others)

    fixed = prod(n for n in mesh or () if isinstance(n, int))
    if mesh is not None and (fixed == 0 or devices % fixed):
        return
    for chosen in sizes(0, devices // fixed if mesh is not None else 1):
        for others in product(*(h.values for h in rest)):
            values = dict(zip([*sized, *rest], [*chosen, *others], strict=True))
            yield tuple((h, values[h]) for h in of.holes)


def _bounds(job: Job) -> LowerBounds:
    split = splittable(job)
    assert job.cluster is not None
    model = model_work(job.serial, split, ((),))
    return LowerBounds(model, cluster_work(job), job.cluster.devices, split.layers, len(split.loops))


def _bound(of: OpenFile, bounds: LowerBounds, job: Job, minimise: str) -> float:
    """Of what a strategy takes at least that may have any rules; nothing where these may change what is computed."""
    strategy = job.strategy
    if minimise != STEP or job.kind != "train" or strategy.stores:  # bounds are of steps that train whole weights
        return 0.0
    if any(h.name in of.touched for h in of.holes if h.param):
        return 0.0
    if strategy.implementations or strategy.offloads or strategy.places:
        return 0.0
    axes = {a.name: a.size for a in strategy.mesh}
    stages = prod(axes[a] for a in {p.axis for p in strategy.pipelines})
    return bounds.of(Spread(stages, ()), strategy.microbatches, 3, 0, "")


def _floor(of: OpenFile, bounds: LowerBounds, job: Job, minimise: str) -> float:
    """What all values take at least, those that nobody evaluated, too: all work, on all devices; nothing where some may
    say what bounds do not hold for. job: with some of the values."""
    if (
        minimise != STEP
        or job.kind != "train"
        or not of.plain
        or any(h.name in of.touched for h in of.holes if h.param)
    ):
        return 0.0
    return (bounds.model.passes[0] + bounds.model.update) / bounds.devices + bounds.model.fixed


def filled_price(job: Job) -> Price:
    """The price of a step; of a job that decodes that of a decode step, in the memory that its entries need."""
    if job.decoding is None:
        return price(job)
    from parc.decoding import entry_price

    found = [entry_price(compile_job(job, entry)) for entry in DECODING]
    decode = found[-1]
    needed = max(of.needed for of in found)
    assert job.cluster is not None
    return Price(decode.seconds, needed, needed <= job.cluster.device.memory, decode.sequences, decode.sequences)


def _refuse(found: Filled, error: ParcError) -> None:
    first = next((d for d in error.diagnostics if d.severity == "error"), error.diagnostics[0])
    if first.code in WHOLE or first.limit:
        raise error
    found.first = found.first or error
    found.refused[first.code] = found.refused.get(first.code, 0) + 1
