"""What would make a job fit: its strategy is changed, compiled, its memory looked at, its step simulated.

The changes are general: they follow from the mesh, the dims of the inputs, the loops and scopes of the model and what
fills the memory. They are tried one by one; where few are enough, two and three of different kinds together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import prod
from typing import Any

from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job
from compiler.evaluate.index import index_model
from compiler.layout import nested
from compiler.memory.tiers import FIRST
from compiler.model import Job
from compiler.origin import Role, outer, scopes
from compiler.passes.offload import resting
from compiler.strategy import MOVED, MeshAxis, OffloadRule, RecomputeRule, ShardRule, SplitRule, Strategy
from compiler.verify import verify
from compiler.walk import walk
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.memory import Measure, Needs, of_stack
from parc.units import amount, seconds

SHOWN = 3
"""Remedies that are listed."""

MOST = 40
"""Changes that are compiled, at most."""

EFFORT = 100_000
"""Nodes of all programs that are made; then no further change is tried. That takes some 8 s, on any machine as many."""

FACTORS = (2, 4, 8, 32)
"""As many times the micro-batches are tried."""

HOST = "host"
"""The memory that states are moved to; disks are slower than anything that is tried besides."""

SCOPES = 3
"""Scopes within a loop that are tried for recomputation: those that most is saved of."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule as it is written in a strategy: `mesh`, `pipeline` and `microbatches` replace the one that there is, the
    others are added. Of a `kind` one at a time."""

    kind: str
    rule: str
    apply: Callable[[Strategy], Strategy]


@dataclass(frozen=True, slots=True)
class Remedy:
    """Rules with which the job fits: seconds of a step, bytes of device memory that the fullest device needs, and what
    is allocated of them."""

    rules: tuple[str, ...]
    seconds: float
    needed: int
    peak: int


@dataclass(frozen=True, slots=True)
class Remedies:
    """The fastest that fit, best first. tried: how many changes were compiled; seconds: of the job's step as it is;
    least: rules and bytes of what needs least among all that does not fit; driver: bytes of device memory that the
    driver alone takes and that there are, where that is too much already: then nothing is tried."""

    found: tuple[Remedy, ...]
    tried: int
    seconds: float
    least: Remedy | None = None
    driver: tuple[int, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, in seconds and bytes."""

        def plain(r: Remedy) -> dict[str, Any]:
            return {"rules": list(r.rules), "step_seconds": r.seconds, "needed": r.needed, "peak": r.peak}

        least = plain(self.least) if self.least else None
        return {"tried": self.tried, "found": [plain(r) for r in self.found], "least": least}


def remedies(compiled: Compiled, capacities: Mapping[str, float], measure: Measure = of_stack) -> Remedies:
    """For a job with a cluster. `capacities`: memory kind -> bytes per device; measure: what the job needs of them."""
    simulation = Simulation.of(compiled)
    search = _Search(compiled.job, capacities, measure)
    now, before = simulation.seconds(), measure(compiled, simulation.features)
    driver = before.stack.needed - before.stack.reserved if before.stack else 0
    if driver > capacities[FIRST]:  # whatever the strategy
        return Remedies((), 0, now, driver=(driver, capacities[FIRST]))
    singles = list(changes(compiled, before))
    search.all([(c,) for c in singles])
    above = before.most / max(1, sum(before.roles.values()))  # what is needed for what is allocated

    def expected(together: tuple[RuleChange, ...]) -> tuple[bool, float]:
        """If each leaves its part of each role, and losses of time add up: whether it does not fit, and then how much
        it needs, else how long it takes."""
        alone = [search.roles[c.rule,] for c in together]
        needs = sum(n * prod(roles.get(role, 0) / n for roles in alone) for role, n in before.roles.items() if n)
        takes = now + sum(search.found[c.rule,].seconds - now for c in together)
        return (True, needs) if needs * above > capacities[FIRST] else (False, takes)

    if len(search.fitting) < SHOWN:
        saving = [c for c in singles if (c.rule,) in search.found and search.found[c.rule,].needed < before.most]
        together = (t for number in (2, 3) for t in combinations(saving, number))
        search.all(sorted((t for t in together if len({c.kind for c in t}) == len(t)), key=expected))
    rest = [r for rules, r in search.found.items() if rules not in search.fitting]
    return Remedies(search.best(), search.tried, now, min(rest, key=lambda r: r.needed, default=None))


