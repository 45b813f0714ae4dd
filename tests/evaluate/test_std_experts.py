"""Mixtures of experts and latent attention: what they compute, position by position, and that they stay causal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import parc
from compiler.graph import Graph
from compiler.ops.repeat import Repeat
from compiler.passes.differentiate import differentiate
from compiler.text import show
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.serial import run_graph
from tests.evaluate.programs import random_arrays, reduced
from tests.evaluate.std import close, text
from tests.evaluate.test_std_layers import turned
from tests.passes.checks import agrees_with_differences

B, S, D, E, F = 2, 12, 8, 4, 6
HEAD = f"dim b = {B}, s = {S}, d = {D}\ninput x : f64[b, s, d]\n"


def mixture(options: str = "", experts: int = E) -> Any:
    call = f"moe(x, {experts}, {F}{', ' + options if options else ''})"
    return text(HEAD + f"out, balance = {call}\nloss sum(out)\nmetric balance = balance", "moe")


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def expert(a: dict[str, Any], x: Any, e: int, weight: float, bounded: bool = False) -> Any:
    u, v = x @ a["gate"][e], x @ a["up"][e]
    if not bounded:
        return weight * (u * sigmoid(u) * v @ a["down"][e])
    u, v = np.minimum(u + a["ba"][e], 7), np.clip(v + a["bu"][e], -7, 7)
    return weight * (u * sigmoid(1.702 * u) * (v + 1) @ a["down"][e] + a["bd"][e])


def by_hand(
    a: dict[str, Any],
    experts: int,
    active: int,
    capacity: float,
    pieces: int = 1,
    scores: Any = None,
    bounded: bool = False,
) -> tuple[Any, float]:
    """Position by position: the best experts that have room. `scores`: logits -> odds, shares of the chosen, these."""
    out, balance = np.zeros_like(a["x"]), 0.0
    size = S // pieces
    room = min(size, max(1, int(capacity * active * size / experts)))
    for b in range(B):
        busy, mean = np.zeros(experts), np.zeros(experts)
        for s in range(S):
            if s % size == 0:
                used = [0] * experts
            logits = a["x"][b, s] @ a["router"]
            odds, share, chosen = scores(logits)
            mean += odds / S
            for e, weight in zip(chosen, share):
                busy[e] += 1 / (S * active)
                used[e] += 1
                if used[e] <= room:
                    out[b, s] += expert(a, a["x"][b, s], e, weight, bounded)
        balance += experts * (busy * mean).sum() / B
    return out, balance


def softmax(active: int, renormalise: bool = False, scale: float = 1.0) -> Any:
    def scores(logits: Any) -> tuple[Any, Any, Any]:
        p = np.exp(logits - logits.max())
        p /= p.sum()
        chosen = np.argsort(-p, kind="stable")[:active]
        share = p[chosen] / (p[chosen].sum() if renormalise else 1)
        return p, share * scale, chosen

    return scores


def grouped(active: int, groups: int, limit: int) -> Any:
    """DeepSeek-V3's report, equations 12 to 16, with node-limited routing; no bias."""

    def scores(logits: Any) -> tuple[Any, Any, Any]:
        p = sigmoid(logits)
        worth = np.sort(p.reshape(groups, -1))[:, -2:].sum(-1)
        among = np.argsort(-worth, kind="stable")[:limit]
        size = len(p) // groups
        allowed = [e for e in range(len(p)) if e // size in among]
        chosen = sorted(allowed, key=lambda e: (-p[e], e))[:active]
        return p / p.sum(), 2.5 * p[chosen] / p[chosen].sum(), chosen

    return scores


@pytest.mark.parametrize("capacity", [4.0, 1.25, 0.7])
@pytest.mark.parametrize(
    "options, scores, more",
    [
        ("", softmax(2), {}),
        ("renormalise = true", softmax(2, renormalise=True), {}),
        ("scale = 0.5, pieces = 3", softmax(2, scale=0.5), {"pieces": 3}),
        ("bounded = true, renormalise = true", softmax(2, renormalise=True), {"bounded": True}),
    ],
)
def test_what_a_mixture_computes(options: str, scores: Any, more: dict[str, Any], capacity: float) -> None:
    m = mixture(f"active = 2, capacity = {capacity}" + (f", {options}" if options else ""))
    arrays = random_arrays(m)
    a = {n.removeprefix("moe.").removeprefix("routed_experts."): v for n, v in arrays.items()}
    out, balance = by_hand(a, E, 2, capacity, scores=scores, **more)
    close(reduced(m, arrays), out)
    close(run_graph(m.graph, arrays)[1], balance)


@pytest.mark.parametrize("capacity", [8.0, 1.0])
@pytest.mark.parametrize("shared", [0, 5])
def test_sigmoids_groups_and_a_shared_expert(capacity: float, shared: int) -> None:
    """DeepSeek-V3: shares of each expert by itself, made to sum to 1 and scaled; 4 groups of 2, of which 2 at most."""
    options = "active = 3, sigmoid = true, renormalise = true, scale = 2.5, groups = 4, limit = 2"
    m = mixture(f"{options}, capacity = {capacity}, shared = {shared}", experts=8)
    arrays = random_arrays(m, 3)
    a = {n.removeprefix("moe.").removeprefix("routed_experts."): v for n, v in arrays.items()}
    out, balance = by_hand(a, 8, 3, capacity, scores=grouped(3, 4, 2))
    if shared:
        u = a["x"] @ a["shared.gate"]
        out = out + u * sigmoid(u) * (a["x"] @ a["shared.up"]) @ a["shared.down"]
    close(reduced(m, arrays), out)
    close(run_graph(m.graph, arrays)[1], balance)


def test_dealt_in_turn_all_experts_have_as_many() -> None:
    m = mixture("active = 2, capacity = 1.0, balanced = true")
    arrays = random_arrays(m)
    a = {n.removeprefix("moe.").removeprefix("routed_experts."): v for n, v in arrays.items()}
    out = np.zeros_like(a["x"])
    for b, s in np.ndindex(B, S):
        shares = np.sort(softmax(E)(a["x"][b, s] @ a["router"])[0])[::-1]
        for j in range(2):
            out[b, s] += expert(a, a["x"][b, s], (2 * s + j) % E, shares[j])
    close(reduced(m, arrays), out)


@pytest.mark.parametrize(
    "options", ["", "pieces = 3", "sigmoid = true, groups = 4, limit = 2", "shared = 4, active = 3"]
)
@pytest.mark.parametrize("capacity", [1.5, 0.6])
def test_no_position_hangs_on_a_later_one(options: str, capacity: float) -> None:
    """What is dropped neither: to change the end of a sequence leaves its beginning as it is."""
    m = mixture(f"capacity = {capacity}" + (f", {options}" if options else ""), experts=8)
    arrays = random_arrays(m)
    before = reduced(m, arrays)
    rng = np.random.default_rng(5)
    for cut in (1, 4, 7, S - 1):
        later = arrays["x"].copy()
        later[:, cut:] = rng.standard_normal(later[:, cut:].shape)
        after = reduced(m, arrays | {"x": later})
        np.testing.assert_array_equal(after[:, :cut], before[:, :cut])
        assert np.any(after[:, cut:] != before[:, cut:])


@pytest.mark.parametrize(
    "options", ["", "renormalise = true", "sigmoid = true, groups = 4, limit = 2, pieces = 2", "bounded = true"]
)
def test_derivatives(options: str) -> None:
    body = (
        HEAD + f"y, balance = moe(x, 8, {F}{', ' + options if options else ''}, std = 0.5)\nloss mean(y * y) + balance"
    )
    agrees_with_differences(text(body, "moe"), tolerance=1e-5)


def test_nothing_is_as_large_as_positions_times_experts_times_seats() -> None:
    m = mixture("active = 2, capacity = 1.0", experts=6)
    seats = 2 * S // 6
    d = differentiate(m)

    def largest(graph: Graph) -> int:
        sizes = [v.type.elements for n in graph for v in n.outputs]
        return max([*sizes, *(largest(n.op.body) for n in graph if isinstance(n.op, Repeat))])

    copies = B * 2 * S * max(D, F)
    assert max(largest(d.forward), largest(d.backward)) <= max(copies, 6 * D * F) < B * S * 6 * seats * 2


def test_ties_and_a_diverged_router() -> None:
    """Of equal experts the first is chosen; NaN goes to an expert and is seen in the loss."""
    m = mixture("active = 1, capacity = 4.0")
    arrays = random_arrays(m)
    equal = arrays | {"moe.routed_experts.router": np.zeros_like(arrays["moe.routed_experts.router"])}
    a = {n.removeprefix("moe.").removeprefix("routed_experts."): v for n, v in equal.items()}
    close(reduced(m, equal), np.array([[expert(a, x, 0, 1 / E) for x in row] for row in a["x"]]))
    broken = arrays | {"moe.routed_experts.router": np.full_like(arrays["moe.routed_experts.router"], np.nan)}
    assert np.isnan(reduced(m, broken)).all()


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("sigmoid", ["", "sigmoid = true, "])
def test_as_many_as_the_best_groups_have_and_no_more(limit: int, sigmoid: str) -> None:
    """All experts of the best groups can be chosen, with shares; one more would be of another group, and is refused."""
    most = 2 * limit
    body = f"weight w[d] ~ ones\nbest, at = in_best_groups(sigmoid(x * w), 4, {limit}, over d)\n"
    body = f"{HEAD}{body}share, chosen = top_k(best, over d -> j)\nloss sum(share)\nmetric least = min(share)"
    m = text(body.replace("d = 8", f"d = 8, j = {most}"), "in_best_groups")
    assert run_graph(m.graph, random_arrays(m))[1] > 0
    mixture(f"{sigmoid}groups = 4, limit = {limit}, active = {most}", experts=8)
    with pytest.raises(ParcError) as caught:
        mixture(f"{sigmoid}groups = 4, limit = {limit}, active = {most + 1}", experts=8)
    (found,) = caught.value.diagnostics
    assert found.code == "E0217" and found.message.startswith("`active <= limit * experts / groups` does not hold:")
    assert f"active = {most + 1}" in [n[0] for n in found.notes]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("active = 0", "`active >= 1 and"),
        ("active = 9", "active <= experts`"),
        ("capacity = 0.0", "`capacity > 0`"),
        ("capacity = -1.0", "`capacity > 0`"),
        ("scale = 0.0", "`scale > 0`"),
        ("shared = -1", "`shared >= 0`"),
        ("pieces = 0", "`pieces >= 1`"),
        ("groups = 0", "`groups >= 1 and"),
        ("groups = 3", "experts % groups == 0`"),
        ("limit = 2", "limit <= groups`"),
        ("groups = 4, limit = 5", "limit <= groups`"),
        ("groups = 4, limit = 0", "`limit >= 1 and"),
        ("groups = 0, active = 0, capacity = 0.0", "`active >= 1 and"),
    ],
)
def test_arguments_that_make_no_sense(options: str, told: str) -> None:
    with pytest.raises(ParcError) as caught:
        mixture(options, experts=8)
    (found,) = caught.value.diagnostics
    assert found.code == "E0217" and told in found.message


