"""Rows of loops and scopes that are cut into stages: several trained loops, layers written out, ends that have only the
embedding or the head; alone and with splits, shards, recomputation and every schedule."""

from __future__ import annotations

import pytest

import parc
from compiler.driver import Compiled
from compiler.ops.effects import Recv, Send
from compiler.program import Program
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.some import some_pairs
from tests.stages.build import CLUSTER, judged

HEAD = f"""
use std.devices (a100_80)
use std.layers
use std.optimizers
use std.tactics
{CLUSTER}
"""
ONE = """
model m() {
  dim b = 24, d = 4, v = 6
  input words, targets : int32[b] in 0..v
  weight table[v,d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat 6 as block {
    x = x + mlp(layer_norm(x), 8)
  }
  logits[b,v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}
"""
TWO = """
model m() {
  dim b = 24, d = 4, v = 6
  input words, targets : int32[b] in 0..v
  weight table[v,d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat 3 as dense {
    x = x + mlp(layer_norm(x), 8)
  }
  x = tanh(x) + x
  repeat 5 as experts {
    x = x + gelu(layer_norm(x)) * 0.5 + mlp(x, 4)
  }
  logits[b,v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}
"""
CODEC = """
model m() {
  dim b = 24, s = 3, d = 4, v = 6
  input words, said, targets : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x = take(table, words, over v)
  repeat 3 as encoder {
    x = x + mlp(layer_norm(x), 8)
  }
  memory = layer_norm(x)
  y = take(table, said, over v)
  repeat 4 as decoder {
    weight w[d] ~ normal(0.5)
    y = y + mlp(layer_norm(y), 8) + memory * w
  }
  logits[b,s,v] = layer_norm(y) @ table
  loss cross_entropy(logits, targets, over v)
}
"""
IMAGES = """
fn residual(z[b,y,x,c]) {
  r = conv(relu(group_norm(z, groups = 2)), 4)
  return z + r
}

model m() {
  dim b = 24, y = 4, x = 4, c = 1, v = 6
  input image : f32[b,y,x,c]
  input label : int32[b] in 0..v
  z = conv(image, 4) as stem
  z = residual(z) as first
  z = residual(z) as second
  z = residual(z) as third
  logits = linear(mean(relu(z), over (y, x)), over v, std = 0.3) as head
  loss cross_entropy(logits, label, over v)
}
"""
INNER = ONE.replace("  repeat 6 as block {", "  repeat 2 as outer {\n  repeat 3 as block {").replace(
    "8)\n  }", "8)\n  }\n  }"
)
MODELS = {"one": ONE, "two": TWO, "codec": CODEC, "images": IMAGES, "inner": INNER}
ROWS = {
    "one": "block",
    "two": "dense, experts",
    "codec": "encoder, decoder",
    "images": "stem, first, second, third, head",
}
SCHEDULES = {
    "gpipe": "gpipe(microbatches = 2, over = b)",
    "one_f_one_b": "one_f_one_b(microbatches = 4, over = b)",
    "interleaved": "interleaved(microbatches = 3, chunks = 2, over = b)",
    "zero_bubble": "zero_bubble(microbatches = 4, over = b)",
}
WITH = {
    "dp": ("dp = 2", ("data_parallel(dp)",)),
    "zero_1": ("z = 2", ("data_parallel(z)", "optimizer_parallel(z, 1)")),
    "zero_2": ("z = 2", ("data_parallel(z)", "optimizer_parallel(z, 2)")),
    "zero_3": ("z = 2", ("fsdp(z)",)),
    "tp": ("tp = 2", ("split f, co on tp",)),
    "recompute": ("", ("recompute",)),
}


