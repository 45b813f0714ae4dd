"""Around what a search found: stages that are cut unevenly, layers of which only the first are computed again, and
branches on devices of their own.

A space with these would be larger by many orders, and bounds of it weaker; most of what they bring, they bring to plans
that are good without them. So they are tried around the best alone, each priced exactly, and are taken where they are
better. No bound speaks of those that were not tried.

- Where a model has parts that do not need each other, these go to places of their own, an axis of the mesh that takes
  its devices from another one.
- Of the best plans that compute layers again, as many of the first layers as it takes to fit: under 1F1B the first
  stages hold most. Where a model has several loops, first of those that keep most for what they cost (`fewer_layers`).
- Then layers go from the ends, that have the embedding and the head to do as well, to the stages between (or the other
  way), one by one, as long as that is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from time import monotonic

from compiler.evaluate import evaluate_file
from compiler.model import Cluster
from compiler.passes.cuts import divided
from compiler.strategy import PipelineRule
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.planning.branches import PlacedBranches, branches, placed, placed_lines, ways
from parc.planning.fewer_layers import densest, fewer_lines, of_loops, promised
from parc.planning.found import PricedPlan
from parc.planning.planning import Planned
from parc.planning.reasons import differs
from parc.planning.search import STEP
from parc.planning.space import STAGES, PlanChoice, PlanSpace
from parc.planning.text import with_strategy
from parc.planning.written import lines_of
from parc.price import Price, price
from parc.units import amount, seconds

MOST = 32
"""So many are priced."""

SHARE = 0.25
"""Of the time that the search had."""

FARTHEST = 1.4
"""A plan that computes layers again takes so many times the best at most: three passes' work in the place of four's."""

SLOWER = 2.0
"""A plan of which branches are placed takes so many times the best at most: places halve what a device has to do."""

BASES = 4
"""Plans whose branches are placed."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """cuts: where each stage but the first begins ((): evenly); again: of each loop how many of the first layers are
    computed again ((): as the plan says); placed: branches on places of their own (None: nowhere in particular)."""

    cuts: tuple[int, ...] = ()
    again: tuple[int, ...] = ()
    placed: PlacedBranches | None = None


@dataclass(frozen=True, slots=True)
class RefinedPlan:
    """A plan of the space that is changed. price: None for what cannot be, whose code it has."""

    base: PricedPlan
    by: PlanChange
    price: Price | None
    code: str = ""


def changed_base(of: PlanChoice, by: PlanChange) -> PlanChoice:
    """What the statements are of that are changed."""
    return of if by.placed is None else placed(of, by.placed)


def changed(space: PlanSpace, lines: Sequence[str], by: PlanChange) -> list[str]:
    """The statements of a plan (`changed_base`) with other cuts, with fewer layers that are computed again, with its
    branches on places."""
    cuts = f", cuts [{', '.join(map(str, by.cuts))}]" if by.cuts else ""
    found = [f"{line}{cuts}" if line.startswith("pipeline ") else line for line in lines]
    if by.again:
        found = fewer_lines(space.split, found, by.again)
    return found if by.placed is None else placed_lines(space, by.placed, found)


class Refiner:
    """What is tried around the plans of one search. until: when it has to end (of `monotonic`)."""

    def __init__(
        self,
        source: Source,
        params: Mapping[str, str],
        planned: Planned,
        cluster: Cluster | None,
        until: float | None,
    ) -> None:
        self.source, self.params, self.planned, self.cluster, self.until = source, params, planned, cluster, until
        self.tried: list[RefinedPlan] = []
        self.best: RefinedPlan | None = None
        self.least = planned.found.fitting[0].value

    def run(self) -> None:
        """Try what there is to try, until nothing is better, or the time is over, or it is interrupted."""
        try:
            without = {*self.planned.space.without.words}
            if "places" not in without:
                self._place()
            if self.planned.minimise == STEP and "recompute=some" not in without:
                for base in self._again():
                    self._fewer(base)
            base = self.planned.found.fitting[0]
            if "cuts" not in without:
                self._cut(self.best.base if self.best else base, self.best.by.again if self.best else ())
        except (KeyboardInterrupt, _Over):
            return

    def text(self, base: PricedPlan, by: PlanChange, tactics: bool) -> str:
        """The file with such a plan."""
        name, space = self.planned.job.name, self.planned.space
        of = changed_base(base.candidate, by)

        def change(lines: Sequence[str]) -> list[str]:
            return changed(space, lines, by)

        return with_strategy(self.source, name, self.params, space, of, self.cluster, tactics, change)

    # --- branches ------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Branches on devices of their own, of the best plans without stages; each of another mesh."""
        space, fitting = self.planned.space, self.planned.found.fitting
        found = branches(self.planned.job)
        meshes: set[object] = set()
        for base in fitting if found else ():
            if base.value > SLOWER * fitting[0].value or len(meshes) == BASES:
                break
            if base.candidate.mesh.axes in meshes:
                continue
            for each in ways(space, found, base.candidate):
                meshes.add(base.candidate.mesh.axes)
                for by in each:  # with more micro-batches where it does not fit
                    price = self._try(base, PlanChange(placed=by))
                    if price is None or price.fits:
                        break

    # --- fewer layers again --------------------------------------------------------------------------------------

    def _again(self) -> Iterator[PricedPlan]:
        """Of each choice of what is computed again the plan that seems best with less of it; but for those that fit
        without it."""
        planned, seen = self.planned, set[int]()
        fit = {plan.candidate for plan in planned.found.fitting}
        for plan in sorted(planned.found.fitting, key=lambda plan: promised(planned.bounds, plan)):
            rules = plan.candidate.rules
            if rules.recompute in seen or rules.by or plan.value > FARTHEST * planned.found.fitting[0].value:
                continue
            without = replace(plan.candidate, rules=replace(rules, recompute=0))
            if planned.space.recomputes[rules.recompute] and without not in fit:
                seen.add(rules.recompute)
                yield plan

    def _fewer(self, base: PricedPlan) -> None:
        """As few of the layers as it takes to fit: with fewer a step is shorter, and needs more."""
        space = self.planned.space
        order = densest(self.planned.job, space.split, space.recomputes[base.candidate.rules.recompute])
        none, every = 0, space.split.layers
        while every - none > 1:
            some = (none + every) // 2
            found = self._try(base, PlanChange(again=of_loops(space.split, order, some)))
            if found is not None and found.fits:
                every = some
            else:
                none = some

    # --- cuts ----------------------------------------------------------------------------------------------------

    def _cut(self, base: PricedPlan, again: tuple[int, ...]) -> None:
        """Move layers between stages, as long as that is better."""
        space, of = self.planned.space, base.candidate
        places = of.mesh.size(STAGES)
        stages = places * of.rules.chunks
        if places == 1 or space.split.layers <= stages or of.rules.by:
            return
        labels = tuple(label for label, _ in space.split.loops)
        each = divided(PipelineRule(labels, ""), dict(space.split.loops), stages).values()
        counts = [sum(of_stage) for of_stage in zip(*each, strict=True)]
        seen, better = {tuple(counts)}, True
        while better:
            better = False
            for move in (_from_last, _from_first, _to_first, _to_last):
                while (moved := move(counts, places)) and tuple(moved) not in seen:
                    seen.add(tuple(moved))
                    least = self.least
                    self._try(base, PlanChange(tuple(accumulate(moved[:-1])), again))
                    if self.least >= least:
                        break
                    counts, better = moved, True

    # --- prices --------------------------------------------------------------------------------------------------

    def _try(self, base: PricedPlan, by: PlanChange) -> Price | None:
        if len(self.tried) >= MOST or (self.until is not None and monotonic() > self.until):
            raise _Over
        found, code = None, ""
        text = self.text(base, by, False)
        try:
            job = evaluate_file(replace(self.source, text=text), job=self.planned.job.name).job
        except ParcError:  # no strategy of the model: nothing was tried
            return None
        try:
            found = price(job)
        except ParcError as error:
            code = next((d.code for d in error.diagnostics if d.severity == "error"), "")
        made = RefinedPlan(base, by, found, code)
        self.tried.append(made)
        if found is not None and found.fits:
            value = found.seconds if self.planned.minimise == STEP else float(found.needed)
            if value < self.least:
                self.best, self.least = made, value
        return found