# --- in a model, under strategies -------------------------------------------------------------------------------

MODEL = """use std.layers (embedding, cross_entropy, grouped_attention, latent_attention, linear, moe, rms_norm)
use std.optimizers (adamw)

model m {
  dim b = 8, s = 8, d = 8, v = 12
  input tokens, targets : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d, std = 0.5)
  total = zeros(dtype = master)
  repeat 2 as block {
    x = x + ATTENTION
    y, balance = moe(rms_norm(x), 4, 8, std = 0.4, OPTIONS)
    x = x + y
    total = total + balance
  }
  logits = linear(x, over v, std = 0.4) as head
  loss cross_entropy(logits, targets, over v) + 0.1 * total
}

strategy plan for m {
RULES
}

job fit {
  train m using plan
  optimizer adamw(lr = 1e-2)
}
"""
GROUPED = "grouped_attention(rms_norm(x), 4, 2, std = 0.4)"
LATENT = "latent_attention(rms_norm(x), 2, 4, 6, 3, 2, 4, std = 0.4)"
STRATEGIES = {
    "data": "mesh (dp = 2)\n  split b on dp\n  shard optimizer, gradients, weights on dp",
    "experts": "mesh (ep = 4)\n  split e, b on ep",
    "tensor": "mesh (tp = 2)\n  split h, f, v, s on tp",
    "own": "mesh (ep = 2, tp = 2)\n  split e, b on ep\n  split e, h, f, v, s, p on tp",
    "sequence": "mesh (cp = 2)\n  split s, p on cp for activations",
    "sequence_and_experts": "mesh (cp = 2)\n  split e on cp\n  split s, p on cp for activations",
    "microbatches": "mesh (ep = 2)\n  split e, b on ep\n  microbatches 2 over b",
    "pipeline": "mesh (pp = 2, ep = 2)\n  split e, b on ep\n"
    "  pipeline block on pp, schedule one_f_one_b(microbatches = 4)",
    "recompute": "mesh (ep = 2)\n  split e, b on ep\n  recompute block keep block.moe.out",
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    "options", ["", "sigmoid = true, renormalise = true, groups = 2, limit = 1, active = 1, shared = 4"]
)
def test_a_mixture_under_strategies(name: str, options: str) -> None:
    """Equal to the serial program, balance loss in a loop and all, with room that is scarce."""
    attention = LATENT if options else GROUPED
    pieces = "pieces = 2, " if "p on" in STRATEGIES[name] else ""
    rules = "  " + STRATEGIES[name]
    source = MODEL.replace("ATTENTION", attention).replace("RULES", rules)
    source = source.replace("OPTIONS", f"{pieces}capacity = 0.8{', ' + options if options else ''}")
    compiled = parc.compile(Source("m.par", source), double=True)
    proof = prove(compiled.training, compiled.program)
    assert proof.ok, proof


