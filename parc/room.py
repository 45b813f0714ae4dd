"""Whether the devices of a job's cluster have the memory that it needs, before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compiler.cost.capacity import check_capacity
from compiler.cost.memory import fits, memory_use, most
from compiler.driver import Compiled
from dsl.diagnostics import ParcError
from parc.estimate import capacities


def require_room(compiled: Compiled, own: Callable[[], Compiled] | None = None) -> None:
    """Raise E0701 if there is too little, with changes of the strategy that would make the job fit.

    `own` compiles the job in its own precision, which is the one that must fit where it is proved in a larger one.
    """
    there = capacities(compiled.job)
    if fits(most(compiled.program), there):
        return
    if own is not None:
        compiled = own()
    try:
        check_capacity(compiled.program, memory_use(compiled.program), there)
    except ParcError as error:
        from parc.remedies import in_words, remedies

        help = in_words(remedies(compiled, there))
        raise ParcError(*(replace(d, help=help) for d in error.diagnostics)) from None
