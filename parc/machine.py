"""Refuses at once what this machine has too little memory for, by numbers, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from compiler.driver import Compiled
from compiler.evaluate.sizes import Sizes, Stated
from compiler.model import Job
from dsl.diagnostics import ParcError, fail
from dsl.source import Span
from parc.units import amount


def require_machine(
    compiled: Compiled, evaluate: Callable[[Sizes], Job], executors: Collection[str], proof: bool
) -> None:
    """Raise E0910 if what runs here (and, for a proof, the serial program beside it) needs more than there is.

    evaluate: the job with other sizes, which tells the parameters that make it smaller; executors: `stacked` where all
    devices are one array, `private` where each has its own buffers.
    """
    from runtime.available import lacking
    from runtime.room import private, serial, stacked

    program = compiled.program
    needed = sum(private(program) if e == "private" else stacked(program) for e in executors)
    if proof:
        needed += serial(compiled.training)
    limit = lacking(needed)
    if limit is None:
        return
    what = "proving" if proof else "running"
    raise fail(
        "E0910",
        f"{what} `{compiled.job.name}` here takes some {amount(needed)} of memory, and there are {amount(limit.bytes)} "
        f"({limit.what})",
        compiled.job.span,
        help=_help(evaluate),
    )


def _help(evaluate: Callable[[Sizes], Job]) -> str:
    """`-D` of the parameters that matter, those first whose half saves most."""
    sizes = Sizes(bare=True)
    try:
        own = _elements(evaluate(sizes))
        saved = {s.name: own - n for s in sizes.stated.values() if s.name and (n := _halved(evaluate, s, own)) < own}
    except ParcError:
        saved = {}
    small = "`parc verify --small` proves the same strategy in the smallest sizes, in seconds"
    if not saved:
        return small
    found = {s.name: s.value for s in sizes.stated.values()}
    named = [f"{n} = {found[n]}" for n in sorted(saved, key=lambda n: -saved[n])[:6]]
    return f"smaller with less of {', '.join(named)} (`-D name=value`); {small}"


def _halved(evaluate: Callable[[Sizes], Job], stated: Stated, own: int) -> int:
    """Elements of the model's values with half of a parameter; as many as before where that is no job."""
    if stated.value < 2:
        return own
    instead: Mapping[Span, int] = {stated.span: stated.value // 2}
    try:
        return _elements(evaluate(Sizes(instead, bare=True)))
    except ParcError:
        return own


def _elements(job: Job) -> int:
    graph = job.model.graph
    return sum(v.type.elements for v in (*graph.inputs, *(v for n in graph for v in n.outputs)))
