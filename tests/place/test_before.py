"""What was chosen in placings before changes nothing: each strategy is placed as it is by itself, and asks the same."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from compiler.driver import run_passes
from compiler.model import Training
from compiler.passes.pipeline import NAMES
from compiler.passes.place.alike import SizesAsked
from compiler.passes.place.before import ChosenBefore
from compiler.passes.place.place import Undivided, place
from compiler.passes.sparse import Unlisted
from dsl.diagnostics import ParcError
from parc.planning.space import PlanChoice
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import job_of

LAST = NAMES[NAMES.index("place") - 1]

CASES = [
    ("transformer", {"inside": 4, "outside": 2, "batch": 6, "hidden": 24, "layers": 3}, 12),
    ("images", {"inside": 4, "outside": 2, "batch": 4, "seq": 12}, 12),
    ("tables", {"inside": 2, "outside": 3, "batch": 12}, 20),
    ("layers", {"inside": 2, "outside": 3, "batch": 6, "hidden": 18}, 16),
]


def asked(training: Training, before: ChosenBefore) -> tuple[object, ...] | None:
    """What is placed, and what was asked of sizes meanwhile; None for what cannot be placed."""
    notes = SizesAsked(before)
    try:
        placed = place(training, notes)
    except (ParcError, Undivided, Unlisted):
        return None
    questions = notes.questions
    told = None if questions is None else {(q.of, q.about): answer for q, answer in questions.items()}
    layouts = placed.weights, placed.states, placed.accumulators
    return (placed.graphs, layouts, [(v.name, v.layout) for v in (*placed.kept, *placed.totals)], told)


@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_placings_are_those_of_each_by_itself(model: str, sizes: dict[str, float], number: int) -> None:
    """Of a few meshes that differ in sizes alone, with weights split as the space has it or whole."""
    job, before = job_of(model, **sizes), ChosenBefore()
    space, _ = space_of(job)
    groups: dict[object, list[PlanChoice]] = {}
    for of in candidates(space):
        if not of.rules.by:
            groups.setdefault(tuple(role for role, _ in of.mesh.axes), []).append(of)
    some = [of for group in sorted(groups.values(), key=len)[-2:] for of in group]
    placed = alone = 0
    for i, of in enumerate(random.Random(4).choices(some, k=number)):
        strategy = strategy_of(space, of)
        if i % 2:
            splits = tuple(replace(rule, classes=("activations",)) for rule in strategy.splits)
            strategy = replace(strategy, splits=splits)
        training = run_passes(replace(job, strategy=strategy), LAST).training
        mine = ChosenBefore()
        got = asked(training, before)
        assert got == asked(training, mine), of
        if got is not None:
            placed += 1
            assert got[0] == place(training).graphs, of
            alone += sum(map(len, mine.plans.values()))
    assert placed > number // 4
    assert sum(map(len, before.plans.values())) < 0.95 * alone
