"""What is written by hand in the library is a choice where positions are split: it is found, proved and certified."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import Unfounded
from parc.planning.answer import FoundPlan, proved
from parc.planning.planning import plan
from parc.planning.pricing import StrategyPricer
from tests.planning.brute import all_priced, candidates, priced, space_of
from tests.planning.models import job_of, text_of
from tests.planning.test_layers import hold

LONG: dict[str, float] = {
    **{"inside": 2, "outside": 1, "seq": 512, "hidden": 24, "heads": 3, "layers": 1, "batch": 1},
    **{"inner": 20, "flops": 1, "vector": 0.1, "bandwidth": 16},
}
"""Many positions, and heads that do not divide."""


@pytest.fixture(scope="module")
def found() -> FoundPlan:
    found = api.plan(Source("job.par", text_of("transformer", **LONG)), within=None)
    assert isinstance(found, FoundPlan)
    return found


def test_ring_attention_is_found_where_brute_force_finds_it(found: FoundPlan) -> None:
    job = job_of("transformer", **LONG)
    space, bounds = space_of(job)
    assert [(of.function, of.scopes, of.zigzag) for of in space.implementations] == [
        ("ring_attention", ("block.attention",), False),
        ("ring_attention", ("block.attention",), True),
    ]
    prices = all_priced(job, space)
    assert all(bounds.seconds(c) <= p.seconds and bounds.bytes(c) <= p.needed for c, p in prices.items())
    best = found.best[0]
    assert best.price.seconds == min(p.seconds for p in prices.values()) and best.candidate.rules.by
    assert {c.rules.by for c in prices} == {0, 1, 2} and len(prices) == len(list(candidates(space)))
    assert "implement block.attention by ring_attention(cp)" in found.text
    for by in (1, 2):  # the shared price is that of the whole job
        some = next(c for c in prices if c.rules.by == by)
        assert priced(job, space, some) == prices[some]


@pytest.mark.parametrize("within", [0.0, pytest.param(None, marks=pytest.mark.nightly)])
def test_its_certificate_holds_and_nothing_of_it_can_be_another(within: float | None) -> None:
    found = api.plan(Source("job.par", text_of("transformer", **LONG)), within=within)
    assert isinstance(found, FoundPlan)
    source, certificate = Source("job.par", found.text), json.loads(json.dumps(found.certificate))
    assert "written by hand block.attention by ring_attention" in certified(source, certificate).space

    def code(path: tuple[Any, ...], value: Any) -> str:
        mutant = deepcopy(certificate)
        at = mutant
        for p in path[:-1]:
            at = at[p]
        at[path[-1]] = value
        with pytest.raises(Unfounded) as error:
            certified(source, mutant)
        return error.value.code

    of = "space", "implementations"
    assert code((*of, 0, "function"), "tensor_parallel_mlp") == "E1103"
    assert code((*of, 0, "function"), "f (x)\nuse a") == "E1103"
    tried = next(n for n, t in enumerate(certificate["tried"]) if t["by"])
    assert code(("tried", tried, "by"), 3 - certificate["tried"][tried]["by"]) == "E1105"


def test_bounds_of_layers_are_admissible() -> None:
    job = job_of("transformer", inside=2, outside=4, batch=4, layers=3, seq=32, inner=1, outer=0.05)
    space, bounds = space_of(job)
    by_hand = [c for c in candidates(space) if c.rules.by and c.rules.zero and c.mesh.size("stages") < 4]
    drawn = by_hand[:: len(by_hand) // 4]
    assert hold(space, bounds, StrategyPricer(job, space.by_hand), drawn) >= 3


def test_short_sequences_have_no_choice_more() -> None:
    space, _ = space_of(job_of("transformer", hidden=96, seq=8))
    assert not space.implementations


OWN = """
fn own(x[b,s,d], heads, causal = true, drop = 0.0) {
  dim h = heads, k = d // heads
  weight wq[d,h,k], wk[d,h,k], wv[d,h,k], wo[h,k,d] ~ normal(0.02)
  weight bq[h,k], bv[h,k], bo[d] ~ zeros
  q[b,s,h,k] = SCALED (x @ wq + bq) / sqrt(k)
  key[b,t,h,k] = rename(x @ wk, s -> t)
  value[b,t,h,k] = rename(x @ wv + bv, s -> t)
  scores[b,h,s,t] = q @ key
  p = softmax(scores, over t, keep = iota(s) >= iota(t))
  mixed[b,s,h,k] = p @ value
  out[b,s,d] = mixed @ wo + bo
  return out
}

model"""


@pytest.mark.parametrize("scaled", ["", "2 *"])
def test_what_computes_something_else_is_proved_to(scaled: str) -> None:
    """Names of functions mean nothing: one of the user's own that computes the same is attention, another is not."""
    text = text_of("transformer", **{**LONG, "seq": 128}).replace("attention(layer", "own(layer")
    text = text.replace("(attention, cross", "(softmax, cross").replace("\nmodel", OWN.replace("SCALED", scaled), 1)
    space, _ = space_of(evaluate_file(Source("job.par", text)).job)
    assert [of.scopes for of in space.implementations] == [("block.own",)] * 2  # types see no difference
    planned = f"strategy planned for gpt {{\n  mesh (cp = 2)\n{STATEMENTS}\n}}\n\njob fit"
    text = text.replace("job fit", planned).replace("on pod", "on pod using planned")
    text = text.replace("use std.optim", "use std.implementations (ring_attention)\nuse std.optim")
    assert proved(Source("job.par", text), "fit") != bool(scaled)


STATEMENTS = "  split s on cp zigzag for activations\n  implement block.own by ring_attention(cp)"


@pytest.mark.nightly
def test_without_a_proof_nothing_is_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parc.planning.answer.proved", lambda source, name: False)
    other = api.plan(Source("job.par", text_of("transformer", **LONG)), within=None)
    assert isinstance(other, FoundPlan) and not other.planned.space.implementations
    assert "implement " not in other.text and other.certificate["proved"]


def test_a_name_of_the_file_s_own_is_no_function_of_the_library() -> None:
    text = text_of("transformer", **LONG).replace("\nmodel", "\nfn ring_attention(x) {\n  return x\n}\n\nmodel", 1)
    job = evaluate_file(Source("job.par", text)).job
    assert not plan(job, within=0.0, taken={"ring_attention"}).space.implementations
    found = api.plan(Source("job.par", text), within=0.0)
    assert isinstance(found, FoundPlan) and not found.planned.space.implementations
