"""Whether the devices of a job's cluster have the memory that it needs, before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compiler.driver import Compiled
from compiler.memory.action import FIRST
from compiler.memory.capacity import check_capacity, out_of_memory
from compiler.memory.peak import memory_use
from dsl.diagnostics import ParcError
from parc.memory import Measure, Needs, capacities, of_program, of_stack
from parc.units import amount


def require_room(compiled: Compiled, own: Callable[[], Compiled] | None = None) -> None:
    """Raise E0701 if there is too little, with changes of the strategy that would make the job fit.

    The job has to fit on the cluster, with its software; and in the emulator, whose devices have as much memory, but
    hold the program's own values. `own` compiles the job in its own precision, which is the one that must fit where it
    is proved in a larger one.
    """
    there = capacities(compiled.job)
    if not there or all(measure(compiled, None).fit(there) for measure in (of_stack, of_program)):
        return
    if own is not None:
        compiled = own()
    stack = of_stack(compiled)
    if stack.most > there[FIRST]:
        raise ParcError(out_of_memory(stack.moment(), there[FIRST], stack.stack, _remedies(compiled, there, of_stack)))
    try:
        check_capacity(compiled.program, memory_use(compiled.program), there)
    except ParcError as error:
        help = _remedies(compiled, there, of_program)
        found = (replace(d, notes=(_fits(stack, there[FIRST]), *d.notes), help=help) for d in error.diagnostics)
        raise ParcError(*found) from None


def _fits(stack: Needs, capacity: float) -> tuple[str, None]:
    """Of a job that is too large for the emulator only."""
    told = f"with the cluster's software the job fits: it needs {amount(stack.most)} of {amount(capacity)}"
    return f"{told}; the emulator holds all values of the program, as `parc cost` lists them", None


def _remedies(compiled: Compiled, there: dict[str, float], measure: Measure) -> str:
    from parc.remedies import in_words, remedies

    return in_words(remedies(compiled, there, measure))
