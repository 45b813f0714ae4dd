"""`rescheduled`: a program for another strategy, of which the functions are the very same: sizes and order differ."""

from __future__ import annotations

from dataclasses import replace

from compiler.layout import TIME
from compiler.passes.classes import schedules
from compiler.passes.lower_batch import Batch
from compiler.passes.messages import NOTHING
from compiler.passes.place.place import Placed
from compiler.passes.program_axes import program_axes
from compiler.passes.stage import Staged
from compiler.program import MODEL_PASSES, DeviceClass, FunctionPhase, Program

PASSES = (*MODEL_PASSES, FunctionPhase.METRICS, FunctionPhase.UPDATE)


def can_be_rescheduled(program: Program, staged: Staged) -> bool:
    """Whether nothing but the sizes of axes and the rule of its pipeline goes into its schedule."""
    by_rule = not staged.visited and (staged.rule is None or not staged.rule.orders)
    return by_rule and all(f.phase in PASSES for c in program.classes for f in c.functions)


def rescheduled(program: Program, placed: Placed, staged: Staged) -> Program:
    """placed, staged: the graphs that it was lowered from, with the other strategy's sizes and rule. Raises ParcError
    for a schedule that there cannot be."""
    of: dict[int, list[DeviceClass]] = {}  # those that differ in their schedules alone, which are of one stage's code
    for cls in program.classes:
        of.setdefault(id(cls.functions), []).append(cls)
    members = [tuple(g for cls in alike for g in cls.groups) for alike in of.values()]
    found = []
    orders = schedules(placed, staged, (NOTHING, NOTHING), members)
    count = placed.sizes.get(TIME, 1)
    for (cls, *_), order in zip(of.values(), orders, strict=True):
        batch = Batch((), tuple([f for f in cls.functions if f.phase is FunctionPhase.METRICS]), ())
        for groups, schedule in order:
            mine = batch.scheduled(schedule, count)
            found.append(DeviceClass(groups, cls.ranges, cls.states, cls.functions, mine))
    found.sort(key=lambda c: c.groups)
    return replace(program, axes=program_axes(placed)).with_classes(found)
