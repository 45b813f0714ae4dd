"""Regions are found by what flows where: whatever dims and tensors are called, and however many there are."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.ops.base import Movement
from compiler.program import Program
from compiler.regions.attention import is_sum
from compiler.regions.marks import Regions, regions_of
from compiler.regions.region import Region, RegionKind
from compiler.text import parse_program, show
from compiler.walk import bodies
from dsl.diagnostics import ParcError
from dsl.source import Source

TEXT = """
use std.layers (attention, linear, layer_norm, rms_norm, gelu, cross_entropy, softmax)
use std.optimizers (sgd)
model m() {{
  dim b = 2, s = 8, d = 16, v = 24, k = 4, e = 4, f = 8
  input x : f32[b,s,d]
  input y : int32[b,s]
{body}
}}
job fit {{
  train m()
  optimizer sgd(lr = 0.1)
}}
"""


def program(body: str) -> Program:
    text = TEXT.format(body="\n".join(f"  {line}" for line in body.splitlines()))
    return compile_job(evaluate(Source("regions.par", text))).program


def regions(body: str) -> Regions:
    return regions_of(program(body))


def shares(found: Regions) -> list[float]:
    """Of each attention, the share of the scores that are kept."""
    return sorted(region.kept for region in set(found.attention.values()))


def functions(found: Regions, of: Program) -> set[str]:
    """The functions that have a part of an attention."""
    return {f.phase for c in of.classes for f in c.functions for n in f.body.nodes if n in found.attention}


def test_attention_is_found_forward_and_backward() -> None:
    of = program("h = attention(x, 4)\nloss mean(h * h)")
    found = regions_of(of)
    assert shares(found) == [0.5, 0.5] and functions(found, of) == {"F", "B"}
    assert all(n.op.joins or n.op.movement is not Movement.NO or is_sum(n) for n in found.attention)


def test_an_attention_without_a_dim_of_a_batch_is_one() -> None:
    """Two products of data with a softmax between them, of matrices."""
    body = "\n".join(
        [
            "weight q[d,k] ~ normal(0.1)",
            "weight r[d,k] ~ normal(0.1)",
            "one[s,d] = sum(x, over b)",
            "left[s,k] = one @ q",
            "right[t,k] = rename(one @ r, s -> t)",
            "scores[s,t] = left @ right",
            "mixed[s,d] = softmax(scores, over t) @ rename(one, s -> t)",
            "loss mean(mixed)",
        ]
    )
    assert shares(regions(body)) == [1.0, 1.0]


@pytest.mark.parametrize(
    "body",
    [
        "h = linear(layer_norm(linear(x, over v)), over d)\nloss mean(h * h)",  # a norm between products with weights
        "h = linear(x, over v)\nloss cross_entropy(h, y, over v)",  # a softmax behind one
        "weight w[d,e,f] ~ normal(0.1)\nweight u[e,f,d] ~ normal(0.1)\n"  # a norm inside of experts, which have a batch
        "h[b,s,e,f] = x @ w\ni[b,s,e,f] = h * rsqrt(mean(h * h, over f) + 1.0)\nj[b,s,e,d] = i @ u\nloss mean(j)",
    ],
)
def test_what_is_no_attention(body: str) -> None:
    assert not regions(body).attention


def test_the_loss_is_a_region_forward_and_backward() -> None:
    """Its wide values have the classes, in both passes; those of an attention before it are not among them."""
    of = program("h = linear(attention(x, 4), over v)\nloss cross_entropy(h, y, over v)")
    found = regions_of(of)
    assert len(found.losses) == 2
    assert {v.type.names for v in found.wide} == {("b", "s", "v")}
    backward = {v for f in of.classes[0].functions if f.phase == "B" for n in f.body.nodes for v in n.outputs}
    assert found.wide & backward and found.wide - backward


def test_a_loss_without_a_softmax_has_none() -> None:
    assert not regions("h = attention(x, 4)\nloss mean(h * h)").losses


# --- norms ----------------------------------------------------------------------------------------------------


def norms_of(of: Program) -> dict[str, list[Region]]:
    """By the letter of the function, inside loops too."""
    functions = [f for c in of.classes for f in c.functions]
    return {f.phase: [r for b in bodies(f.body) for r in b.regions if r.kind is RegionKind.NORM] for f in functions}


LAYER = "h = layer_norm(linear(x, over v))\nloss mean(h * h * h)"
RMS = "h = rms_norm(linear(x, over v))\nloss mean(h * h * h)"
LOOP = "repeat 3 as layer {\n  x = x + linear(rms_norm(x), over e, std = 0.5) @ w\n}\nloss mean(x * x * x)"


@pytest.mark.parametrize("body", [LAYER, RMS, "weight w[e,d] ~ normal(0.1)\n" + LOOP])
def test_a_norm_is_one_region_forward_and_one_backward(body: str) -> None:
    found = norms_of(program(body))
    assert [len(found[f]) for f in "FBU"] == [1, 1, 0]
    assert found["F"][0].over == found["B"][0].over == (("v",) if "over v" in body else ("d",),)


def test_a_norm_has_its_scale_and_offset_and_ends_there() -> None:
    """Forward from the mean to the offset; backward what becomes of its input and of the scale, nothing behind."""
    of = program("u = linear(x, over e)\nh = linear(layer_norm(gelu(u)), over v)\nloss mean(h * h * h)")
    body = {f.phase: f.body for c in of.classes for f in c.functions}
    (forward,), (backward,) = (norms_of(of)[f] for f in "FB")
    made = {n.outputs[0].name: n for n in body["F"].nodes if n.outputs}
    ops = [getattr(made[v].op, "fn", made[v].op.mnemonic) for v in forward.values]
    assert ops == ["sum", "div", "sub", "mul", "sum", "div", "add", "rsqrt", "mul", "mul", "add"]
    made = {n.outputs[0].name: n for n in body["B"].nodes if n.outputs}
    summed = [set(v.type.names) for name in backward.values for v in made[name].outputs if made[name].inputs]
    assert {"e"} in summed  # the gradient of the scale
    assert not any(getattr(made[v].op, "fn", "") in ("exp", "erf") for v in backward.values)


def test_what_goes_past_a_norm_is_none_of_it() -> None:
    """The cotangents of a residual branch are added up outside."""
    of = program(
        "u = linear(x, over e)\nweight w[e,d] ~ normal(0.1)\ny = u @ w\nz = y + rms_norm(y)\nloss mean(z * z * z)"
    )
    (backward,) = norms_of(of)["B"]
    body = next(f.body for c in of.classes for f in c.functions if f.phase == "B")
    adds = [n for n in body.nodes if getattr(n.op, "fn", "") == "add" and n.outputs[0].name in backward.values]
    inside = set(backward.values)
    assert all({v.name for v in n.inputs} <= inside for n in adds)


@pytest.mark.parametrize(
    "body",
    [
        "h = linear(x, over v)\nloss mean(h / sqrt(2.0 + mean(abs(h), over v)))",  # no squares
        "h = linear(x, over v)\nloss mean(x * rsqrt(mean(h * h, over v) + 1.0))",  # squares of something else
        "h = linear(x, over v)\nloss mean(h * h * rsqrt(h * h + 1.0))",  # no mean
    ],
)
def test_what_is_no_norm(body: str) -> None:
    assert norms_of(program(body)) == {"F": [], "B": [], "U": []}


# --- the text -------------------------------------------------------------------------------------------------


def test_marks_are_read_back() -> None:
    of = program("h = linear(layer_norm(attention(x, 4)), over v)\nloss cross_entropy(h, y, over v)")
    text = show(of)
    read = parse_program(text)
    assert read == of and show(read) == text
    assert {r.kind for f in read.classes[0].functions for r in f.body.regions} >= {RegionKind.NORM, RegionKind.LOSS}
    assert read != parse_program("\n".join(line for line in text.splitlines() if "region" not in line))
    assert len(regions_of(read).wide) == len(regions_of(of).wide) > 0


@pytest.mark.parametrize(
    "line, code",
    [
        ("region attenuation: %x", "E0601"),
        ("region norm over d: %x", "E0601"),
        ("region norm over (d) %x", "E0601"),
        ("region norm over (d): %nothing", "E0610"),
        ("region norm over (d): %x, %x", "E0611"),
        ("region norm over (d): %x\n    %late: f32[] = full 1.0", "E0601"),
    ],
)
def test_marks_that_make_no_sense(line: str, code: str) -> None:
    text = show(program("loss mean(x * x)"))
    at = text.index("\n  }", text.index("fn F")) + 1
    with pytest.raises(ParcError) as found:
        parse_program(f"{text[:at]}  {line}\n{text[at:]}")
    assert found.value.diagnostics[0].code == code
