"""Rules of a strategy that change nothing are told (E0542); those of a tactic only if all of a kind are idle."""

from __future__ import annotations

import re

import pytest

import parc
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source

TEXT = """\
use std.layers (layer_norm, mlp)
use std.optimizers (sgd)
use std.tactics

tactic narrow(tp) {
  split f on tp for weights
  split b on tp for weights
}

tactic both(dp, tp) {
  optimizer_parallel(dp)
  split f on tp
}

model deep(width = 8) {
  dim b = 12, d = width
  input x : compute[b,d]
  weight first[d] ~ ones
  h = x * cast(first, compute)
  repeat 4 as block {
    repeat 2 as again {
      h = tanh(h)
    }
    h = h + mlp(layer_norm(h), 2 * width)
  }
  shift = cast(iota(b), compute)
  loss mean(cast(h * (h + shift), master))
}

strategy plan for deep {
  mesh (dp = DP, tp = TP)
RULES
}

job fit {
  train deep using plan
  optimizer sgd(lr = 0.1)
  precision bf16
}
"""


def found(rules: str, dp: int = 3, tp: int = 2) -> tuple[Diagnostic, ...]:
    """What is found wrong in a strategy of these rules."""
    lines = "\n".join(f"  {line}" for line in rules.split("\n"))
    text = TEXT.replace("DP", str(dp)).replace("TP", str(tp)).replace("RULES", lines)
    try:
        parc.check(Source("t.par", text))
    except ParcError as error:
        for d in error.diagnostics:
            assert d.span is not None and text[d.span.start : d.span.end] in rules
        return error.diagnostics
    return ()


IDLE = {
    "split b on dp for weights": ("no weight has a dim `b`", "the dims there are `d`, `f`"),
    "split f on tp in block.layer_norm": ("no tensor in `block.layer_norm` has a dim `f`", "the dims there are"),
    "split b on tp for optimizer": ("no value of the update has a dim `b`", "the dims there are `block`, `d`, `f`"),
    "split f on tp for gradients": ("a gradient is split as its weight is", "`shard gradients on tp`"),
    "split f on tp for weights in x": ("there is no weight in `x`", "leave out `in …`"),
    "split f on tp\nsplit f on tp for weights pad": ("split on `tp` by earlier rules", "move it up"),
    "tensor_parallel(tp)\nsplit f on tp": ("split on `tp` by earlier rules", "leave it out"),
    "shard optimizer on dp in x": ("there is no weight in `x`", "leave out `in …`"),
    "shard optimizer on tp\nshard optimizer on tp in first": ("earlier rules say all of it", "leave it out"),
    "layout shift[b/tp]": ("is made in whatever layout", "the layout of its reader"),
    "layout first_1[d/tp]": ("is made in whatever layout", "of the weight"),
    "recompute block.mlp.w1": ("nothing is computed there", "name the scope that computes"),
    "recompute x": ("nothing is computed there", "weights and inputs are there anyway"),
    "recompute block.mlp keep block.layer_norm": ("no rule has it computed again", "a scope around it"),
    "recompute block keep block.mlp.w1": ("no rule has it computed again", "leave it out"),
    "recompute block keep block.again.h": ("no rule has it computed again", "a loop inside a scope runs again"),
    "narrow(tp) in block.layer_norm": ("no weight in `block.layer_norm` has a dim `f`", "the dims there are"),
    "tensor_parallel(tp) in block.layer_norm": ("no tensor in `block.layer_norm`", "the dims there are"),
}


@pytest.mark.parametrize("size", [2, 1])
@pytest.mark.parametrize("rules", IDLE)
def test_what_changes_nothing_is_told_whatever_the_sizes(rules: str, size: int) -> None:
    message, help = IDLE[rules]
    first, *others = found(rules, size, size)
    assert first.code == "E0542" and message in first.message and help in (first.help or ""), first
    assert all(d.code == "E0542" and d.span == first.span for d in others)


def test_shard_where_nothing_divides() -> None:
    (one,) = found("shard optimizer on dp")
    assert (
        one.code == "E0542" and "no dim of a weight has 3 equal parts (on a device, `d` = 8, `f` = 16)" in one.message
    )
    assert one.help == "legal degrees of dp: 1, 2, 4, 8, 16; or allow uneven pieces: `shard optimizer on dp pad`"
    assert found("shard optimizer on dp pad") == ()
    (few,) = found("shard optimizer on dp pad", dp=24)
    assert "no dim of a weight has 24 parts" in few.message and few.help == "legal degrees of dp: 1, 2, 4, 8, 16"
    assert found("shard optimizer on dp", dp=4) == () == found("shard optimizer on dp", dp=1)
    (taken,) = found("split f on tp\nsplit d on tp\nshard weights on dp", dp=16)  # 16, had not tp split it
    assert "`d` = 4, `f` = 8" in taken.message
    for rules in (
        "optimizer_parallel(dp)",
        "both(dp, tp)",
        "split b on dp\nfsdp(dp)",
    ):  # fsdp: its split says nothing new
        (applied,) = found(rules)
        assert applied.code == "E0542" and "3 equal parts" in applied.message, rules


