"""The verifier of lowered programs: rules of its own, independent of how the compiler came to the program.

values   definitions, names, types; loops                    E0610 to E0612
local    layouts of local ops follow from their loops        E0613 to E0616
comm     collectives change layouts as they say              E0617, E0618
effects  buffers, gradients, saved values                    E0620 to E0626
memories values are read where they lie                      E0619
stages   sends and receives, reductions between stages       E0630, E0631
across   what stages hold pieces and parts of in U           E0632
order    schedules: every micro-batch once, no hang          E0640 to E0642
classes  groups, declarations                                E0650
entries  states that entries share                           E0651
"""

from __future__ import annotations

from dataclasses import replace

from compiler.program import Entry, Program
from compiler.text.locations import Locations
from compiler.verify.across import check_across
from compiler.verify.body import check_bodies
from compiler.verify.classes import check_classes
from compiler.verify.effects import check_buffers
from compiler.verify.entries import check_entry
from compiler.verify.memories import check_memories
from compiler.verify.order import check_order
from compiler.verify.report import Report
from compiler.verify.stages import check_stages, message_edges
from dsl.diagnostics import Diagnostic

__all__ = ["verify"]


def verify(program: Program, locations: Locations | None = None) -> tuple[Diagnostic, ...]:
    """What is wrong with the program; empty if it is legal. `locations` (of `parse_located`) give the spans."""
    first, found = 0, list[Diagnostic]()
    for i, entry in enumerate(program.entries or (Entry("", ()),)):
        report = Report(replace(program, entries=(entry,)), locations and locations.of_entry(first))
        _verify(report.program, report)
        if not report.failed and i:
            check_entry(report.program, replace(program, entries=program.entries[:i]), report)
        found += report.diagnostics
        first += len(entry.classes)
    return tuple(found)


def _verify(program: Program, report: Report) -> None:
    """One entry."""
    # Each rule takes for granted what the ones before it have found right: one mistake gives one error.
    check_classes(program, report)
    if not report.failed:
        check_bodies(program, report)
    if not report.failed:
        check_buffers(program, report)
        check_stages(program, report)
    if not report.failed:
        check_memories(program, report)
    if not report.failed:
        check_across(program, report)
    if not report.failed:
        check_order(program, report, message_edges(program))
