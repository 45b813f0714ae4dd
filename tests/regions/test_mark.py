"""Regions are found by what flows where: whatever dims and tensors are called, and however many there are."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.program import Program
from compiler.regions.mark import Regions, mark
from dsl.source import Source

TEXT = """
use std.layers (attention, linear, layer_norm, cross_entropy, softmax)
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
    return mark(program(body))


def shares(found: Regions) -> list[float]:
    """Of each attention, the share of the scores that are kept."""
    return sorted(region.kept for region in set(found.attention.values()))


def functions(found: Regions, of: Program) -> set[str]:
    """The functions that have a part of an attention."""
    return {f.phase for c in of.classes for f in c.functions for n in f.body.nodes if n in found.attention}


def test_attention_is_found_forward_and_backward() -> None:
    of = program("h = attention(x, 4)\nloss mean(h * h)")
    found = mark(of)
    assert shares(found) == [0.5, 0.5] and functions(found, of) == {"F", "B"}
    for region in set(found.attention.values()):
        assert len(region.products) >= 2 and not region.products & region.nodes


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
    found = mark(of)
    assert len(found.losses) == 2
    assert {v.type.names for v in found.wide} == {("b", "s", "v")}
    backward = {v for f in of.classes[0].functions if f.phase == "B" for n in f.body.nodes for v in n.outputs}
    assert found.wide & backward and found.wide - backward


def test_a_loss_without_a_softmax_has_none() -> None:
    assert not regions("h = attention(x, 4)\nloss mean(h * h)").losses