class _Over(Exception):
    """Nothing more is to be tried."""


def refined(
    source: Source, params: Mapping[str, str], planned: Planned, cluster: Cluster | None, within: float | None
) -> Refiner:
    """Look around the best plans of a search that was not interrupted."""
    found = Refiner(source, params, planned, cluster, None if within is None else monotonic() + SHARE * within)
    if not planned.found.interrupted:
        found.run()
    return found


def plain_lines(planned: Planned, of: RefinedPlan) -> list[str]:
    """All statements, without tactics."""
    return changed(planned.space, lines_of(planned.space, changed_base(of.base.candidate, of.by), ()), of.by)


def told_around(planned: Planned, better: RefinedPlan | None, tried: int) -> str:
    """In words. better: what the file has, if it is better than the best of the space."""
    first, space = planned.found.fitting[0], planned.space
    what = f"{tried} with other cuts, fewer layers computed again, or branches on places, were priced around the best"
    if better is None or better.price is None:
        return f"{what}: none is better"
    by = better.by
    changes = [f"stages begin at layers {', '.join(map(str, by.cuts))}"] if by.cuts else []
    changes += [_told_again(space, by.again)] if by.again else []
    if by.placed is not None:
        apart = " | ".join(", ".join(group) for group in by.placed.groups)
        changes.append(f"{apart} on devices of their own, in {by.placed.microbatches:,} micro-batches")
    if better.base.candidate != first.candidate:
        changes.append(differs(space, first.candidate, better.base.candidate))
    price = better.price
    faster = first.price.seconds / price.seconds
    head = f"better still, and in the file: {seconds(price.seconds)}, {amount(price.needed)}"
    return f"{head}, {faster:.3f} times as fast: {'; '.join(changes)}\n  {what}; no bound speaks of others"


