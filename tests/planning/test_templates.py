"""Work that is found by putting sizes into templates is the very work that lifting each program gives."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from compiler.cost.kernels import templates
from compiler.cost.kernels.program import features
from compiler.cost.kernels.symbols import SizeTrace, Steps, answer
from compiler.cost.kernels.templates import WorkTemplates
from compiler.driver import compile_job
from compiler.graph import Value
from compiler.text import show
from dsl.diagnostics import ParcError
from parc.planning.pricing import StrategyPricer
from parc.planning.space import STAGES, PlanChoice
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import job_of

CASES = [
    ("transformer", {"inside": 4, "outside": 4, "batch": 8, "layers": 4, "seq": 16, "hidden": 24}, 12),
    ("images", {"inside": 4, "outside": 2, "batch": 4, "seq": 12}, 10),
    ("layers", {"inside": 4, "outside": 2, "batch": 8}, 24),
]


@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_work_is_that_of_each_by_itself(
    model: str, sizes: dict[str, float], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of strategies of a few structures, in any order: all numbers of all kernels and messages, what waits for what,
    and the text of the program with the numbers of its regions."""
    assert agree(model, sizes, number, 7, monkeypatch)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("model", "sizes", "number"), CASES)
def test_work_of_many(
    model: str, sizes: dict[str, float], number: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agree(model, sizes, 12 * number, seed, monkeypatch) > number


def agree(model: str, sizes: dict[str, float], number: int, seed: int, patch: pytest.MonkeyPatch) -> int:
    """Hold so many to what each is by itself; how many functions were found by templates."""
    used, run = list[bool](), Steps.run

    def noted(self: Steps, inputs: dict[str, int]) -> list[int] | None:
        used.append((found := run(self, inputs)) is not None)
        return found

    patch.setattr(Steps, "run", noted)
    job = job_of(model, **sizes)
    space, _ = space_of(job)
    alike: dict[object, list[PlanChoice]] = {}
    for of in candidates(space):
        rules = replace(of.rules, schedule="", chunks=1)
        larger = of.mesh.microbatches > 1
        alike.setdefault((rules, larger, tuple(r for r, _ in of.mesh.axes), of.mesh.size(STAGES)), []).append(of)
    draw = random.Random(seed)
    groups = sorted(alike.values(), key=lambda group: len({of.mesh for of in group}), reverse=True)[:10]
    taken = draw.sample(groups, min(len(groups), 2))
    found = [of for group in taken for of in draw.sample(group, min(len(group), number // 2))]
    pricer = StrategyPricer(job, space.by_hand)
    for of in found:
        strategy = strategy_of(space, of)
        try:
            program = pricer.compiled(strategy).program
        except ParcError:
            continue
        mine = features(program, pricer.before.work)
        alone = compile_job(space.job_of(job, strategy)).program
        assert show(program) == show(alone), of
        his = features(alone)
        assert mine.parts == his.parts and mine.inside == his.inside, of
        assert (mine.flops, mine.again, mine.samples, mine.tokens) == (his.flops, his.again, his.samples, his.tokens)
    return used.count(True)


def test_numbers_of_other_sizes() -> None:
    trace = SizeTrace({"a": 4, "b": 6})
    a, b = trace.sizes.values()
    rounded, most = -(-100 // (a * b)), max(a, b, 5)
    asked = answer(trace.sizes, lambda sizes: sizes["a"] + 1)
    found = trace.steps.run({"a": 3, "b": 9})
    assert found is not None
    assert (found[rounded.at], found[most.at], found[asked.at]) == (4, 9, 4)
    assert (2.0 * a * b).value == 48.0 and (2 * a).at != (2.0 * a).at  # floats are made as they were
    assert trace.steps.run({"a": 9, "b": 6}) is None  # then the maximum is the other


def test_nothing_else_is_made_of_them() -> None:
    """What is no whole number of sizes, or would be looked up, is a TypeError."""
    (a,) = SizeTrace({"a": 4}).sizes.values()
    for use in (float, hash, range, lambda x: x / 2, lambda x: x % 2, lambda x: x**2, lambda x: [1][x]):
        with pytest.raises(TypeError):
            use(a)


def test_what_is_no_number_of_sizes_is_lifted_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is taken from a template, and the work is the same."""

    def value(self: templates._SymbolLifter, var: Value) -> float:
        return float(next(iter(self.trace.sizes.values())))

    monkeypatch.setattr(templates._SymbolLifter, "value", value)
    job = job_of("layers", inside=2, outside=2, batch=4)
    space, _ = space_of(job)
    of = strategy_of(space, next(iter(candidates(space))))
    program, known = compile_job(replace(job, strategy=of)).program, WorkTemplates()
    assert [features(program, known).parts for _ in range(3)] == [features(program).parts] * 3