def text(
    model: str, pipeline: str, stages: int, mesh: str = "", rules: tuple[str, ...] = (), opt: str = "", frozen: str = ""
) -> str:
    axes = ", ".join(filter(None, (f"pp = {stages}", mesh)))
    lines = "\n".join(f"  {r}" for r in (*rules, pipeline))
    opt = opt or "adamw(lr = 1e-2, clip = 1.0)"
    job = f"job j {{\n  train m() on pod(devices = {stages * 2 if mesh else stages}) using s\n  optimizer {opt}\n"
    return f"{HEAD}{MODELS[model]}strategy s for m {{\n  mesh ({axes})\n{lines}\n}}\n\n{job}{frozen}}}\n"


def row(model: str, schedule: str, cuts: str = "") -> str:
    return f"pipeline {ROWS[model]} on pp, schedule {SCHEDULES[schedule]}{cuts and f', cuts {cuts}'}"


@pytest.mark.parametrize(("model", "schedule"), some_pairs(ROWS, list(SCHEDULES), 2, ["interleaved"]))
def test_rows_under_all_schedules(model: str, schedule: str) -> None:
    judged(text(model, row(model, schedule), 2), priced=True)


TRIPLES = [
    pytest.param(m, s, w, marks=() if (i + j + k) % 6 == 0 else pytest.mark.nightly)
    for i, m in enumerate(ROWS)
    for j, s in enumerate(SCHEDULES)
    for k, w in enumerate(WITH)
]
"""By default each model under each schedule with another of them."""


@pytest.mark.parametrize(("model", "schedule", "more"), TRIPLES)
def test_rows_with_something_else(model: str, schedule: str, more: str) -> None:
    mesh, rules = WITH[more]
    if model == "images":
        rules = tuple(r.replace("split f, co", "split co") for r in rules)
    else:
        rules = tuple(r.replace("split f, co", "split f") for r in rules)
    judged(text(model, row(model, schedule), 2, mesh, rules))


@pytest.mark.parametrize(
    ("stages", "schedule", "cuts"),
    [
        (4, "one_f_one_b", "[0, 3, 6]"),  # the embedding alone, and the head
        (3, "zero_bubble", "[0, 6]"),
        (3, "gpipe", "[0, 2]"),  # the embedding alone
        (3, "one_f_one_b", "[5, 6]"),  # the head alone
        (2, "interleaved", "[0, 3, 6]"),  # both on devices that have layers besides
    ],
)
def test_ends_without_iterations(stages: int, schedule: str, cuts: str) -> None:
    found = judged(text("one", row("one", schedule, cuts), stages), priced=True)
    counts = [sum(r.count for r in c.ranges) for c in found.program.classes for _ in c.groups]
    assert sum(counts) == 6 and (0 in counts) == (schedule != "interleaved")


@pytest.mark.parametrize(
    ("stages", "cuts"), [(3, "[1, 3]"), (3, "[0, 3]"), (4, "[3, 6, 8]"), (5, "[0, 2, 4, 8]"), (4, "[2, 5, 6]")]
)
def test_cuts_count_through_the_row(stages: int, cuts: str) -> None:
    judged(text("two", row("two", "one_f_one_b", cuts), stages), priced=True)


@pytest.mark.parametrize("stages", [3, 7])
def test_what_all_iterations_read_goes_from_stage_to_stage(stages: int) -> None:
    """The encoder's memory: no stage sends it more than once, and stages with as many iterations stay one class."""
    found = judged(text("codec", row("codec", "one_f_one_b"), stages))
    assert found.staged.cuts[0].label == "encoder"
    for phase in ("F", "B"):
        for c in found.program.classes:
            for f in c.functions:
                sent = [i.op.name for i in f.body.nodes if isinstance(i.op, Send)]
                assert f.phase != phase or len(set(sent)) == len(sent)
    assert _hops(found.program) == {1, -1}
    if stages == 7:
        assert [c.groups for c in found.program.classes] == [(0,), (1,), (2,), (3,), (4, 5), (6,)]


