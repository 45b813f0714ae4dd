"""The verifier: rules of its own, independent of how the compiler came to what they are about. They get stricter from
stage to stage: graphs have those of `body`, placed ones those of layouts as well (`verify_graphs`), programs all.

body     definitions, names, types; loops                    E0610 to E0612
local    layouts of local ops follow from their loops        E0613 to E0616
comm     changes of layout, collectives do as they say       E0617, E0618
effects  buffers, gradients, saved values                    E0620 to E0626
memories values are read where they lie                      E0619
fused    regions can be computed block by block              E0652
stages   sends and receives, reductions between stages       E0630, E0631
across   what stages hold pieces and parts of in U           E0632
order    schedules: every micro-batch once, no hang          E0640 to E0642
classes  groups, declarations                                E0650
declarations what data and buffers are, and begin with       E0670, E0671, E0674
sizes    what is too large to be worked with                 E0908
interface what a stage's text declares, and its graphs       E0650
entries  states that entries share                           E0651
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.graph import Graph, Value
from compiler.program import Entry, Program
from compiler.text.locations import Locations
from compiler.verify.across import check_across
from compiler.verify.body import UNPLACED, Laws, check_bodies, check_graphs
from compiler.verify.classes import check_classes
from compiler.verify.declarations import check_declarations
from compiler.verify.effects import check_buffers
from compiler.verify.entries import check_entry
from compiler.verify.fused import check_fused
from compiler.verify.interface import check_interface
from compiler.verify.memories import check_memories
from compiler.verify.order import check_order
from compiler.verify.report import Report
from compiler.verify.stages import check_stages, message_edges
from dsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from compiler.model import Job, Training
    from compiler.passes.place.place import Placed

__all__ = ["UNPLACED", "Laws", "laws", "verify", "verify_graphs", "verify_stage"]


def verify(program: Program, locations: Locations | None = None) -> tuple[Diagnostic, ...]:
    """What is wrong with the program; empty if it is legal. `locations` (of `parse_located`) give the spans."""
    first, found = 0, list[Diagnostic]()
    for i, entry in enumerate(program.entries or (Entry("", ()),)):
        alone = replace(program, entries=(entry,))
        report = Report(alone, locations and locations.of_entry(first))
        _verify(alone, report)
        if not report.failed and i:
            check_entry(alone, replace(program, entries=program.entries[:i]), report)
        found += report.diagnostics
        first += len(entry.classes)
    return tuple(found)


def verify_graphs(
    graphs: Sequence[Graph], laws: Laws = UNPLACED, known: Iterable[Value] = (), locations: Locations | None = None
) -> tuple[Diagnostic, ...]:
    """What is wrong with the graphs of a stage before the program, which share their names; empty if they are legal.

    laws: how strict the stage is; known: values of other graphs that these may read; locations: in a stage's text.
    """
    report = Report(graphs, locations)
    check_graphs(graphs, laws, known, report)
    return report.diagnostics


def verify_stage(found: Job | Training | Placed, locations: Locations | None = None) -> tuple[Diagnostic, ...]:
    """What is wrong with the graphs of a stage; locations: of its text, which has them in this order."""
    from compiler.model import Job, Training

    if not isinstance(found, Job):
        graphs = list(found.graphs)
        wrong = verify_graphs(graphs, UNPLACED if isinstance(found, Training) else laws(found), (), locations)
    else:
        models = [found.model, *([found.evaluated] if found.evaluated is not None else [])]
        graphs = [*(m.graph for m in models), *(u.graph for u in found.updates)]
        each = (verify_graphs([g], locations=locations and locations.of_entry(k)) for k, g in enumerate(graphs))
        wrong = tuple(d for some in each for d in some)
    if wrong:
        return wrong
    report = Report(graphs, locations)
    check_interface(found, graphs, report)
    return report.diagnostics


def laws(placed: Placed) -> Laws:
    """How strict the stage of a job is that is placed."""
    once = [r.settle for r in placed.rounds] + [placed.finish, placed.update]
    return Laws.placed(placed.sizes, [k for k, g in enumerate(placed.graphs) if any(g is o for o in once)])


def _verify(program: Program, report: Report) -> None:
    """One entry."""
    # Each rule takes for granted what the ones before it have found right: one mistake gives one error.
    check_classes(program, report)
    if not report.failed:
        check_declarations(program, report)
    if not report.failed:
        check_bodies(program, report)
    if not report.failed:
        check_buffers(program, report)
    if not report.failed:
        check_stages(program, report)
    if not report.failed:
        check_memories(program, report)
    if not report.failed:
        check_fused(program, report)
    if not report.failed:
        check_across(program, report)
    if not report.failed:
        check_order(program, report, message_edges(program))