class _Search:
    """Compiles changes until enough was tried; `found`: those that compile, by their rules."""

    def __init__(self, job: Job, capacities: Mapping[str, float], measure: Measure) -> None:
        self.job, self.capacities, self.measure = job, capacities, measure
        self.tried = self.effort = 0
        self.found: dict[tuple[str, ...], Remedy] = {}
        self.fitting: dict[tuple[str, ...], Compiled] = {}
        self.roles: dict[tuple[str, ...], Mapping[str, int]] = {}  # of those found, what the fullest device holds

    def all(self, chosen: Sequence[tuple[RuleChange, ...]]) -> None:
        for together in chosen:
            if self.tried >= MOST or self.effort >= EFFORT:
                return
            self._one(together)

    def _one(self, together: tuple[RuleChange, ...]) -> None:
        strategy = self.job.strategy
        for change in together:
            strategy = change.apply(strategy)
        self.tried += 1
        try:
            compiled = compile_job(replace(self.job, strategy=strategy))
        except ParcError:
            return  # not legal for this model: a dim that does not divide, a loop that is too short
        self.effort += sum(1 for c in compiled.program.classes for f in c.functions for _ in walk(f.body))
        rules = tuple(c.rule for c in together)
        simulation = Simulation.of(compiled)
        needs = self.measure(compiled, simulation.features)
        self.found[rules] = Remedy(rules, simulation.seconds(), needs.most, sum(needs.roles.values()))
        self.roles[rules] = needs.roles
        if needs.fit(self.capacities):
            self.fitting[rules] = compiled

    def best(self) -> tuple[Remedy, ...]:
        """The fastest; what a part of their rules does alone is not said twice."""
        alone = [r for r in self.fitting if not any(set(other) < set(r) for other in self.fitting)]
        legal = (self.found[r] for r in alone if not verify(self.fitting[r].program))
        return tuple(sorted(legal, key=lambda r: r.seconds)[:SHOWN])


def in_words(found: Remedies) -> str:
    """`with …: 21.3 GiB, a step of 2.1 s (+24%)`, for each that fits."""
    if found.driver is not None:
        takes, there = map(amount, found.driver)
        return (
            f"no change of the strategy makes it fit: the driver alone takes {takes} of each device, which has {there}"
        )
    if not found.found:
        least = found.least
        tail = f"; least is needed with {_rules(least)}: {amount(least.needed)}" if least else ""
        return f"none of the {found.tried} changes of the strategy that were tried makes it fit{tail}"
    return "it fits with " + "; or with ".join(f"{_rules(r)}: {_figures(r, found)}" for r in found.found)


def _rules(r: Remedy) -> str:
    return " and ".join(f"`{rule}`" for rule in r.rules)


def _figures(r: Remedy, found: Remedies) -> str:
    return f"{amount(r.needed)}, a step of {seconds(r.seconds)} ({r.seconds / found.seconds - 1:+.0%})"


# --- changes -----------------------------------------------------------------------------------------------------


def changes(compiled: Compiled, needs: Needs) -> Iterator[RuleChange]:
    """All that are tried, each at first by itself. needs: of the job as it is."""
    strategy = compiled.job.strategy
    batch = _batch(compiled.job)
    data = [a for a in dict.fromkeys(r.axis for r in strategy.splits if batch and batch[0] in r.dims)]
    sizes = {a.name: a.size for a in strategy.mesh}
    data = [a for a in data if sizes.get(a, 1) > 1]
    yield from _recompute(compiled, needs)
    yield from _shards(compiled, data)
    yield from _offloads(compiled)
    if batch is not None:
        yield from _microbatches(strategy, *batch)
    yield from _positions(compiled.job, batch[0] if batch else "")
    yield from _meshes(compiled.job, data)


def _batch(job: Job) -> tuple[str, int] | None:
    """The dim that micro-batches cut, and its size."""
    name = job.strategy.microbatch_dim
    for declared in job.model.inputs:
        type = declared.value.type
        if name is None and type.dims:
            return type.dims[0].name, type.dims[0].size
        if name is not None and type.has(name):
            return name, type.size(name)
    return None


def _recompute(compiled: Compiled, needs: Needs) -> Iterator[RuleChange]:
    """Everything, each loop, and within loops what most is saved of."""
    strategy, index = compiled.job.strategy, index_model(compiled.job.model)
    paths = {v.name: v.origin.path for v in compiled.placed.training.saved}
    logical = {s.name: s.logical for c in compiled.program.classes for s in c.states}
    saved: dict[str, int] = {}
    for a in needs.moment().alive:
        around = scopes(paths.get(logical.get(a.name, ""), "")) if a.role is Role.SAVED else ()
        if len(around) > 1 and around[-1] in index.paths_of_loops:
            saved[around[-2]] = saved.get(around[-2], 0) + a.bytes
    largest = sorted(saved, key=lambda place: -saved[place])[:SCOPES]
    done = {r.scope for r in strategy.recomputes if not r.keep}
    loops = [path for path in index.paths_of_loops if not outer(path)]
    chosen: list[str | None] = [None, *loops, *largest]
    for scope in chosen:
        if scope in done or None in done or (scope and not done.isdisjoint(scopes(scope))):
            continue
        rule = RecomputeRule(scope, (), strategy.span)
        told = f"recompute {compiled.job.model.with_numbers(scope)}" if scope else "recompute"
        yield RuleChange("recompute", told, _added("recomputes", rule))