def test_what_some_iterations_read_is_not_handed_on() -> None:
    """Stages alike but for their messages are classes of their own: the last that has layers hands nothing on."""
    rule = "pipeline decoder on pp, schedule gpipe(microbatches = 2, over = b), cuts [0, 2, 4]"
    judged(text("codec", rule, 4, "tp = 2", ("split f on tp",)), priced=True)


def _hops(program: Program) -> set[int]:
    ops = (i.op for c in program.classes for f in c.functions for i in f.body.nodes)
    return {op.to if isinstance(op, Send) else op.source for op in ops if isinstance(op, (Send, Recv))}


@pytest.mark.parametrize("frozen", ["encoder", "decoder"])
def test_frozen_parts(frozen: str) -> None:
    judged(text("codec", row("codec", "one_f_one_b"), 3, frozen=f"  frozen {frozen}\n"))


LARGEST = """
optimizer largest(lr) {
  w = w + lr * g * max(-1.0 - abs(g)) * (1.0 + mean(w * w))
}
"""


@pytest.mark.parametrize(("model", "stages", "cuts"), [("one", 3, "[0, 6]"), ("two", 4, "[3, 5, 8]")])
def test_maxima_over_loops_that_not_all_stages_have(model: str, stages: int, cuts: str) -> None:
    """A stage without iterations has no part in a maximum: not even zero, where all are below."""
    judged(LARGEST + text(model, row(model, "one_f_one_b", cuts), stages, opt="largest(lr = 0.1)"))


def test_a_row_is_in_the_order_of_the_model() -> None:
    with pytest.raises(ParcError) as caught:
        compiled("two", "pipeline experts, dense on pp, schedule gpipe(microbatches = 2)")
    (found,) = caught.value.diagnostics
    assert found.code == "E0552" and "`experts` needs what `dense` makes" in found.message and found.span is not None


def compiled(model: str, pipeline: str, stages: int = 2) -> Compiled:
    return parc.compile(Source("main.par", text(model, pipeline, stages)))


@pytest.mark.parametrize(
    ("model", "pipeline", "code", "says"),
    [
        ("one", "pipeline block on pp, cuts [0, 0, 6]", "E0409", "without iterations"),
        ("one", "pipeline block on pp, cuts [2, 2, 4]", "E0409", "without iterations"),
        ("one", "pipeline block on pp, cuts [2, 4, 7]", "E0409", "without iterations"),
        ("images", "pipeline stem, first, head on pp, cuts [0, 1, 2]", "E0409", "without iterations"),
        ("images", "pipeline stem, first, second, third on pp, cuts [1, 3, 4]", "E0409", "without iterations"),
        ("images", "pipeline stem, first, head on pp", "E0408", "have 3 parts, too few for 4 stages"),
        ("images", "pipeline stem, frist, second, head on pp", "E0408", "no scope called `frist`"),
        ("images", "pipeline stem, first, stem, head on pp", "E0415", "`stem` is cut twice"),
        ("images", "pipeline first, stem, second, head on pp", "E0552", "`stem`"),
        ("inner", "pipeline block on pp, cuts [1, 2, 7]", "E0409", "without iterations"),
    ],
)
def test_what_is_wrong_with_a_row(model: str, pipeline: str, code: str, says: str) -> None:
    with pytest.raises(ParcError) as caught:
        compiled(model, pipeline, 4)
    found = caught.value.diagnostics[0]
    assert found.code == code and says in found.message and found.span is not None and found.help, str(found)


def test_a_loop_that_nothing_needs_is_not_cut() -> None:
    source = text("one", "pipeline block on pp", 2)
    lines = source.splitlines()
    loss = next(i for i, line in enumerate(lines) if line.strip().startswith("loss "))
    lines[loss] = "  loss mean(x0)"
    first = next(i for i, line in enumerate(lines) if line.strip().startswith("repeat "))
    lines.insert(first, "  weight free[d]\n  x0 = x * free")
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("main.par", "\n".join(lines)))
    found = caught.value.diagnostics[0]
    assert found.code == "E0410" and "`block`" in found.message and found.span is not None and found.help
