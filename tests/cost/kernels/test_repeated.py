"""Work that several stages do alike is told, and is just what the devices compute more."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import parc
from compiler.cost.kernels.flops import program_flops
from compiler.cost.kernels.repeated import repeated, repeated_work
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from tests.property.draw_strategy import draw

EXAMPLES = Path(__file__).parents[3] / "examples"

MODEL = """\
use std.optimizers (sgd)

model m {{
  dim b = 8, d = 8, e = 8
  input x : f32[b,d]
  weight first[d,e] ~ normal(0.3)
{prologue}  y = x
  repeat 4 as block {{
    weight w[d,e], v[e,d]
    y[b,d] = (y @ w) * h @ v
{inside}  }}
  loss mean(y * y)
}}

strategy s for m {{
  mesh (pp = {stages})
  {rule}
}}

job fit {{
  train m using s
  optimizer sgd(lr = 0.01)
}}
"""
ONE = "  h = x @ first\n"
ENCODER = """\
  h = x @ first
  repeat 3 as encoder {
    weight u[e,d], q[d,e]
    h[b,e] = (h @ u) @ q
  }
"""
RULES = {
    "gpipe": "pipeline block on pp, schedule gpipe(microbatches = 4)",
    "one_f_one_b": "pipeline block on pp, schedule one_f_one_b(microbatches = 4)",
    "interleaved": "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)",
    "zero_bubble": "pipeline block on pp, schedule zero_bubble(microbatches = 4)",
}


def compiled(prologue: str, stages: int, rule: str, inside: str = "") -> Compiled:
    text = MODEL.format(prologue=prologue, stages=stages, rule=rule, inside=f"    {inside}\n" if inside else "")
    return compile_job(evaluate(Source("m.par", text)))


def computed(found: Compiled) -> float:
    return sum(program_flops(found.program).values())


@pytest.mark.parametrize("prologue", [ONE, ENCODER], ids=["product", "encoder"])
@pytest.mark.parametrize("schedule", RULES)
@pytest.mark.parametrize("again", ["", "\n  recompute"])
def test_what_is_told_is_what_is_computed_more(prologue: str, schedule: str, again: str) -> None:
    """Than by one stage."""
    alone, split, handed = (
        compiled(prologue, stages, RULES[schedule] + again, inside)
        for stages, inside in ((1, ""), (2, ""), (2, "h = h + 0.0"))
    )
    more = sum(r.more for r in repeated(split))
    assert more > 0 and not repeated(handed)
    assert computed(split) - computed(alone) == more
    (warning,) = repeated_work(split)
    assert warning.severity == "warning" and warning.span == split.job.strategy.pipelines[0].span
    assert "`h`" in warning.message and not repeated_work(handed)


def test_one_stage_repeats_nothing() -> None:
    assert not repeated(compiled(ENCODER, 1, "pipeline block on pp, schedule gpipe(microbatches = 4)"))


@pytest.mark.parametrize("name", ["gpt", "llama", "pangu_200b", "towers"])
def test_examples_are_fine(name: str) -> None:
    params = {"pp": 2, "microbatches": 4} if name in ("gpt",) else {}
    found: list[Diagnostic] = []
    parc.compile(EXAMPLES / f"{name}.par", params=params, warned=found.append)
    assert not found


def test_stages_of_a_drawn_model_compute_what_one_does_and_what_is_told() -> None:
    """In 103 of 400 draws just that, in one four times as much: nothing splits it on another axis."""
    compared = repeating = 0
    for seed in range(300):
        case = draw(seed)
        axis = re.search(r"pipeline \S+ on (\w+)", case.text)
        if not axis:
            continue
        mesh = tuple((name, 1 if name == axis[1] else size) for name, size in case.mesh)
        try:
            split, alone = (
                compile_job(evaluate(Source("drawn.par", of.text))) for of in (case, replace(case, mesh=mesh))
            )
        except ParcError:
            continue
        more = sum(r.more for r in repeated(split))
        alike = split.program.devices // split.program.groups  # devices of a stage, which may all do the same
        assert more <= computed(split) - computed(alone) <= alike * more, seed
        compared += 1
        repeating += more > 0
    assert compared > 50 and repeating > 4
