"""Refuses at once what this machine has too little memory for, by numbers, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Collection

from compiler.driver import Compiled
from compiler.evaluate.sizes import Sizes
from compiler.model import Job
from dsl.diagnostics import fail
from parc.smaller import elements, smaller
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
    small = "`parc verify --small` proves the same strategy in the smallest sizes, in seconds"
    named = smaller(evaluate, elements)
    return f"{named}; {small}" if named else small
