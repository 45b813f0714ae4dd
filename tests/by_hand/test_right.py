"""Implementations of the standard library compute what the layers do that they replace, alone and with all else."""

from __future__ import annotations

import re

import pytest

import parc
from compiler.driver import compile_job
from compiler.text import show
from compiler.text.stage_parser import parse_stage
from compiler.text.stages import show_stage
from compiler.traffic import collectives
from compiler.walk import graph_values
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove_evaluation
from tests.by_hand.files import file
from tests.golden.test_known import communication
from tests.stages.build import judged

RIGHT = {
    "tensor parallel": ("mlp", "tensor_parallel_mlp(tp)", "tp = 4", ""),
    "sequence parallel": ("mlp", "sequence_parallel_mlp(tp)", "tp = 2", "split s on tp for activations"),
    "overlapped": ("mlp", "overlapped_mlp(tp)", "tp = 4", "split s on tp for activations"),
    "two levels": ("mlp", "two_level_mlp(inner, outer)", "outer = 2, inner = 2", ""),
    "gathered": ("attention", "gathered_attention(cp)", "cp = 4", "split s on cp for activations"),
    "ulysses": ("attention", "ulysses_attention(cp)", "cp = 2", "split s on cp for activations"),
    "ring": ("attention", "ring_attention(cp)", "cp = 4", "split s on cp for activations"),
    "grouped ring": ("grouped_attention", "ring_grouped_attention(cp)", "cp = 4", "split s on cp for activations"),
    "blocked": ("attention", "blocked_attention(2)", "dp = 2", "split b on dp\nrecompute block.attention"),
    "experts": ("routed_experts", "dispatched_experts(ep)", "ep = 2", "split b on ep"),
    "banded": ("conv", "banded_conv(sp)", "sp = 3", "split y on sp for activations"),
}


@pytest.mark.parametrize(("layer", "by", "mesh", "rules"), RIGHT.values(), ids=RIGHT)
def test_implementations_compute_what_they_replace(layer: str, by: str, mesh: str, rules: str) -> None:
    judged(file(layer, by, mesh, rules))


TWO_DIMS = """fn two_dims(x[b,s/r,d/c], r, c) {
  weight w1[d/r,f/c], b1[f/c], w2[f/r,d/c], b2[d/c]
  u[b,s/r,f/c] = all_gather(x, c, over d) @ all_gather(w1, r, over d) + b1
  y[b,s/r,d/c] = all_gather(gelu(u), c, over f) @ all_gather(w2, r, over f) + b2
  return y
}
"""