def _shards(compiled: Compiled, data: Sequence[str]) -> Iterator[RuleChange]:
    """ZeRO 1 to 3 on each axis that splits the batch; where some weights do not divide, in uneven pieces too."""
    strategy = compiled.job.strategy
    for axis in data:
        done = {c for r in strategy.shards if r.axis == axis and r.scope is None for c in r.classes}
        for pad in (False, True) if _uneven(compiled, axis) else (False,):
            for n in (1, 2, 3):
                classes = ("optimizer", "gradients", "weights")[:n]
                if not set(classes) <= done:
                    rule = ShardRule(classes, axis, None, pad, strategy.span)
                    text = f"shard {', '.join(classes)} on {axis}{' pad' if pad else ''}"
                    yield RuleChange("shard", text, _added("shards", rule))


def _offloads(compiled: Compiled) -> Iterator[RuleChange]:
    """To the host, if there is one: rows of tables; the optimizer's states; weights and what is saved, too."""
    job = compiled.job
    if job.cluster is None or HOST not in job.cluster.tiers:
        return
    done = {c for r in job.strategy.offloads if r.scope is None for c in r.classes}
    there = {c for c, names in resting(compiled.training).paths.items() if names and c not in done}
    classes = tuple(c for c in MOVED if c in there and c != "rows")
    for some in (("rows",) if "rows" in there else (), *(classes[:n] for n in range(1, len(classes) + 1))):
        if some:
            rule = OffloadRule(some, HOST, None, span=job.strategy.span)
            yield RuleChange("offload", f"offload {', '.join(some)} to {HOST}", _added("offloads", rule))


def _uneven(compiled: Compiled, axis: str) -> bool:
    """Whether a device's part of some weight has dims, none of which the axis divides."""
    placed = compiled.placed
    for w in compiled.job.model.weights:
        dims = zip(w.value.type.dims, placed.weights[w.name].dims, strict=True)
        parts = [
            nested(d.size, (placed.sizes[a] for a in axes if a != axis))[-1]
            for d, axes in dims
            if d.name not in w.loops
        ]
        if parts and all(n % placed.sizes[axis] for n in parts):
            return True
    return False


def _microbatches(strategy: Strategy, dim: str, size: int) -> Iterator[RuleChange]:
    for factor in FACTORS:
        count = factor * strategy.microbatches
        if size % count:
            continue
        rule = f"microbatches {count} over {dim}"
        for p in strategy.pipelines[:1]:  # which says the schedule of all
            chunks = f"chunks = {p.chunks}, " if p.schedule == "interleaved" else ""
            cuts = f", cuts {list(p.cuts)}" if p.cuts else ""
            rule = f"pipeline {', '.join(p.parts)} on {p.axis}, schedule {p.schedule}"
            rule += f"(microbatches = {count}, {chunks}over = {dim}){cuts}"
        yield RuleChange("microbatches", rule, _set(microbatches=count, microbatch_dim=dim))


def _positions(job: Job, batch: str) -> Iterator[RuleChange]:
    """Other dims of the inputs are split, for activations, on axes that split weights: sequence parallelism."""
    dims = dict.fromkeys(n for i in job.model.inputs for n in i.value.type.names if n != batch)
    axes = dict.fromkeys(r.axis for r in job.strategy.splits if "weights" in r.classes and batch not in r.dims)
    for dim in dims:
        for axis in axes:
            if any(r.axis == axis and dim in r.dims for r in job.strategy.splits):
                continue
            rule = SplitRule((dim,), axis, ("activations",), None, False, job.strategy.span)
            yield RuleChange("split", f"split {dim} on {axis} for activations", _added("splits", rule))


def _meshes(job: Job, data: Sequence[str]) -> Iterator[RuleChange]:
    """As many devices, but fewer replicas: axes that split weights or hold stages are two and four times as long."""
    strategy = job.strategy
    fixed = {r.axis for r in strategy.places}
    loops = index_model(job.model).loops
    for factor in (2, 4):
        for fewer in data:
            for more in (a.name for a in strategy.mesh if a.name not in {*data, *fixed}):
                sizes = {a.name: a.size for a in strategy.mesh}
                if sizes[fewer] % factor:
                    continue
                sizes[fewer] //= factor
                sizes[more] *= factor
                stages = [(p, sizes[p.axis] * p.chunks) for p in strategy.pipelines if p.axis == more]
                if any(p.cuts or n > p.length(loops) for p, n in stages):
                    continue
                mesh = tuple(MeshAxis(a.name, sizes[a.name], a.span) for a in strategy.mesh)
                rule = f"mesh ({', '.join(f'{a.name} = {a.size}' for a in mesh)})"
                yield RuleChange("mesh", rule, _set(mesh=mesh))


def _added(field: str, rule: object) -> Callable[[Strategy], Strategy]:
    def apply(strategy: Strategy) -> Strategy:
        changed: dict[str, Any] = {field: (*getattr(strategy, field), rule)}
        return replace(strategy, **changed)

    return apply


def _set(**fields: Any) -> Callable[[Strategy], Strategy]:
    return lambda strategy: replace(strategy, **fields)
