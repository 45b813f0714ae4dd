"""Names are for people: a file under other names gives the same program, plan, traffic, memory and price."""

from __future__ import annotations

from typing import Any

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.memory.peak import memory_use
from compiler.text import parse_program, show
from compiler.traffic import collectives
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from tests.golden.cases import CASES, EXAMPLES, Case
from tests.property.costs import cluster_text
from tests.property.draw_strategy import draw
from tests.renaming import Names, difference, drawn_names, rename

SEEDS = range(3000, 3008)
NIGHTLY = range(3030, 4000)


def compiled(text: str, params: dict[str, str]) -> Compiled | tuple[str, ...]:
    """What becomes of a file, or the codes of its errors."""
    try:
        return compile_job(evaluate_file(Source("drawn.par", text, str(EXAMPLES / "drawn.par")), params).job)
    except ParcError as error:
        return tuple(d.code for d in error.diagnostics)


def figures(found: Compiled | tuple[str, ...]) -> Any:
    """All that must be the same but for names."""
    if isinstance(found, tuple):
        return found
    program = found.program
    assert verify(program) == ()
    assert parse_program(show(program)) == program
    memory = [
        [(kind, p.bytes, list(p.roles.items())) for kind, p in use.items()] for use in memory_use(program).values()
    ]
    result = [program, memory, collectives(program)]
    if found.job.cluster is not None:
        e = api.estimate(found)
        t = e.timeline
        result += [t.step_seconds, t.mfu, t.hfu, t.bubble, t.traffic, t.exposed_by_axis]
        result += [[(m.peak, m.reserved, m.needed, list(m.roles.items())) for m in e.memory]]
        result += [[(s.products, s.vectors, s.update, s.host, s.bubble, s.exposed, s.links, s.sends) for s in t.spent]]
        result += [[h.seconds for h in e.helps], [f.moment.roles for f in e.fullest]]
    return result


def same(text: str, names: dict[str, str], params: dict[str, str] | None = None) -> str | None:
    """Where the file under these names gives something else; None if nowhere."""
    params = params or {}
    before = figures(compiled(text, params))
    after = figures(compiled(rename(text, names), {names.get(k, k): v for k, v in params.items()}))
    return difference(before, after, Names())


TOWERS = """
use std.optimizers

fn half(x[b,d], width) {
  dim e = width
  weight w[d,e], u[e,d] ~ normal(0.3)
  return relu(x @ w) @ u
}

fn deep(x[b,d], width) {
  x = half(x, width) as first
  return half(x, width) as second
}

fn nest(x[b,d], width) {
  return deep(x, width) as inner
}

model m() {
  dim b = 8, d = 4
  input x : f32[b,d]
  y = nest(x, 8) as left
  z = nest(y, 8) as right
  loss mean(z * z)
}

strategy s for m {
  mesh (pp = 2)
  place left on pp[1]
  place right on pp[0]
}

job j {
  train m() using s
  optimizer sgd(lr = 0.1)
}
"""

LAYERS = """
use std.devices (a100_80)
use std.optimizers

fn mlp(x[b,d]) {
  dim f = 2 * d
  weight w1[d,f], w2[f,d] ~ normal(0.3)
  y = tanh(x @ w1)
  out[b,d] = y @ w2
  return out
}

model m() {
  dim b = 16, d = 8
  input x : f32[b,d]
  repeat 4 as block {
    x = x + mlp(x)
  }
  loss mean(x * x)
}

cluster pod() {
  device npu = a100_80
  level server = 4 npu over 100 GB/s, 2 us
  level rack = 2 server over 10 GB/s, 5 us
}

strategy s for m {
  mesh (pp = 2, dp = 2, tp = 2)
  split b on dp
  split f on tp
  pipeline block on pp, schedule one_f_one_b(microbatches = 4, over = b)
  recompute block keep block.mlp.out
  shard optimizer on dp
}

job j {
  train m() on pod using s
  optimizer adamw(lr = 0.1, clip = 1.0)
}
"""

KNOWN = [
    (TOWERS, "inner", "graded"),  # was taken for the gradient of `left`: its backward pass went to another stage
    (TOWERS, "inner", "grad"),
    (TOWERS, "y", "left_1"),
    (LAYERS, "y", "again"),  # was taken for something computed again, in another count of FLOPs
    (LAYERS, "y", "again_1"),
    (LAYERS, "dp", "mb"),  # was taken for the micro-batches
    (LAYERS, "dp", "stages"),  # had a row of traffic together with the pipeline
    (LAYERS, "tp", "copy"),
    (LAYERS, "tp", "_"),
    (LAYERS, "dp", "zz"),  # axes in the order of their names
    (LAYERS, "out", "saved"),
    (LAYERS, "out", "kept"),
    (LAYERS, "x", "step"),
    (LAYERS, "x", "total"),
    (LAYERS, "w1", "grad"),
    (LAYERS, "w1", "update"),
    (LAYERS, "w2", "m"),  # an optimizer's state
    (LAYERS, "block", "stages"),
    (LAYERS, "block", "grad"),
    (LAYERS, "mlp", "update"),
    (LAYERS, "d", "block_1"),
    (LAYERS, "rack", "compute"),
    (LAYERS, "j", "loss_scale"),
]


@pytest.mark.parametrize(("text", "old", "new"), KNOWN, ids=lambda x: x if len(x) < 20 else "")
def test_names_that_meant_something(text: str, old: str, new: str) -> None:
    assert same(text, {old: new}) is None


def test_rows_of_traffic_do_not_merge() -> None:
    found = api.estimate(compiled(rename(LAYERS, {"dp": "stages"}), {}))
    plain = api.estimate(compiled(LAYERS, {}))
    renamed = {tuple("dp" if a == "stages" else a for a in over.axes): n for over, n in found.timeline.traffic.items()}
    assert renamed == {over.axes: n for over, n in plain.timeline.traffic.items()}
    assert {"stages", "axis stages"} <= set(found.timeline.traffic)


EXAMPLES_OF_ALL = ("gpt", "resnet", "recsys", "towers", "distill", "mamba", "pangu_200b")
"""What others have besides, drawn models have too; the others with `-m nightly`."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=() if c.name.removeprefix("example_") in EXAMPLES_OF_ALL else pytest.mark.nightly)
        for c in CASES
        if c.name.startswith("example")
    ],
    ids=lambda c: c.name,
)
def test_examples(case: Case) -> None:
    text = case.file.read_text(encoding="utf-8")
    names = drawn_names(text, len(text))
    assert same(text, names, case.params) is None, names


@pytest.mark.parametrize("seed", SEEDS)
def test_drawn_models(seed: int) -> None:
    text = cluster_text(draw(seed))
    names = drawn_names(text, seed)
    assert same(text, names) is None, names


@pytest.mark.nightly
def test_a_thousand_drawn_models() -> None:
    for seed in NIGHTLY:
        test_drawn_models(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_techniques_under_many_names(case: Case) -> None:
    text = case.file.read_text(encoding="utf-8").replace("AXES", case.axes).replace("RULES", "\n  ".join(case.rules))
    for seed in range(10):
        names = drawn_names(text, seed)
        assert same(text, names, case.params) is None, names
