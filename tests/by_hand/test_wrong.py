"""Wrong implementations are errors where they are wrong, before anything runs."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from compiler.evaluate import evaluate
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.by_hand.files import changed, file

USES = "use std.layers (gelu, softmax, relu_mlp)\n"


class Wrong(NamedTuple):
    """A function of the library with changes, its code, and the text at which the error points."""

    fn: str
    changes: tuple[tuple[str, str], ...]
    code: str
    at: str


GIVEN = {
    "tensor_parallel_mlp": ("mlp", "(tp)", "tp = 2"),
    "sequence_parallel_mlp": ("mlp", "(tp)", "tp = 2"),
    "two_level_mlp": ("mlp", "(inner, outer)", "outer = 2, inner = 2"),
    "gathered_attention": ("attention", "(cp)", "cp = 2"),
    "ulysses_attention": ("attention", "(cp)", "cp = 2"),
    "ring_attention": ("attention", "(cp)", "cp = 4"),
    "banded_conv": ("conv", "(sp)", "sp = 2"),
}
TP, SP, TWO = "tensor_parallel_mlp", "sequence_parallel_mlp", "two_level_mlp"
RING, ULYSSES, GATHERED, BAND = "ring_attention", "ulysses_attention", "gathered_attention", "banded_conv"
SUM = "all_reduce(part, tp) + b2"
SHIFTS, MOVE = "    value = shift(value, cp, 1)\n", "      key = shift(key, cp, 1)\n"

WRONG = {
    "a sum that nobody takes": Wrong(TP, ((SUM, "part + b2"),), "E0424", "part + b2"),
    "a bias before the sum": Wrong(TP, ((SUM, "all_reduce(part + b2, tp)"),), "E0424", "part + b2"),
    "a function of the parts": Wrong(TP, ((SUM, "all_reduce(gelu(part), tp) + b2"),), "E0424", "gelu(part)"),
    "a product of the parts": Wrong(TP, ((SUM, "all_reduce(part * part, tp) + b2"),), "E0424", "part * part"),
    "parts with pieces": Wrong(
        TP, ((SUM, "all_reduce(sum(u, over f) * part, tp) + b2"),), "E0424", "sum(u, over f) * part"
    ),
    "the sum of a sum": Wrong(
        TP, ((SUM, "all_reduce(all_reduce(part, tp), tp) + b2"),), "E0425", "all_reduce(all_reduce(part, tp), tp)"
    ),
    "a maximum in place of the sum": Wrong(
        TP, ((SUM, 'all_reduce(part, tp, "max") + b2'),), "E0425", 'all_reduce(part, tp, "max")'
    ),
    "the sum of pieces": Wrong(TP, (("gelu(u)", "all_reduce(gelu(u), tp)"),), "E0425", "all_reduce(gelu(u), tp)"),
    "the sum of what is whole": Wrong(TP, (("x @ w1", "all_reduce(x, tp) @ w1"),), "E0425", "all_reduce(x, tp)"),
    "a gather of parts": Wrong(
        TP,
        ((SUM, "slice(all_gather(part, tp, over d -> dd), over dd -> d, 0..d) + b2"),),
        "E0425",
        "all_gather(part, tp, over d -> dd)",
    ),
    "a gather of what is whole": Wrong(
        TP,
        (("x @ w1", "slice(all_gather(x, tp, over d -> dd), over dd -> d, 0..d) @ w1"),),
        "E0425",
        "all_gather(x, tp, over d -> dd)",
    ),
    "a gather along another dim": Wrong(
        SP,
        (("over s)\n  u", "over d -> dd)\n  u"), ("whole[b,s,d] = ", "whole = ")),
        "E0208",
        "u[b,s,f/tp]",
    ),
    "a gather that was forgotten": Wrong(SP, (("all_gather(x, tp, over s)", "x"),), "E0422", "u[b,s,f/tp]"),
    "a scatter of what is whole": Wrong(
        SP,
        (("reduce_scatter(part, tp, over s)", "reduce_scatter(all_reduce(part, tp), tp, over s)"),),
        "E0425",
        "reduce_scatter(all_reduce(part, tp), tp, over s)",
    ),
    "a whole weight for pieces": Wrong(
        TP,
        (("w2[f/tp,d]", "w2[g,d]"), ("gelu(u) @ w2", "gelu(u) @ slice(w2, over g, 0..g // tp)")),
        "E0422",
        "gelu(u) @ slice(w2, over g, 0..g // tp)",
    ),
    "a piece of a piece": Wrong(
        TP,
        (("part[..., d] = gelu(u) @ w2", "v = shard(u, tp, over f)\n  part[...,d] = gelu(u) @ w2 * sum(v, over f)"),),
        "E0425",
        "shard(u, tp, over f)",
    ),
    "the wrong size": Wrong(TP, (("b1[f/tp]", "b1[f]"),), "E0203", ""),
    "a weight along the wrong dim": Wrong(TP, (("w1[d,f/tp]", "w1[d/tp,f]"),), "E0203", ""),
    "one axis on two dims": Wrong(TP, (("w1[d,f/tp]", "w1[d/tp,f/tp]"),), "E0407", "tp"),
    "an axis that is none": Wrong(TP, (("w1[d,f/tp]", "w1[d,f/d]"),), "E0432", "d"),
    "an axis that is not given": Wrong(TP, (("w1[d,f/tp]", "w1[d,f/dp]"),), "E0432", "dp"),
    "a weight that is not used": Wrong(TP, ((SUM, "all_reduce(part, tp)"),), "E0428", TP),
    "a weight that is not there": Wrong(
        TP, ((", b2[d]", ", b3[d]"), (SUM, "all_reduce(part, tp) + b3")), "E0428", "b3[d]"
    ),
    "a weight with other dims": Wrong(TP, (("b2[d]", "b2[d, d2]"),), "E0428", "b2[d, d2]"),
    "a weight in a loop": Wrong(
        TP,
        (
            ("  part[", "  repeat 2 as again {\n    weight w2[f/tp,d]\n    u = u * sum(w2, over d)\n  }\n  part["),
            (" w2[f/tp,d], b1", " b1"),
        ),
        "E0428",
        "w2[f/tp,d]",
    ),
    "a type that does not hold": Wrong(TP, (("part[..., d]", "part[..., d/tp]"),), "E0422", "part[..., d/tp]"),
    "random numbers": Wrong(TP, (("x @ w1", "(x * uniform(d)) @ w1"),), "E0427", "uniform(d)"),
    "only on one device": Wrong(
        TP,
        ((SUM, "where(rank(tp) == 0, all_reduce(part, tp) + b2, 0.0)"),),
        "E0426",
        "where(rank(tp) == 0, all_reduce(part, tp) + b2, 0.0)",
    ),
    "a claim of what is known": Wrong(
        TP, ((SUM, "all_reduce(as_sum(part, tp), tp) + b2"),), "E0426", "as_sum(part, tp)"
    ),
    "a claim of pieces of what is whole": Wrong(
        TP,
        ((SUM, "as_split(all_reduce(part, tp) + b2, tp, over d)"),),
        "E0426",
        "as_split(all_reduce(part, tp) + b2, tp, over d)",
    ),
    "a message of each device's own": Wrong(
        TP, ((SUM, "all_reduce(part * cast(rank(tp), compute), tp) + b2"),), "E0424", "part * cast(rank(tp), compute)"
    ),
    "what is whole goes round": Wrong(TP, (("x @ w1", "shift(x, tp, 1) @ w1"),), "E0425", "shift(x, tp, 1)"),
    "others' pieces of a factor": Wrong(
        TP, (("gelu(u)", "gelu(shift(u, tp, 1))"),), "E0423", "gelu(shift(u, tp, 1)) @ w2"
    ),
    "two results": Wrong(TP, ((SUM, f"{SUM}, x"),), "E0421", ""),
    "something else": Wrong(TP, ((SUM, "all_gather(u, tp, over f) + sum(part) * 0.0 + sum(b2)"),), "E0424", ""),
    "the wrong dims": Wrong(TP, ((SUM, f"all_gather(u, tp, over f) * sum({SUM})"),), "E0421", ""),
    "sums in a loop": Wrong(
        TP,
        (
            (
                "  return",
                "  y = all_reduce(part, tp)\n  repeat 2 as again {\n    y = y + all_reduce(y, tp)\n  }\n  return y +",
            ),
            ("y + all_reduce(part, tp)", "y"),
        ),
        "E0425",
        "all_reduce(y, tp)",
    ),
    "another kind in each iteration": Wrong(
        TP,
        (("  return", "  y = x\n  repeat 2 as again {\n    y[...,d] = gelu(y @ w1) @ w2\n  }\n  return y + "),),
        "E0433",
        "gelu(y @ w1) @ w2",
    ),
    "the major axis first": Wrong(
        TWO,
        (("gelu(u) @ w2", "slice(all_gather(gelu(u), outer, over f -> g), over g -> f, 0..f) @ w2"),),
        "E0425",
        "all_gather(gelu(u), outer, over f -> g)",
    ),
    "one of two sums": Wrong(
        TWO, (("hierarchical_all_reduce(part, inner, outer)", "all_reduce(part, inner)"),), "E0424", ""
    ),
    "two axes in another order": Wrong(TWO, (("w2[f/outer/inner,d]", "w2[f/inner/outer,d]"),), "E0422", "gelu(u) @ w2"),
    "values stay behind keys": Wrong(RING, ((SHIFTS, ""),), "E0423", "p @ value"),
    "values go the other way": Wrong(RING, (("shift(value, cp, 1)", "shift(value, cp, -1)"),), "E0423", "p @ value"),
    "positions stay behind": Wrong(RING, (("    there = shift(there, cp, 1)\n", ""),), "E0423", ""),
    "a ring that nobody claims": Wrong(RING, (("as_split(mixed / total, cp, over s)", "mixed / total"),), "E0426", ""),
    "a ring that is claimed to be heads": Wrong(RING, (("cp, over s)", "cp, over h)"),), "E0422", "mixed @ wo"),
    "a ring that is claimed to be samples": Wrong(RING, (("cp, over s)", "cp, over b)"),), "E0421", ""),
    "a gather of what has moved on": Wrong(
        RING,
        ((MOVE, f"      total = total + sum(all_gather(value, cp, over t -> u))\n{MOVE}"),),
        "E0423",
        "all_gather(value, cp, over t -> u)",
    ),
    "a block is sent": Wrong(
        RING, ((MOVE, f"      total = all_reduce(total, cp)\n{MOVE}"),), "E0426", "all_reduce(total, cp)"
    ),
    "keys of all, positions of some": Wrong(GATHERED, (("iota(whole)", "rename(iota(t), t -> whole)"),), "E0203", ""),
    "positions as if each piece began at 0": Wrong(
        GATHERED,
        (("iota(s) >= iota(whole)", "slice(iota(whole), over whole -> s, 0..s) >= iota(whole)"),),
        "E0422",
        "",
    ),
    "heads that have not come": Wrong(ULYSSES, (("over h -> s) @ wo", "over h -> k) @ wo"),), "E0203", ""),
    "heads in place of positions": Wrong(
        ULYSSES, (("(x @ wk, cp, over s -> h)", "(x @ wk, cp, over h -> s)"),), "E0203", ""
    ),
    "results that stay with the heads": Wrong(
        ULYSSES,
        (("all_to_all(mixed, cp, over h -> s) @ wo", "mixed @ shard(wo, cp, over h)"),),
        "E0424",
        "mixed @ shard(wo, cp, over h) + bo",
    ),
    "bands that nobody claims": Wrong(
        BAND,
        (("as_split(rename(out, (yo, xo, co) -> (y, x, c)), sp, over y)", "rename(out, (yo, xo, co) -> (y, x, c))"),),
        "E0426",
        "",
    ),
    "bands that are summed": Wrong(
        BAND, (("  if bias", "  out = all_reduce(out, sp)\n  if bias"),), "E0426", "all_reduce(out, sp)"
    ),
}


def refused(text: str) -> tuple[str, str, str | None]:
    """The first error's code, the text at which it points, and its help."""
    with pytest.raises(ParcError) as found:
        evaluate(Source("main.par", text))
    error = found.value.diagnostics[0]
    assert error.span is not None
    return error.code, text[error.span.start : error.span.end], error.help


@pytest.mark.parametrize("name", WRONG)
def test_wrong_implementations_are_errors(name: str) -> None:
    wrong = WRONG[name]
    layer, axes, mesh = GIVEN[wrong.fn]
    parts = (wrong.fn, *{TWO: ["hierarchical_all_reduce"], RING: ["attended"]}.get(wrong.fn, []))
    text = file(layer, f"{wrong.fn}{axes}", mesh, own=changed(parts, *wrong.changes), uses=USES)
    code, at, help = refused(text)
    assert (code, at if wrong.at else "") == (wrong.code, wrong.at)
    assert help is not None or code in ("E0421", "E0214", "E0203")


def test_there_are_many() -> None:
    assert len(WRONG) >= 40
