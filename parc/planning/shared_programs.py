"""Programs whose functions strategies share, of graphs that are placed the very same.

Lowering goes by names of axes, by how many stages there are, and by whether the backward pass is in two; micro-batches
and the order of passes go into schedules. So functions are taken as they are for another strategy of the same graphs
and stages. `mark_regions` alone asks for sizes of axes, and what it asks is kept (`RegionQuestions`): where others
answer otherwise, numbers of regions are put in, or what comes from there on is done anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

from compiler.passes.loop_bodies import LoopBodies
from compiler.passes.lower_update import lower_update
from compiler.passes.pipeline import NAMES, PASSES, Work
from compiler.passes.place.place import Placed
from compiler.passes.place.rules import place_axes
from compiler.passes.renumbered import renumbered
from compiler.passes.rescheduled import can_be_rescheduled, rescheduled
from compiler.passes.split import SplitGraphs, in_two
from compiler.passes.stage import Staged
from compiler.program import Program
from compiler.regions.asked import RegionQuestions
from compiler.regions.routing import exchanges
from parc.planning.later_updates import LaterUpdates, with_updates

PLACED, LOWERED = "place", NAMES[NAMES.index("mark_regions") - 1]
"""The last passes that ask a strategy for all but the order in which stages run; and for sizes of axes."""

LOWER = "lower"

KEPT = 400
"""So many programs are kept, those that were asked for last."""


class SharedProgram(NamedTuple):
    """lowered: as `lower` and what stands behind it left it. asked: the questions about sizes that all else hangs on;
    programs: what became of it, by their answers. placed: keeps the graphs, by whose identity it is found.
    later: its updates, where they do nothing in it yet."""

    placed: Placed
    staged: Staged
    split: SplitGraphs
    lowered: Program
    asked: RegionQuestions
    programs: dict[tuple[Hashable, ...], Program]
    later: LaterUpdates | None

    def with_updates(self, work: Work) -> Program:
        """The program of a strategy with its updates, which it was given without."""
        later, own = self.later, copy(work)
        assert later is not None
        if later.made is None:
            own.program = later.alone(self.lowered)
            run_between(own, LOWER, LOWERED)
            later.made, later.exchanges = own.program, any(map(exchanges, own.program.classes))
        if later.exchanges:
            own.program, own.asked = rescheduled(with_updates(self.lowered, later.made, {}), *work.split), None
            run_between(own, LOWERED, NAMES[-1])
            return own.program
        if later.ready is None:
            own.program = later.made
            run_between(own, LOWERED, NAMES[-1])
            later.ready = own.program
        return with_updates(work.program, later.ready, later.whole)


class SharedPrograms:
    """Those that were made last."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], SharedProgram] = {}
        self.bodies = LoopBodies()
        self.count = 0

    def run(self, work: Work, later: bool = False) -> SharedProgram | None:
        """All passes behind `place`. later: updates may do nothing yet. Gives what is shared, if something is."""
        strategy = work.job.strategy
        known = self.known.pop(of := (*_key(work), later), None)
        if known is not None:
            self.known[of] = known
        else:
            hosted = strategy.offloads or strategy.runs
            work.bodies = None if hosted or work.model.states else self.bodies  # of which each function has its own
            updates = LaterUpdates() if later and not hosted else None
            work.lower_update = updates or lower_update
            run_between(work, PLACED, LOWERED)
            if hosted or not can_be_rescheduled(work.program, work.split.staged):
                if updates is not None:
                    work.program = with_updates(work.program, updates.alone(work.program), {})
                    run_between(work, LOWER, LOWERED)
                run_between(work, LOWERED, NAMES[-1])
                return None
            lowered, work.asked = work.program, RegionQuestions(work.placed.sizes)
            run_between(work, LOWERED, NAMES[-1])
            while self.known and self.count >= KEPT:
                self.count -= len(self.known.pop(next(iter(self.known))).programs)
            made = {tuple(work.asked.found): work.program}
            known = SharedProgram(work.placed, work.staged, work.split, lowered, work.asked, made, updates)
            self.known[of] = known
            self.count += 1
            return known
        rule = strategy.pipelines[0] if strategy.pipelines else None
        placed = replace(known.split.placed, training=work.placed.training, sizes=work.placed.sizes)
        work.staged = replace(known.staged, rule=rule)
        work.split = SplitGraphs(placed, replace(known.split.staged, rule=rule))
        answers = known.asked.answers(work.placed.sizes)
        program = known.programs.get(answers)
        if program is not None:
            work.program = rescheduled(program, *work.split)
            return known
        numbers = _numbers(known, answers)
        if numbers is not None:
            work.program = rescheduled(renumbered(next(iter(known.programs.values())), numbers), *work.split)
        else:
            work.program = rescheduled(known.lowered, *work.split)
            run_between(work, LOWERED, NAMES[-1])
        known.programs[answers] = work.program
        self.count += 1
        return known


def _numbers(known: SharedProgram, answers: tuple[Hashable, ...]) -> dict[int, tuple[float, float]] | None:
    """What is otherwise in the first program that was made, if nothing but numbers of its regions is: theirs."""
    first = next(iter(known.programs))
    differ = [i for i, (a, b) in enumerate(zip(first, answers, strict=True)) if a != b]
    found: dict[int, Any] = {id(known.asked.asked[i].of): answers[i] for i in differ}
    return None if id(None) in found else found


def run_between(work: Work, behind: str, until: str) -> None:
    """The passes behind one, up to another."""
    for step in PASSES[NAMES.index(behind) + 1 : NAMES.index(until) + 1]:
        step.run(work)


def _key(work: Work) -> tuple[object, ...]:
    """All that functions hang on but what is asked of sizes."""
    placed, strategy = work.placed, work.job.strategy
    places = place_axes(strategy)
    return (
        id(placed.forward),
        id(placed.backward),
        id(placed.update),
        tuple((a.name, a.size if a.name in places else 0) for a in strategy.mesh if a.size > 1),
        tuple(replace(p, schedule=str(in_two(p))) for p in strategy.pipelines),
    )
