"""Programs whose functions strategies share, of graphs that are placed the very same.

Lowering goes by names of axes, by how many stages there are, and by whether the backward pass is in two; micro-batches
and the order of passes go into schedules. So functions are taken as they are for another strategy of the same graphs
and stages. Sizes of axes are asked for by `mark_regions` alone, and which ones is watched: where they are others, what
comes from there on is done anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from compiler.passes.pipeline import NAMES, PASSES, Work
from compiler.passes.place.place import Placed
from compiler.passes.place.rules import place_axes
from compiler.passes.rescheduled import can_be_rescheduled, rescheduled
from compiler.passes.split import SplitGraphs, in_two
from compiler.passes.stage import Staged
from compiler.program import Program

PLACED, LOWERED = "place", NAMES[NAMES.index("mark_regions") - 1]
"""The last passes that ask a strategy for all but the order in which stages run; and for sizes of axes."""

KEPT = 100
"""So many programs are kept."""


class SizesWatched(Mapping[str, int]):
    """Sizes of axes, and which of them were asked for."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.asked: dict[str, int] = {}

    def __getitem__(self, axis: str) -> int:
        size = self.asked[axis] = self.sizes[axis]
        return size

    def __iter__(self) -> Iterator[str]:
        self.asked.update(self.sizes)
        return iter(self.sizes)

    def __len__(self) -> int:
        self.asked.update(self.sizes)
        return len(self.sizes)


class SharedProgram(NamedTuple):
    """lowered: as `lower` and what stands behind it left it. programs: what became of that, with the sizes that this
    hangs on. placed: keeps the graphs, by whose identity it is found."""

    placed: Placed
    staged: Staged
    split: SplitGraphs
    lowered: Program
    programs: list[tuple[dict[str, int], Program]]


class SharedPrograms:
    """Those that were made last."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], SharedProgram] = {}
        self.count = 0

    def run(self, work: Work) -> None:
        """All passes behind `place`."""
        strategy = work.job.strategy
        known = self.known.get(of := _key(work))
        if known is None:
            run_between(work, PLACED, LOWERED)
            if strategy.offloads or strategy.runs or not can_be_rescheduled(work.program, work.split.staged):
                run_between(work, LOWERED, NAMES[-1])
                return
            known = SharedProgram(work.placed, work.staged, work.split, work.program, [])
            while self.known and self.count >= KEPT:
                self.count -= len(self.known.pop(next(iter(self.known))).programs)
            self.known[of] = known
        else:
            rule = strategy.pipelines[0] if strategy.pipelines else None
            placed = replace(known.split.placed, training=work.placed.training, sizes=work.placed.sizes)
            work.staged = replace(known.staged, rule=rule)
            work.split = SplitGraphs(placed, replace(known.split.staged, rule=rule))
            work.program = known.lowered
        sizes = work.placed.sizes
        for asked, program in known.programs:
            if all(sizes[axis] == size for axis, size in asked.items()):
                work.program = rescheduled(program, *work.split)
                return
        work.program = rescheduled(work.program, *work.split) if known.programs else work.program
        work.watched = watched = SizesWatched(sizes)
        run_between(work, LOWERED, NAMES[-1])
        known.programs.append((watched.asked, work.program))
        self.count += 1


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
