"""Holes filled: all their values, those that no number speaks against evaluated, the best of them by price."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import field, replace
from heapq import heappop, heappush
from math import inf, prod
from time import monotonic

from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.model import DECODING, Job
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.planning.bounds import LowerBounds
from parc.planning.dims import splittable
from parc.planning.hole_values import HoleValues, hole_values
from parc.planning.holes import Hole, OpenFile
from parc.planning.search import STEP
from parc.planning.spread import Spread
from parc.planning.stopping import SearchStop, interruptible
from parc.planning.work import cluster_work, model_work
from parc.price import Price, price

MOST_EVALUATED = 4096
"""Values that are evaluated before any is priced."""

MORE = 10.0
"""Seconds that a search for anything that fits may take besides."""

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

    @property
    def known(self) -> int:
        """Values of which it is known what becomes of them."""
        tried = sum(self.refused.values()) + self.unfit + len(self.fitting)
        return self.numbers + self.same + self.not_better + tried


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
    every = hole_values(of, devices)
    total = prod(len(h.values) for h in of.holes)
    search = _Filling(of, every, Filled(total, numbers=total - every.count), params, job, strategy, devices, minimise)
    with interruptible() as stopped:
        try:
            search.run(within, told, stopped)
        except KeyboardInterrupt:  # in the middle of something, which is left, too
            stopped.asked = True
    if stopped.asked and not search.found.fitting:
        raise KeyboardInterrupt
    search.found.interrupted = stopped.asked
    return search.done()


@dataclass(slots=True)
class _Filling:
    """What is known while values are tried. open, near: what is to be priced, by bounds; near is like the best; seen:
    numbers of what was evaluated; apart: what was said so far."""

    of: OpenFile
    every: HoleValues
    found: Filled
    params: Mapping[str, str]
    job: str | None
    strategy: str | None
    devices: int
    minimise: str
    open: list[tuple[float, int]] = field(default_factory=list)
    near: list[tuple[float, int]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    apart: dict[Hashable, int] = field(default_factory=dict)
    bounds: LowerBounds | None = None
    floor: float = 0.0

    def run(self, within: float | None, told: Callable[[FilledValues], None] | None, stopped: SearchStop) -> None:
        """Evaluate all values, or as many as there is time for; then price them by their bounds, and what is near the
        best. Where nothing fits it goes on for as long again."""
        began = monotonic()
        order, best = self.every.order(), inf

        def over(share: float, more: float = 0.0) -> bool:
            return stopped.asked or (within is not None and monotonic() - began > within * share + more)

        for number in order:
            self.look(number, self.open)
            if stopped.asked or (self.open and (over(0.5) or len(self.seen) == MOST_EVALUATED)):
                break
        while not (over(1) if self.found.fitting else over(2, MORE)):
            todo = self.near or self.open
            if todo and todo[0][0] < best:
                took = self.price(*todo[0])
                heappop(todo)
                if took is not None and took.value < best:
                    best = took.value
                    if told is not None:
                        told(took)
                    self.around(took.values)
                continue
            self.found.not_better += len(todo)
            todo.clear()
            if not self.near and not self.open:
                if (another := next(order, None)) is None:
                    return
                self.look(another, self.open)

    def around(self, best: tuple[tuple[Hole, int], ...]) -> None:
        """Look at what is near to the best."""
        if len(self.seen) < self.every.count:
            heap = [(bound, number) for bound, number in self.near]
            for number in self.every.near(self.every.number(best)):
                self.look(number, heap)
            self.near = heap

    def look(self, number: int, heap: list[tuple[float, int]]) -> None:
        """Evaluate values; what can be, and is no other's, goes on the heap, by its bound."""
        if number in self.seen:
            return
        self.seen.add(number)
        values = self.every.at(number)
        try:
            made = self.made(values)
            if made.cluster is not None and made.cluster.devices != self.devices:
                self.found.numbers += 1
                return
            if self.apart.setdefault(_said(self.of, values, made), number) != number:
                self.found.same += 1
                return
            if self.bounds is None:
                self.bounds = _bounds(made)
                self.floor = _floor(self.of, self.bounds, made, self.minimise)
            heappush(heap, (_bound(self.of, self.bounds, made, self.minimise), number))
        except ParcError as error:
            _refuse(self.found, error)

    def made(self, values: tuple[tuple[Hole, int], ...]) -> Job:
        return evaluate_file(self.of.filled(dict(values)), self.params, self.job, self.strategy).job

    def price(self, bound: float, number: int) -> FilledValues | None:
        """Price values; None for what is refused, or does not fit. Jobs are made again: all of them take memory."""
        found, values = self.found, self.every.at(number)
        try:
            took = filled_price(self.made(values))
        except ParcError as error:
            _refuse(found, error)
            return None
        if not took.fits:
            found.unfit += 1
            found.smallest = min(took.needed, found.smallest or took.needed)
            return None
        may_change = any(h.param and h.name in self.of.touched for h in self.of.holes)
        each = max(1, took.tokens) if may_change else 1
        value = took.seconds / each if self.minimise == STEP else float(took.needed)
        found.fitting.append(FilledValues(values, took, value, bound))
        return found.fitting[-1]

    def done(self) -> Filled:
        """What was found, the best first, and what is left."""
        found = self.found
        left = [bound for bound, _ in (*self.open, *self.near)]
        found.left = found.total - found.known
        found.least = min([*left, *([self.floor] if found.left > len(left) else [])], default=None)
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


def _bounds(job: Job) -> LowerBounds:
    split = splittable(job)
    assert job.cluster is not None
    model = model_work(job.serial, split, ((),))
    return LowerBounds(model, cluster_work(job), job.cluster.devices, split.layers, tuple(n for _, n in split.loops))


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
