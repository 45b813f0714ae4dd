"""Optimizers that read across the iterations of a loop that is cut into stages."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.ops.effects import StageReduce
from compiler.program import Program
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.rank.executor import RankExecutor

FUNCTIONS = """\
fn columns(x[..., r, c]) {
  return mean(x, over r)
}
fn bounded(x[..., r, c]) {
  return minimum(x, ones(r, c)) + full(0.5, r, c)
}
fn halves(x[..., r, c]) {
  return mean(merge(x, (r, c) -> m), over m)
}
fn moved(x[..., r, c]) {
  return shift(x, r)
}
fn turned(x[..., r, c]) {
  return flip(x, over r)
}
fn sums(x[..., r, c]) {
  return cumsum(x, over r)
}
fn best(x[..., r, c]) {
  dim j = 2
  v, i = top_k(x, over r -> j)
  return sum(v, over j)
}
fn gram(x[..., r, c]) {
  y[..., r, q] = x @ rename(x, r -> q)
  return sum(y)
}
fn numbered(x[..., r, c]) {
  return x * cast(iota(r), master)
}
fn swapped(x[..., r, c]) {
  y = rename(x, (r, c) -> (p, q))
  return rename(y, (p, q) -> (c, r))
}
fn places(x[..., r, c]) {
  return cast(iota(r), master) + zeros(r, c)
}
fn inside(x[..., r, c]) {
  y = x
  repeat 2 as again {
    y = y - mean(y, over r)
  }
  return y
}
fn regrouped(x[..., r, c]) {
  z = merge(x, (r, c) -> m)
  dim g = 3
  return max(split(z, m -> (g, k)), over k)
}
"""

PIPELINE = "pipeline block on pp, schedule {}"


def source(step: str, rule: str = PIPELINE.format("gpipe(microbatches = 2)"), count: int = 6, more: str = "") -> Source:
    """A chain of gains and matrices, a loop of `count`, under an optimizer with the step."""
    return Source(
        "across.par",
        f"use std.optimizers\n{FUNCTIONS}optimizer mine(lr) {{\n{more}  w = w - lr * ({step})\n}}\n"
        f"model m {{\n  dim b = 4, d = 4, f = 6\n  input x, y : f64[b,d]\n  weight a[d,f] ~ normal(0.4)\n"
        f"  t[b,f] = x @ a\n  h = x * (1.0 + mean(t, over f))\n  repeat {count} as block {{\n"
        f"    weight w[d] ~ uniform(0.5, 1.5)\n    weight u[d,f] ~ normal(0.4)\n    v[b,f] = h @ u\n"
        f"    h = h * w + 0.1 * mean(v, over f)\n  }}\n  e = h - y\n  loss mean(e * e)\n}}\n"
        f"strategy s for m {{\n  mesh (pp = 2, dp = 2, tp = 2)\n"
        f"  {rule}\n  split b on dp\n  split f on tp\n  shard optimizer on dp\n}}\n"
        f"job fit {{\n  train m using s\n  optimizer mine(lr = 0.1)\n  precision f64\n}}\n",
    )


def reductions(program: Program) -> list[list[tuple[str, str, int]]]:
    """Of each class: what is agreed on between stages (weight, reduction, elements)."""
    return [
        [
            (i.op.key.partition(".update")[0], i.op.fn, i.outputs[0].type.elements)
            for f in cls.functions
            for i in f.body.nodes
            if isinstance(i.op, StageReduce)
        ]
        for cls in program.classes
    ]


STEPS = {
    "norm": ("g / sqrt(sum(g * g) + 1e-8)", {("block.w", "sum", 1), ("block.u", "sum", 1)}),
    "mean": ("g - mean(g)", {("block.w", "sum", 1), ("block.u", "sum", 1)}),
    "max": ("g / (max(abs(g)) + 0.1)", {("block.w", "max", 1), ("block.u", "max", 1)}),
    "min": ("g - min(g)", {("block.w", "max", 1), ("block.u", "max", 1)}),
    "columns": ("g - columns(g)", {("block.w", "sum", 4)}),  # of `u` the rows are its own
    "merged": ("g - halves(g)", {("block.w", "sum", 1)}),
    "constants": ("bounded(g)", set()),
    "own": ("g / (norm(g) + max(abs(g), over own) + 0.1) - mean(g, over own)", set()),
}
RULES = (
    PIPELINE.format("gpipe(microbatches = 2)"),
    PIPELINE.format("zero_bubble(microbatches = 2), cuts [1]"),
    PIPELINE.format("interleaved(microbatches = 2, chunks = 3)"),
    PIPELINE.format("interleaved(microbatches = 2, chunks = 2), cuts [1, 4, 5]"),
    PIPELINE.format("one_f_one_b(microbatches = 2), cuts [0]"),  # a stage with no iteration has nothing to add
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", STEPS)
def test_stages_agree_on_what_is_read_across_them(name: str, rule: str) -> None:
    step, expected = STEPS[name]
    compiled = compile_job(evaluate(source(step, rule)))
    found = reductions(compiled.program)
    assert all(set(f) == expected and len(f) == len(expected) for f in found), found
    assert not verify(compiled.program)
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, [r for r in proof.rows if not r.ok]


@pytest.mark.parametrize("name", ["norm", "max", "columns"])
def test_devices_by_themselves_agree_too(name: str) -> None:
    compiled = compile_job(evaluate(source(STEPS[name][0], RULES[3])))
    assert prove(compiled.training, compiled.program, executor=RankExecutor).ok


REFUSED = {
    "moved": "`shift` reads all iterations of `block`",
    "turned": "`flip` reads all iterations of `block`",
    "sums": "`cumsum` reads all iterations of `block`",
    "best": "`top_k` reads all iterations of `block`",
    "gram": "`@` pairs iterations of `block` with each other",
    "numbered": "`iota` counts iterations of `block`",
    "regrouped": "`split` regroups iterations of `block`",
    "inside": "`sum`, inside a `repeat`, reads all iterations of `block`",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stages_cannot_compute_is_refused_where_it_stands(name: str) -> None:
    text = source(f"g * mean({name}(g))")
    with pytest.raises(ParcError) as caught:
        compile_job(evaluate(text))
    (found,) = caught.value.diagnostics
    assert found.code == "E0554" and found.message.startswith(REFUSED[name]), found
    assert found.span is not None
    word = REFUSED[name].split("`")[1]
    assert (word if word != "sum" else "mean") in text.text[found.span.start : found.span.end]
    assert found.help and "pipeline" in found.help
    compile_job(evaluate(Source("across.par", text.text.replace(RULES[0], "split d on pp"))))


def test_what_cannot_be_had_in_pieces_is_underlined_not_its_readers() -> None:
    """Once, however many read it."""
    text = source("apart(g)")
    apart = "fn apart(x[..., r, c]) {\n  p = cast(iota(r), master)\n  y = x * (1.0 + p)\n  return y - x * exp(-p)\n}\n"
    text = Source("across.par", apart + text.text)
    with pytest.raises(ParcError) as caught:
        compile_job(evaluate(text))
    (found,) = caught.value.diagnostics
    assert found.code == "E0554" and found.span is not None
    assert text.text[found.span.start : found.span.end] == "iota(r)"


@pytest.mark.parametrize(
    ("new", "rule", "why"),
    [
        ("swapped(w)", "", "iterations of `block` become elements of `d`"),
        ("swapped(w)", "split d on tp", "is split on tp, but stands for iterations of `block`"),
        ("places(w)", "", "`iota` counts iterations of `block`"),
    ],
)
def test_what_a_weight_becomes_may_be_wrong_as_well(new: str, rule: str, why: str) -> None:
    """As many layers as elements, so that the shapes agree."""
    text = (
        f"{FUNCTIONS}optimizer mine(lr) {{\n  w = {new} + lr * 0.0\n}}\n"
        "model m {\n  dim b = 4, d = 4\n  input x : f64[b,d]\n  h = x\n"
        "  repeat 4 as block {\n    weight w[d]\n    h = h * w\n  }\n  loss mean(h * h)\n}\n"
        f"strategy s for m {{\n  mesh (pp = 2, tp = 2)\n  {RULES[0]}\n  {rule or 'split b on tp'}\n}}\n"
        "job fit {\n  train m using s\n  optimizer mine(lr = 0.1)\n  precision f64\n}\n"
    )
    with pytest.raises(ParcError) as caught:
        compile_job(evaluate(Source("across.par", text)))
    (found,) = caught.value.diagnostics
    assert found.code == "E0554" and why in found.message, found


def test_a_mean_over_layers_of_one_is_no_message() -> None:
    compiled = compile_job(evaluate(source("g - mean(g)", "split d on pp")))
    assert reductions(compiled.program) == [[]]


@pytest.mark.parametrize("pp", [1, 2])
def test_a_norm_over_all_layers_is_that_of_the_serial_program(pp: int) -> None:
    """As a user writes it who does not think of stages."""
    text = """\
