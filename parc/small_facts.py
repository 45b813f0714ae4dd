"""What a job says but for its sizes, which stays while they are made smaller (`small`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import fields
from itertools import combinations
from math import prod
from typing import Any

from compiler.graph import Graph, Value
from compiler.incremental.paged import Paging, paging
from compiler.model import INFER, Job
from compiler.ops.index import Take
from compiler.ops.reduce import TopK
from compiler.ops.repeat import Repeat
from compiler.passes.cuts import divided
from dsl.diagnostics import ParcError

Fact = tuple[str, str]
"""What a fact is of (an axis, a dim, a loop, the stages of one, or the whole), and its name."""

SHORT = 4
"""Axes of at most so many devices stay as they are, and no dim is made shorter."""

KEPT = 64
"""Axes of at most so many devices stay as they are where something written by hand is given them: it computes with
their number and with ranks."""

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")

SIZED = ("name", "mesh", "pipelines", "microbatches", "microbatch_dim", "pages")
"""Fields of a strategy that speak of sizes, and have facts of their own; its other rules are kept as they are."""

PAGED: Fact = ("pages", "")
"""The fact of how caches lie in pages."""


def facts(job: Job, full: Job, axes: Collection[str] | None = None, kept: int = KEPT) -> dict[Fact, Any]:
    """What a job says but for its sizes: its graph, its rules, what divides by what. axes: by which, but for
    what ZeRO splits (None: by all). kept: see `KEPT`; such axes that are longer have at least one device more than
    those that never change."""
    strategy, sizes, whole = job.strategy, axis_sizes(job), axis_sizes(full)
    dims, loops, micro = _by_name(job), _loops(job.model.graph), job.strategy.microbatches
    given = axes_by_hand(full)
    same = {a for a, n in whole.items() if n <= SHORT or (a in given and n <= kept)}
    found: dict[Fact, Any] = {
        ("axis", a): n if a in same else ("longer", a in given and n <= SHORT) for a, n in sizes.items()
    }
    everywhere = {rule.axis for rule in strategy.shards} if axes is None else set[str]()
    by_dim = {dim: set(everywhere) for dim in dims}
    choices = _choices(job.model.graph)
    stated = [(dim, rule.axis) for rule in strategy.splits for dim in rule.dims]
    stated += [(dim, axis) for layout in strategy.layouts for dim, over in layout.dims for axis in over]
    for dim, axis in stated:
        by_dim.setdefault(dim, set()).add(axis)
    if axes is not None:
        by_dim = {dim: over & {*axes} for dim, over in by_dim.items()}
    first = full.model.inputs[0].value.type.names if full.model.inputs else ()
    batch = strategy.microbatch_dim or (first or ("",))[0]
    for dim, over in by_dim.items():
        pieces = {prod(sizes[a] for a in group) for r in (1, 2, 3) for group in combinations(sorted(over), r)}
        groups = [group for r in (1, 2, 3) for group in combinations(sorted(over), r)]
        counts = [prod(sizes[a] for a in group) for group in groups] + [micro * n for n in pieces if dim == batch]
        counts += [micro] if dim == batch else []
        own = dims.get(dim, ())
        found[("dim", dim)] = (
            frozenset(n == 1 for n in own),
            frozenset(tuple(n % c == 0 for c in counts[: len(groups)]) for n in own),
            frozenset(all(n % c == 0 for c in counts[len(groups) :]) for n in own),
            frozenset(tuple(-(-n // micro) % c == 0 for c in counts[: len(groups)]) for n in own if dim == batch),
            all(n >= sizes[a] for n in own if n > 1 for a in over if a not in everywhere),
            choices.get(dim, frozenset()),
        )
    stages = {p.parts[0]: p.chunks * sizes[p.axis] for p in strategy.pipelines if len(p.parts) == 1}
    for label, n in loops.items():
        cut = stages.get(label, 1)
        found[("loop", label)] = (n > 1, n >= 2 * cut, n % cut == 0)
    for p in strategy.pipelines:
        found["stages", p.parts[0]] = min(sizes[p.axis], 3)  # first, last, and between
        cut, n = p.chunks * sizes[p.axis], p.length(loops)
        if len(p.parts) > 1:  # and where one part goes over into the next
            rows = divided(p, loops, cut).values()
            also = [sum(map(bool, stage)) for stage in zip(*rows, strict=True)]
            spans = tuple(min(sum(map(bool, row)), 3) for row in rows)
            found["row", p.parts[0]] = (n >= 2 * cut, n % cut == 0, max(also), spans)
    found["microbatches", ""] = (micro > 1, *(micro > sizes[p.axis] for p in strategy.pipelines))
    found["pipelines", ""] = tuple(
        (p.parts, p.axis, p.schedule, p.chunks, len(p.cuts or ())) for p in strategy.pipelines
    )
    found["rules", ""] = tuple(getattr(strategy, f.name) for f in fields(strategy) if f.compare and f.name not in SIZED)
    if (form := _paging(job)) is not None:
        found[PAGED] = _pages(form, job) if isinstance(form, Paging) else None
    found["graph", ""] = NUMBER.sub("#", str(job.model.graph))
    return found


def amounts(job: Job) -> dict[Fact, Any]:
    """The sizes on which the facts of the same names depend."""
    found: dict[Fact, Any] = {("axis", a): n for a, n in axis_sizes(job).items()}
    found |= {("dim", name): sizes for name, sizes in _by_name(job).items()}
    found |= {("loop", label): n for label, n in _loops(job.model.graph).items()}
    if (form := _paging(job)) is not None:
        found[PAGED] = form
    return found | {("microbatches", ""): job.strategy.microbatches}


def _paging(job: Job) -> Paging | ParcError | None:
    """How what is kept lies in pages, or why it cannot; None where it lies in none."""
    by = job.decoding
    if by is None or by.pages is None:
        return None
    try:
        return paging(job.model_of(INFER), by.pages, by.dim, by.rows)
    except ParcError as error:
        return error


def _pages(form: Paging, job: Job) -> tuple[Any, ...]:
    """What of that is no size: whether a page is one position, or all of a sequence, or some places of the last page
    are none; by which axes its positions divide; and whether there are fewer pages than all sequences can have, or
    more."""
    whole, pages = form.each * form.count, form.pages * form.pieces
    by = tuple(form.slots % n == 0 for n in axis_sizes(job).values())
    more = (pages > whole) - (pages < whole)
    return form.slots > 1, form.each > 1, form.places % form.slots == 0, form.pieces > 1, by, more


def axes_by_hand(job: Job) -> set[str]:
    """The axes that something written by hand is given."""
    return {axis for rule in job.strategy.implementations for axis, _ in rule.axes}


def axis_sizes(job: Job) -> dict[str, int]:
    return {a.name: a.size for a in job.strategy.mesh}


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
        if isinstance(node.op, Repeat):
            yield from _values(node.op.body)


def _loops(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in graph:
        if isinstance(node.op, Repeat):
            found[node.op.label] = node.op.count
            found |= _loops(node.op.body)
    return found


def _choices(graph: Graph) -> dict[str, frozenset[tuple[str, bool]]]:
    """By dim that something is chosen along: whether that is fewer than there are. Two of two experts are no choice,
    and an expert with a seat for each position drops none."""
    found: dict[str, frozenset[tuple[str, bool]]] = {}
    made = {v for node in graph for v in node.outputs}
    for node in graph:
        op = node.op
        if isinstance(op, Repeat):
            for dim, of in _choices(op.body).items():
                found[dim] = found.get(dim, frozenset()) | of
        elif isinstance(op, TopK):
            fewer = node.inputs[0].type.size(op.dim) > op.into.size
            found[op.dim] = found.get(op.dim, frozenset()) | {(op.into.name, fewer)}
        elif isinstance(op, Take) and node.inputs[1] in made:
            table, index = (v.type for v in node.inputs)
            seats = {(d.name, d.size < table.size(op.dim)) for d in index.dims if not table.has(d.name)}
            found[op.dim] = found.get(op.dim, frozenset()) | seats
    return found


def _by_name(job: Job) -> dict[str, set[int]]:
    """Sizes of the dims of each name; of no loop's."""
    loops = _loops(job.model.graph)
    found: dict[str, set[int]] = {}
    for v in _values(job.model.graph):
        for d in v.type.dims:
            if d.name not in loops:
                found.setdefault(d.name, set()).add(d.size)
    return found
