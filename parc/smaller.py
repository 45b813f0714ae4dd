"""Which parameters of a file make a job smaller: for the help of limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

from compiler.evaluate.sizes import Sizes, Stated
from compiler.model import Job
from compiler.walk import walk
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Span

SHOWN = 6
"""Parameters that are named."""

Measured = Callable[[Job], int]
"""What is to get smaller."""


def smaller(evaluate: Callable[[Sizes], Job], measure: Measured) -> str:
    """`smaller with less of pp = 64, layers = 8 (`-D name=value`)`: those first whose half saves most; "" if none does.

    evaluate: the job with other sizes.
    """
    sizes = Sizes(bare=True)
    try:
        own = measure(evaluate(sizes))
    except ParcError:
        return ""
    saved = {
        s.name: own - n for s in sizes.stated.values() if s.name and (n := _halved(evaluate, measure, s, own)) < own
    }
    found = {s.name: s.value for s in sizes.stated.values()}
    shown = [f"{n} = {found[n]}" for n in sorted(saved, key=lambda n: -saved[n])[:SHOWN]]
    return f"smaller with less of {', '.join(shown)} (`-D name=value`)" if shown else ""


def told_smaller(
    found: Diagnostic, evaluate: Callable[[Sizes], Job] | None, measure: Measured | None = None
) -> Diagnostic:
    """The refusal with the parameters in its help that make the job smaller; measure: by what (None: passes)."""
    named = smaller(evaluate, measure or passes) if evaluate is not None else ""
    return replace(found, help="; ".join(filter(None, (found.help, named))))


def _halved(evaluate: Callable[[Sizes], Job], measure: Measured, stated: Stated, own: int) -> int:
    """With half of a parameter; as before where that is no job."""
    if stated.value < 2:
        return own
    instead: Mapping[Span, int] = {stated.span: stated.value // 2}
    try:
        return measure(evaluate(Sizes(instead, bare=True)))
    except ParcError:
        return own


def elements(job: Job) -> int:
    """Of all values of the model's graph."""
    graph = job.model.graph
    return sum(v.type.elements for v in (*graph.inputs, *(v for n in graph for v in n.outputs)))


def passes(job: Job) -> int:
    """Of stages on micro-batches in a step."""
    strategy = job.strategy
    sizes = {a.name: a.size for a in strategy.mesh}
    apart = {p.axis: p.chunks for p in strategy.pipelines} | {p.axis: 1 for p in strategy.places}
    return strategy.microbatches * prod(sizes.get(axis, 1) * chunks for axis, chunks in apart.items())


def instructions(job: Job) -> int:
    """Of a step, all iterations of the model's loops and all micro-batches counted."""
    return job.strategy.microbatches * sum(times for _, times in walk(job.model.graph))


def axes(job: Job) -> int:
    """Of the arrays of its mesh and micro-batches that have most."""
    graph = job.model.graph
    made = (v for node, _ in walk(graph) for v in node.outputs)
    return len(job.strategy.mesh) + 1 + max((len(v.type.dims) for v in (*graph.inputs, *made)), default=0)


def devices(job: Job) -> int:
    """Of its mesh."""
    return prod(a.size for a in job.strategy.mesh)