param pp = 2 in {1, 2}

optimizer layerwise(lr) {
  w = w - lr * g / sqrt(sum(g * g) + 1e-8)
}

model m {
  dim b = 4, d = 4
  input x, y : f32[b,d]
  h = x
  repeat 2 as block {
    weight w[d] ~ uniform(0.5, 1.5)
    h = h * w
  }
  e = h - y
  loss mean(e * e)
}

strategy stages for m {
  mesh (pp = pp)
  if pp > 1 {
    pipeline block on pp, schedule gpipe(microbatches = 2)
  } else {
    microbatches 2 over b
  }
}

job fit {
  train m using stages
  optimizer layerwise(lr = 0.1)
}
"""
    compiled = compile_job(evaluate(Source("optimizer_over_layers.par", text), {"pp": str(pp)}))
    assert prove(compiled.training, compiled.program).ok


def test_a_weight_of_many_chunks_adds_up_where_its_gradient_arises() -> None:
    """Read before the loop and in it: the other chunks of its stages have zeros of it."""
    text = source("g", PIPELINE.format("interleaved(microbatches = 2, chunks = 3)")).text
    text = text.replace("v[b,f] = h @ u\n", "v[b,f] = h @ u\n    v = v + 0.1 * (h @ a)\n")
    compiled = compile_job(evaluate(Source("across.par", text)))
    assert not verify(compiled.program) and prove(compiled.training, compiled.program).ok