@pytest.mark.parametrize(
    "rules",
    [
        "narrow(tp)",  # its second rule is for no weight of the model
        "both(dp, tp)",
        "data_parallel(dp)\nfsdp(dp)",  # its split is that of the first
        "optimizer_parallel(dp, 0)",  # no rule at all
        "split b on dp for weights, activations",
        "split d on tp for activations in block.mlp\nsplit d on tp",
        "shard optimizer on dp\nshard optimizer, gradients on dp",
        "split f on tp\nshard optimizer on tp in block.mlp.w1",  # there already
        "layout block.mlp.w1[d, f/tp]\nlayout x[b/dp, d]\nlayout first[d]",
        "recompute\nrecompute block.mlp keep block.mlp.out",
        "recompute block keep block.layer_norm, block.mlp",
    ],
)
def test_what_changes_something_is_not(rules: str) -> None:
    assert found(rules, dp=2) == ()


LAYOUTS = """\
use std.optimizers (sgd)

model m {
  dim b = 6, d = 10
  input x : f32[b,d]
  weight w[d] ~ normal(0.1)
  y = tanh(x * w)
  loss mean(y * y)
}

strategy plan for m {
  mesh (dp = 2, tp = TP)
  split b on dp
  RULE
}

job fit {
  train m using plan
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize(
    ("rule", "message", "help"),
    [
        ("layout y[b, d/tp]", "dim d of y has size 10", "legal degrees of tp: 1, 2, 5, 10; or allow uneven pieces"),
        ("layout w[d/tp]", "dim d of w has size 10", "legal degrees of tp: 1, 2, 5, 10; or allow uneven pieces"),
        (
            "layout x[b/dp/tp, d]",
            "does not split into dp × tp = 8 pieces",
            "legal degrees of tp: 1, 3; or allow uneven pieces",
        ),
    ],
)
def test_a_layout_divides_or_is_refused(rule: str, message: str, help: str) -> None:
    text = LAYOUTS.replace("TP", "4").replace("RULE", rule)
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("t.par", text))
    (one,) = caught.value.diagnostics
    assert one.code == "E0540" and message in one.message and (one.help or "").startswith(help)
    assert one.span is not None and text[one.span.start : one.span.end] == rule
    if "split" in (one.help or ""):  # as it says
        mend = "\n  ".join(re.findall("`([^`]+)`", (one.help or "").rpartition(": ")[2]))
        assert parc.verify(Source("t.par", text.replace(rule, mend)), double=True).ok


@pytest.mark.parametrize("layout", ["y[b, d/tp]", "y[b/dp, d/tp]", "y[b/tp, d/dp]", "x[b, d/tp]", "w[d/tp]"])
def test_layouts_of_micro_batches(layout: str) -> None:
    """What micro-batches cut is cut, whatever its layout."""
    text = LAYOUTS.replace("TP", "1" if "b/tp" in layout else "2").replace(
        "RULE", f"layout {layout}\n  microbatches 3 over b"
    )
    proof = parc.verify(Source("t.par", text), double=True)
    assert proof.ok, proof.worst


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize("more", ["", "split f on tp", "microbatches 2 over b", "split d on tp for activations"])
@pytest.mark.parametrize("classes", ["optimizer", "optimizer, gradients", "optimizer, gradients, weights"])
def test_uneven_shards(classes: str, more: str, executor: parc.api.Executor) -> None:
    rules = f"  split b on dp\n  shard {classes} on dp pad\n  {more}"
    text = TEXT.replace("DP", "3").replace("TP", "2").replace("RULES", rules)
    text = text.replace("sgd(lr = 0.1)", "adamw(lr = 1e-3, eps = 1e-6, clip = 1.0)").replace("(sgd)", "(adamw)")
    source = Source("t.par", text)
    states = parc.compile(source).program.classes[0].states
    assert any("dp" in s.layout.split_axes and s.role == "optimizer" for s in states)
    proof = parc.verify(source, double=True, executor=executor)
    assert proof.ok, proof.worst


def test_a_path_without_its_beginning_is_known_by_its_end() -> None:
    """Better than names that look like it (`mul`)."""
    (wrong,) = found("recompute mlp")
    assert (wrong.code, wrong.help) == ("E0404", "did you mean `block.mlp`?")


MERGED = """\
use std.optimizers (sgd)

model merged() {
  dim b = 4, p = 4, q = 4, n = 16
  input x : f32[b,p,q]
  weight w[n]
  y = merge(x, (p, q) -> n)
  loss mean(y * w)
}

strategy plan for merged {
  mesh (c = C)
  split n on c pad
}

job fit {
  train merged using plan
  optimizer sgd(lr = 0.1)
}
"""


def test_of_a_merged_dim_whole_rows_are_split() -> None:
    """The dim whose size counts is named, and no `pad` is proposed to a rule that has it."""
    with pytest.raises(ParcError) as caught:
        parc.check(Source("t.par", MERGED.replace("C", "3")))
    (one,) = caught.value.diagnostics
    assert one.code == "E0540" and "dim p of y has size 4" in one.message
    assert one.help is not None and "legal degrees of c: 1, 2, 4" in one.help and "allow" not in one.help


def test_of_a_merged_dim_uneven_pieces_are_split_where_they_are_whole_rows() -> None:
    """16 elements on 5 devices are 4, 4, 4, 4 and 0, which are 1, 1, 1, 1 and 0 rows."""
    assert parc.verify(Source("t.par", MERGED.replace("C", "5"))).ok
