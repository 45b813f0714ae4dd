"""Whether the devices of a job's cluster have the memory that it needs, before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compiler.driver import Compiled
from compiler.memory.capacity import HELP, check_capacity, out_of_memory
from compiler.memory.tiers import FIRST
from dsl.diagnostics import Diagnostic, ParcError
from parc.memory import Measure, Needs, capacities, of_program, of_stack
from parc.units import amount

Told = Callable[[Diagnostic], None]
"""Hears of an error as soon as it is found; what helps is looked for then, which takes seconds."""


def require_room(compiled: Compiled, own: Callable[[], Compiled] | None = None, told: Told | None = None) -> None:
    """Raise E0701 if there is too little, with changes of the strategy that would make the job fit.

    The job has to fit on the cluster, with its software; and in the emulator, whose devices have as much memory, but
    hold the program's own values. `own` compiles the job in its own precision, which is the one that must fit where it
    is proved in a larger one. `told` hears of the error without these changes before they are looked for.
    """
    there = capacities(compiled.job)
    if not there or all(measure(compiled, None).fit(there) for measure in (of_stack, of_program)):
        return
    if own is not None:
        compiled = own()
    stack = of_stack(compiled)
    if stack.most > there[FIRST]:
        entry = compiled.training.entry
        found, measure = [out_of_memory(stack.moment(), there[FIRST], stack.stack, "", entry)], of_stack
    else:
        measure = of_program
        try:
            check_capacity(compiled.program, there)
            return
        except ParcError as error:
            notes = (_fits(stack, there[FIRST]),) if stack.fit(there) else ()  # else those of a server are full
            found = [replace(d, notes=(*notes, *d.notes)) for d in error.diagnostics]
    found = [replace(d, help=None) for d in found]
    if told is not None:
        for d in found:
            told(d)
    help = _remedies(compiled, there, measure)
    raise ParcError(*(replace(d, help=help) for d in found))


def _fits(stack: Needs, capacity: float) -> tuple[str, None]:
    """Of a job that is too large for the emulator only."""
    told = f"with the cluster's software the job fits: it needs {amount(stack.most)} of {amount(capacity)}"
    return f"{told}; the emulator holds all values of the program, as `parc cost` lists them", None


def _remedies(compiled: Compiled, there: Mapping[str, float], measure: Measure) -> str:
    """What to do about it. Changes are tried for steps of training alone."""
    from parc.remedies import in_words, remedies

    if not compiled.training.trains:
        return HELP
    return in_words(remedies(compiled, there, measure))