def _told_again(space: PlanSpace, again: Sequence[int]) -> str:
    """Of which layers what is computed again still is."""
    if len(again) == 1:
        return f"of all layers the first {again[0]} alone are computed again"
    loops = zip(space.split.paths, space.split.loops, again, strict=True)
    some = (f"{path} ({f'the first {n}' if n < count else 'all'})" for path, (_, count), n in loops if n)
    return f"only layers of {', '.join(some)} are computed again"


Move = Callable[[list[int], int], list[int]]
"""A layer goes to another stage: layers of each afterwards, empty where none can. places: over which the stages lie."""


def _from_last(counts: list[int], places: int) -> list[int]:
    return _moved(counts, len(counts) - 1, _inner(counts, places, len(counts) - 1, False))


def _from_first(counts: list[int], places: int) -> list[int]:
    return _moved(counts, 0, _inner(counts, places, 0, False))


def _to_first(counts: list[int], places: int) -> list[int]:
    return _moved(counts, _inner(counts, places, 0, True), 0)


def _to_last(counts: list[int], places: int) -> list[int]:
    return _moved(counts, _inner(counts, places, len(counts) - 1, True), len(counts) - 1)


def _inner(counts: list[int], places: int, end: int, most: bool) -> int:
    """The stage, on another place than that of an end, that has least to do, or most."""
    devices = [sum(counts[place::places]) for place in range(places)]
    others = [s for s in range(len(counts)) if s % places != end % places]
    inner = [s for s in others if s % places not in (0, places - 1)] or others
    keys = {s: (devices[s % places], counts[s]) for s in inner}
    return max(inner, key=lambda s: keys[s]) if most else min(inner, key=lambda s: keys[s])


def _moved(counts: list[int], giver: int, taker: int) -> list[int]:
    if counts[giver] < 2:
        return []
    return [n - (s == giver) + (s == taker) for s, n in enumerate(counts)]