def test_with_sequences_in_pieces_positions_stay_where_they_are() -> None:
    """`split s, p`: what is gathered over the axis of the sequence is keys and values, and nothing of the mixture."""
    source = MODEL.replace("ATTENTION", GROUPED).replace("RULES", "  " + STRATEGIES["sequence"])
    program = parc.compile(Source("m.par", source.replace("OPTIONS", "pieces = 2"))).program
    moved = [line for line in show(program).splitlines() if "= all_gather" in line or "= all_to_all" in line]
    assert moved and not [line for line in moved if "moe" in line]


# --- latent attention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [0, 5])
@pytest.mark.parametrize("causal", [True, False])
def test_latent_attention(queries: int, causal: bool) -> None:
    """DeepSeek-V2's report, equations 9 to 19."""
    call = f"latent_attention(x, 2, {queries}, 6, 3, 4, 5, causal = {str(causal).lower()})"
    m = text(HEAD + f"loss sum({call})", "latent_attention")
    a = {n.removeprefix("latent_attention."): v for n, v in random_arrays(m).items()}
    x = a["x"]

    def norm(z: Any, gain: Any) -> Any:
        return z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5) * gain

    low = norm(x @ a["wl"], a["rms_norm.gain"]) if queries else x
    q, qr = np.einsum("bsl,lhk->bhsk", low, a["wq"]), turned(np.einsum("bsl,lhk->bhsk", low, a["wqr"]))
    latents = norm(x @ a["wa"], a["rms_norm_1.gain" if queries else "rms_norm.gain"])
    key, value = np.einsum("bsl,lhk->bhsk", latents, a["wk"]), np.einsum("bsl,lhk->bhsk", latents, a["wv"])
    place = turned((x @ a["wr"])[:, None])
    z = (np.einsum("bhsk,bhtk->bhst", q, key) + np.einsum("bhsk,botk->bhst", qr, place)) / np.sqrt(7)
    z = np.where(np.tri(S, dtype=bool), z, -np.inf) if causal else z
    p = np.exp(z - z.max(-1, keepdims=True))
    mixed = np.einsum("bhst,bhtk->bhsk", p / p.sum(-1, keepdims=True), value)
    close(reduced(m, random_arrays(m)), np.einsum("bhsk,hkd->bsd", mixed, a["wo"]))