RULES = {
    "as between layers": ("split s on r for activations\nsplit d on c for activations", 4),
    "in parts": ("split s on r for activations\nmicrobatches 2 over b", 4 + 1),  # what passes between layers is whole
    "sharded": (
        "split s on r for activations\nsplit d on c for activations\nsplit b on dp\nshard weights, optimizer on dp",
        4 + 4,
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_pieces_in_two_dims_are_never_whole(name: str) -> None:
    """Weights, arguments and results enter and leave dim by dim: what is not cut yet, or is joined, stays in pieces."""
    rules, gathers = RULES[name]
    mesh = "r = 2, c = 2" + (", dp = 2" if name == "sharded" else "")
    text = file("mlp", "two_dims(r, c)", mesh, rules, own=TWO_DIMS, uses="use std.layers (gelu)\n")
    judged(text)
    program = parc.compile(Source("main.par", text)).program
    assert communication(program, 0)["F", "block"]["all_gather"] == gathers


SENT = {
    "tensor parallel": {("F", "block"): {"all_reduce": 1}, ("B", "block"): {"all_reduce": 1}},
    "sequence parallel": {
        ("F", "block"): {"all_gather": 1, "reduce_scatter": 1},
        ("B", "block"): {"all_gather": 2, "reduce_scatter": 1},
    },
    "overlapped": {
        ("F", "block"): {"shift_across": 3},
        ("F", "turn"): {"shift_across": 2},
        ("B", "block"): {"shift_across": 3},
        ("B", "turn"): {"shift_across": 2},
    },
    "two levels": {
        ("F", "block"): {"reduce_scatter": 1, "all_reduce": 1, "all_gather": 1},
        ("B", "block"): {"all_gather": 1, "all_reduce": 1},
    },
    "gathered": {("F", "block"): {"all_gather": 2}, ("B", "block"): {"all_gather": 2, "reduce_scatter": 2}},
    "ulysses": {("F", "block"): {"all_to_all": 4}, ("B", "block"): {"all_to_all": 8}},
    "ring": {("F", "turn"): {"shift_across": 3}, ("B", "turn"): {"shift_across": 2}},
    "grouped ring": {("F", "turn"): {"shift_across": 3}, ("B", "turn"): {"shift_across": 2}},
    "blocked": {},
    "banded": {("F", "block"): {"shift_across": 2}, ("B", "block"): {"shift_across": 2}},
}
"""In the loops, by function."""


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_is_what_is_written(name: str) -> None:
    """And nothing else in the forward pass; the backward pass sends what belongs to it."""
    layer, by, mesh, rules = RIGHT[name]
    program = parc.compile(Source("main.par", file(layer, by, mesh, rules))).program
    found = {k: v for k, v in communication(program, 0).items() if k[1] != "-"}
    assert found == SENT[name]


@pytest.mark.parametrize("name", ["overlapped", "two levels", "ring", "experts", "banded"])
def test_axes_may_have_one_device(name: str) -> None:
    layer, by, mesh, rules = RIGHT[name]
    judged(file(layer, by, re.sub(r"= \d", "= 1", mesh), rules))


GROUPED = [
    "causal = false, scale = 0.3, size = 6",
    'window = 3, bias = true, out_bias = true, norm = "rms", cap = 3.0, sinks = true',
    'norm = "rms_1p", sinks = true, amplitude = 1.1, speeds = llama3_speeds(over half, 10000.0, 8.0, 1.0, 4.0, 8)',
]
"""What else published models ask of grouped attention."""


@pytest.mark.parametrize("order", ["", "zigzag "])
@pytest.mark.parametrize("options", GROUPED)
def test_a_ring_does_all_that_grouped_attention_does(options: str, order: str) -> None:
    _, by, mesh, rules = RIGHT["grouped ring"]
    text = file(
        "grouped_attention", by, mesh, rules.replace("for", f"{order}for"), uses="use std.layers (llama3_speeds)\n"
    )
    text = text.replace("grouped_attention(y, 4, 2)", f"grouped_attention(y, 4, 2, {options})")
    judged(text.replace("d = 8", "d = 8, half = 1"))


OWN = {
    "two-dimensional": (
        "mlp",
        "plane(rows, columns)",
        "rows = 2, columns = 2",
        "split d on rows",
        """
fn plane(x[b, s, d/rows], rows, columns) {
  weight w1[d/rows, f/columns], b1[f/columns], w2[f/columns, d/rows], b2[d/rows]
  part[b, s, f/columns] = x @ w1
  u = all_reduce(part, rows) + b1
  back[b, s, d/rows] = gelu(u) @ w2
  return all_reduce(back, columns) + b2
}
""",
    ),
    "hierarchical all-to-all": (
        "mlp",
        "wide(outer, inner)",
        "outer = 2, inner = 2",
        "split s on outer for activations\nsplit b on inner",
        """
fn wide(x[b, s/outer/inner, d], outer, inner) {
  weight w1[d, f], b1[f], w2[f, d], b2[d]
  there = all_to_all(all_to_all(x, inner, over s -> b), outer, over s -> b)
  y[b, s, d] = gelu(there @ w1 + b1) @ w2
  back = all_to_all(all_to_all(y, outer, over b -> s), inner, over b -> s)
  return back + b2
}
""",
    ),
    "no message at all": (
        "mlp",
        "here(tp)",
        "tp = 2",
        "",
        """
fn here(x[b/tp, s, d], tp) {
  weight w1[d, f], b1[f], w2[f, d], b2[d]
  y[b/tp, s, d] = gelu(x @ w1 + b1) @ w2
  return y + b2
}
""",
    ),
    "a maximum over devices": (
        "softmaxed",
        "spread(tp)",
        "tp = 4",
        "split d on tp",
        """
fn softmaxed(x) {
  return rows(x)
}

fn rows(x[b, s, d]) {
  e = exp(x - stop_gradient(max(x, over d)))
  return e / sum(e, over d)
}

fn spread(x[b, s, d/tp], tp) {
  top = all_reduce(max(x, over d), tp, "max")
  e = exp(x - stop_gradient(top))
  return e / all_reduce(sum(e, over d), tp)
}
""",
    ),
}
"""Implementations that no library has."""


@pytest.mark.parametrize(("layer", "by", "mesh", "rules", "own"), OWN.values(), ids=OWN)
def test_ones_own_implementations(layer: str, by: str, mesh: str, rules: str, own: str) -> None:
    judged(file(layer, by, mesh, rules, own=own, uses="use std.layers (gelu)\n"))


def test_implementations_are_priced_shown_and_explained() -> None:
    rules = "split b on dp\nsplit s on cp for activations\noffload optimizer to host"
    text = file("attention", "ring_attention(cp)", "dp = 2, cp = 4", rules, on=8).replace(
        "lr = 0.1", "lr = 0.1, momentum = 0.9"
    )
    compiled = judged(text, priced=True)
    program = show(compiled.program)
    for given in (compiled.job, compiled.placed.training, compiled.placed):
        assert show(compile_job(parse_stage(show_stage(given))).program) == program
    explained = parc.explain_tensor(Source("main.par", text), "block.attention.key")
    assert "written by hand" in str(explained)


def test_jobs_that_infer_have_implementations() -> None:
    """Which the serial program that they are compared with has not."""
    text = file("mlp", "tensor_parallel_mlp(tp)", "tp = 2").replace("  loss mean", "  output y\n  loss mean")
    text = text.replace("train net", "infer net").replace("  optimizer sgd(lr = 0.1)\n", "")
    compiled = parc.compile(Source("main.par", text), double=True)
    assert [c.op for c in collectives(compiled.program)] == ["all_reduce"]
    assert not any("tp" in v.type.names for v in graph_values(compiled.training.forward))
    assert prove_evaluation(compiled.training, compiled.program, 1).ok


def test_scopes_in_implementations_can_be_computed_again() -> None:
    """Of the turns of a ring what enters each is kept, and no scores."""
    rules = "recompute block.attention.ring.turn"
    text = file("attention", "ring_attention(cp)", "cp = 4", "split s on cp for activations")
    # rules about what is in an implementation stand behind it
    again = text.replace("by ring_attention(cp)\n", f"by ring_attention(cp)\n  {rules}\n")
    kept = [{s.name for s in judged(t).program.classes[0].states if s.role == "saved"} for t in (text, again)]
    scores = [{name for name in of if ".turn.attended." in name} for of in kept]
    assert scores[0] and not scores[1] and any(".turn.key" in name for name in kept[1])


def test_what_stands_before_layers_with_rules_of_their_own_is_tried() -> None:
    text = file("mlp", "tensor_parallel_mlp(tp)", "tp = 2", "recompute block[0..1]")
    line = next(line for line in text.splitlines() if line.strip().startswith("repeat"))
    text = text.replace(line, f"  y = y + mlp(y, 16) as before\n{line}")
    text = text.replace("implement block.mlp by", "implement before by")
    found = parc.check(Source("x.par", text)).by_hand
    assert [(one.scope, one.equal) for one in found] == [("before", True)]


@pytest.mark.parametrize("code", ["int8", "fp8"])
def test_what_is_stored_in_fewer_bits_is_tried_with_numbers_of_its_own(code: str) -> None:
    text = file("attention", "ring_attention(cp)", "cp = 2", f"store weights as {code} in block.attention")
    text = text.replace("optimizer sgd(lr = 0.1)", "optimizer sgd(lr = 0.1)\n  frozen block.attention")
    found = parc.check(Source("x.par", text)).by_hand
    assert [(one.scope, one.equal) for one in found] == [("block.attention", True)]


INTEGERS = """
use std.optimizers (sgd)

fn chosen(t[b]) {
  return t >= 5
}

fn chosen_too(t[b]) {
  return t > LAST
}

model m {
  dim b = 16, d = 2
  input t : int32[b] in 0..9
  weight e[d] ~ ones
  x[b,d] = where(chosen(t), e, 0.5)
  loss sum(x * x)
}

strategy plan for m {
  mesh (dp = 2)
  split b on dp
  implement chosen by chosen_too()
}

job fit {
  train m using plan
  optimizer sgd(lr = 0.1)
}
"""


def test_scopes_of_whole_numbers_are_tried_with_those_that_inputs_have() -> None:
    found = parc.check(Source("x.par", INTEGERS.replace("LAST", "4"))).by_hand
    assert [(one.scope, one.equal) for one in found] == [("chosen", True)]
    with pytest.raises(ParcError) as e:
        parc.check(Source("x.par", INTEGERS.replace("LAST", "5")))
    assert [d.code for d in e.value.diagnostics] == ["E0430"]
