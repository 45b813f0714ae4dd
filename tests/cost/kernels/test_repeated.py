"""Work that several stages do alike is told, and is just what the devices compute more."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import parc
from compiler.cost.kernels.alike import alike
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
  }}
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
EACH = {ONE: "\n  place h on pp", ENCODER: "\n  place h on pp\n  place encoder on pp"}
RULES = {
    "gpipe": "pipeline block on pp, schedule gpipe(microbatches = 4)",
    "one_f_one_b": "pipeline block on pp, schedule one_f_one_b(microbatches = 4)",
    "interleaved": "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)",
    "zero_bubble": "pipeline block on pp, schedule zero_bubble(microbatches = 4)",
}


def compiled(prologue: str, stages: int, rule: str) -> Compiled:
    text = MODEL.format(prologue=prologue, stages=stages, rule=rule)
    return compile_job(evaluate(Source("m.par", text)))


def computed(found: Compiled) -> float:
    return sum(program_flops(found.program).values())


@pytest.mark.parametrize("prologue", [ONE, ENCODER], ids=["product", "encoder"])
@pytest.mark.parametrize("schedule", RULES)
@pytest.mark.parametrize("again", ["", "\n  recompute"])
def test_what_is_told_is_what_is_computed_more(prologue: str, schedule: str, again: str) -> None:
    """Than by one stage."""
    rules = RULES[schedule] + again
    alone, split = (compiled(prologue, stages, rules + EACH[prologue]) for stages in (1, 2))
    handed = compiled(prologue, 2, rules)
    more = sum(r.more for r in repeated(split))
    assert more > 0 and not repeated(handed)
    assert computed(split) - computed(alone) == more
    (warning,) = repeated_work(split)
    assert warning.severity == "warning" and warning.span == split.job.strategy.pipelines[0].span
    assert "`h`" in warning.message and "place h on pp" in (warning.help or "") and not repeated_work(handed)


def test_one_stage_repeats_nothing() -> None:
    assert not repeated(compiled(ENCODER, 1, "pipeline block on pp, schedule gpipe(microbatches = 4)"))


@pytest.mark.parametrize("name", ["gpt", "llama", "pangu_200b", "towers"])
def test_examples_are_fine(name: str) -> None:
    params = {"pp": 2, "microbatches": 4} if name in ("gpt",) else {}
    found: list[Diagnostic] = []
    parc.compile(EXAMPLES / f"{name}.par", params=params, warned=found.append)
    assert not found


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1000), marks=pytest.mark.nightly)], ids=str)
def test_stages_of_a_drawn_model_compute_what_one_does(seeds: range) -> None:
    """Less, where one computes again what stages have sent each other."""
    compared = 0
    for seed in seeds:
        case = draw(seed)
        axis = re.search(r"pipeline [\w., ]+? on (\w+)", case.text)
        if not axis:
            continue
        mesh = tuple((name, 1 if name == axis[1] else size) for name, size in case.mesh)
        try:
            whole = re.sub(r", cuts \[.*?\]", "", replace(case, mesh=mesh).text)
            split, alone = (compile_job(evaluate(Source("drawn.par", text))) for text in (case.text, whole))
        except ParcError:
            continue
        assert not repeated(split), seed
        apart = computed(split) - computed(alone)
        assert apart == 0 or (apart < 0 and "recompute" in case.text and split.split.staged.once), seed
        compared += 1
    assert compared > len(seeds) / 10, compared


ALONG = """\
use std.layers
use std.optimizers (sgd)
use std.tactics

model m {
  dim b = 4, s = 16, d = 32, v = 64
  input tokens, targets : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 2 as block {
    x = x + grouped_attention(rms_norm(x), 4, 2)
    z, odds = moe(rms_norm(x), experts = 8, width = 64PIECES)
    x = x + z
  }
  loss cross_entropy(linear(x, over v, bias = false), targets, over v)
}

strategy s for m {
  mesh (p = 2, cp = SIZE)
  RULE
}

job fit {
  train m using s
  optimizer sgd(lr = 0.01)
}
"""


def along(rule: str, size: int = 4, pieces: str = "") -> Compiled:
    return compile_job(
        evaluate(Source("m.par", ALONG.replace("RULE", rule).replace("SIZE", str(size)).replace("PIECES", pieces)))
    )


@pytest.mark.parametrize(
    "rule", ("context_parallel(cp)", "split s on cp\n  split b on p", "ulysses(cp)\n  split b on p\n  recompute")
)
def test_what_devices_along_an_axis_repeat_is_told(rule: str) -> None:
    split, alone = along(rule, 2), along(rule, 1)
    more = alike(split.program)["cp"].more
    assert computed(split) - computed(alone) == more > 0
    warning, *_ = repeated_work(split)
    assert warning.code == "E0559" and "along `cp`" in warning.message and "routed_experts.a`" in warning.message
    line = split.job.strategy.splits[0]
    assert warning.span == (line.by or line.span)
    (_, place), *_ = warning.notes
    assert place is not None and place.source == "<std>/layers.par"
    assert "`e`" in (warning.help or "")


@pytest.mark.parametrize(
    ("rule", "pieces"),
    (
        ("split e, s on cp\n  split b on p", ""),  # what the help says
        ("split e, s on cp\n  split b on p\n  recompute", ""),
        ("split s, p on cp\n  split b on p", ", pieces = 4"),
    ),
)
def test_where_it_is_split_nothing_is_told(rule: str, pieces: str) -> None:
    assert not [d for d in repeated_work(along(rule, pieces=pieces)) if "`cp`" in d.message]


def test_an_axis_that_no_rule_names_is_told_as_such() -> None:
    """By E0416, not by this as well."""
    found = along("split e, s on cp")
    assert alike(found.program)["p"].more > 0 and not repeated_work(found)


def test_an_axis_of_a_drawn_model_computes_more_by_what_is_told() -> None:
    compared = repeating = 0
    for seed in range(200):
        case = draw(seed)
        axes = [name for name, size in case.mesh if size > 1]
        if len(axes) != 1 or re.search(rf"pipeline \S+ on {axes[0]}|place \S+ on {axes[0]}| pad$", case.text, re.M):
            continue
        try:
            split, alone = (
                compile_job(evaluate(Source("drawn.par", of.text)))
                for of in (case, replace(case, mesh=tuple((name, 1) for name, _ in case.mesh)))
            )
        except ParcError:
            continue
        found = alike(split.program)
        more = found[axes[0]].more if found else 0.0
        assert computed(split) - computed(alone) == pytest.approx(more), seed
        compared += 1
        repeating += more > 0
    assert compared > 6 and repeating > 1
