"""Memory that is added up from forms of a program before is the very memory that replaying each program gives."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from compiler.cost.memory.systems import Systems
from compiler.cost.memory.templates import Atoms, ClassForms, FullestForms, bytes_in
from compiler.cost.time.simulate import Simulation
from compiler.graph import Dim, Type
from compiler.layout import replicated
from dsl.diagnostics import ParcError
from parc.planning.pricing import StrategyPricer
from parc.planning.space import STAGES, PlanChoice
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import job_of

CASES = [
    ("transformer", {"inside": 2, "outside": 4, "batch": 8, "layers": 4, "seq": 16, "hidden": 24}, 16),
    ("tables", {"inside": 2, "outside": 3, "batch": 12}, 10),
    ("layers", {"inside": 4, "outside": 2, "batch": 8, "layers": 4}, 20),
]


@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_memory_is_that_of_each_by_itself(
    model: str, sizes: dict[str, float], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of strategies of a few structures, in any order: what each group of devices keeps, what comes and goes, and what
    of it is there at the fullest moment, by role."""
    agree(model, sizes, number, 3, monkeypatch)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_memory_of_many(
    model: str, sizes: dict[str, float], number: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree(model, sizes, 12 * number, seed, monkeypatch)


def agree(model: str, sizes: dict[str, float], number: int, seed: int, patch: pytest.MonkeyPatch) -> None:
    """Hold so many to what each is by itself; where functions are shared (of lists of rows they are not), fewer are
    replayed than are asked for."""
    asked, replayed, action, replay = [0], [0], ClassForms.action, ClassForms._replayed

    def counted(self: ClassForms, *of: object) -> object:
        asked[0] += 1
        return action(self, *of)  # type: ignore[arg-type]

    def noted(self: ClassForms, *of: object) -> object:
        replayed[0] += 1
        return replay(self, *of)  # type: ignore[arg-type]

    patch.setattr(ClassForms, "action", counted)
    patch.setattr(ClassForms, "_replayed", noted)
    job = job_of(model, **sizes)
    space, _ = space_of(job)
    alike: dict[object, list[PlanChoice]] = {}
    for of in candidates(space):
        key = replace(of.rules, schedule="", chunks=1, zero=0), tuple(r for r, _ in of.mesh.axes)
        alike.setdefault((key, of.mesh.size(STAGES) > 1), []).append(of)
    draw = random.Random(seed)
    largest = sorted(alike.values(), key=len)[-8:]
    groups = draw.sample(largest, min(3, len(largest)))
    pricer = StrategyPricer(job, space.by_hand)
    for of in (of for group in groups for of in draw.sample(group, min(len(group), number // 2))):
        try:
            compiled = pricer.compiled(strategy_of(space, of))
        except ParcError:
            continue
        simulation = Simulation.of(compiled, pricer.before)
        rounds = simulation.groups.of_groups.rounds
        found = Systems(compiled, simulation.features, before=pricer.memories, rounds=rounds).needs
        assert found == Systems(compiled).needs, of
    assert 0 < replayed[0] < asked[0] or model == "tables"


def test_no_moment_that_is_left_out_is_the_fullest() -> None:
    """And of several that are as full the first counts, whatever the sizes."""
    draw = random.Random(1)
    for _ in range(200):
        atoms = Atoms()
        forms = [atoms.form((Type("f32", (Dim("n", i + 1),)), replicated(1), 1.0)) for i in range(draw.randint(1, 4))]
        fullest, moments = FullestForms(atoms), []
        for i in range(draw.randint(1, 12)):
            total = sum(form * draw.randint(-2, 2) for form in forms)
            moments.append(total)
            fullest.add(total, {("hbm", str(i)): total})
        sizes = [draw.randint(1, 3) for _ in forms]
        each = [bytes_in(atoms.terms(total), sizes) for total in moments]
        kept = [(bytes_in(atoms.terms(total), sizes), next(iter(totals))[1]) for total, totals in fullest.kept]
        most = max(size for size, _ in kept)
        assert most == max(each) and next(i for size, i in kept if size == most) == str(each.index(most))
