"""Layers that published models have beside the plain ones: rotary kinds, caps, sinks, biases, distances, routers."""

from __future__ import annotations

from math import ceil, floor, log, pi
from typing import Any

import numpy as np
import pytest

import parc
from compiler.model import Model
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.serial import run_graph
from tests.evaluate.programs import random_arrays, reduced
from tests.evaluate.std import TOKENS, close, text
from tests.evaluate.test_std_experts import HEAD, expert, mixture, sigmoid

E = np.einsum


def own(arrays: dict[str, Any], scope: str) -> dict[str, Any]:
    return {n.removeprefix(f"{scope}."): v for n, v in arrays.items()}


def shares(z: Any) -> Any:
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / pi) * (x + 0.044715 * x**3)))


# --- norms, activations, feed-forward ---------------------------------------------------------------------------


def test_rms_norm_1p_counts_its_gain_from_1() -> None:
    m = text(TOKENS + "loss sum(rms_norm_1p(x, 1e-3))", "rms_norm_1p")
    a = random_arrays(m)
    x = a["x"]
    close(reduced(m, a), x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * (1 + a["rms_norm_1p.gain"]))
    assert [w.init.kind for w in m.weights] == ["zeros"]


def test_soft_cap() -> None:
    m = text(TOKENS + "weight w[d]\nloss sum(soft_cap(10.0 * x * w, 5.0))", "soft_cap")
    a = random_arrays(m)
    close(reduced(m, a), 5 * np.tanh(2 * a["x"] * a["w"]))


@pytest.mark.parametrize(
    ("call", "want"),
    [
        ("geglu(x, 6)", lambda x, w: gelu_tanh(x @ w["gate"]) * (x @ w["up"]) @ w["down"]),
        ("mlp(x, 6, tanh = true)", lambda x, w: gelu_tanh(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]),
        ("relu_mlp(x, 6, bias = false)", lambda x, w: np.maximum(x @ w["w1"], 0) @ w["w2"]),
        (
            "swiglu(x, 6, bias = true)",
            lambda x, w: (
                (x @ w["gate"] + w["bg"]) * sigmoid(x @ w["gate"] + w["bg"]) * (x @ w["up"] + w["bu"]) @ w["down"]
                + w["bd"]
            ),
        ),
    ],
)
def test_feed_forward(call: str, want: Any) -> None:
    name = call.partition("(")[0]
    m = text(TOKENS + f"loss sum({call})", name)
    a = random_arrays(m)
    close(reduced(m, a), want(a["x"], own(a, name)))


# --- speeds of rotary positions ---------------------------------------------------------------------------------

THETA, HALF = 500.0, 4
PLAIN = THETA ** (-np.arange(HALF) / HALF)


def speeds(call: str) -> Any:
    name = call.partition("(")[0]
    head = f"dim half = {HALF}\nweight w[half]\n"
    m = text(f"{head}loss sum(w * {call})", name)
    return reduced(m, {"w": np.ones(HALF)})


def llama3(factor: float, low: float, high: float, original: float) -> Any:
    """As Meta has published it: by wavelengths."""
    found = []
    for f in PLAIN:
        wave = 2 * pi / f
        smooth = (original / wave - low) / (high - low)
        slow = f / factor
        found.append(
            f if wave < original / high else slow if wave > original / low else (1 - smooth) * slow + smooth * f
        )
    return np.array(found)


def yarn(factor: float, original: float, fast: float, slow: float, whole: bool) -> Any:
    """The paper's equations 17 to 23, with the ramp over pairs."""

    def pair(turns: float) -> float:
        return 2 * HALF * log(original / (turns * 2 * pi)) / (2 * log(THETA))

    low, high = pair(fast), pair(slow)
    if whole:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, 2 * HALF - 1)
    ramp = np.clip((np.arange(HALF) - low) / (high - low or 0.001), 0, 1)
    return PLAIN / factor * ramp + PLAIN * (1 - ramp)


@pytest.mark.parametrize(
    ("call", "want"),
    [
        (f"rotary_speeds(over half, {THETA})", PLAIN),
        (f"rotary_speeds(over half, {THETA}, 4.0)", PLAIN / 4),
        *((f"llama3_speeds(over half, {THETA}, 8.0, 1.0, 4.0, {n})", llama3(8, 1, 4, n)) for n in (8, 64, 4096)),
        *((f"yarn_speeds(over half, {THETA}, 8.0, {n})", yarn(8, n, 32, 1, True)) for n in (64, 2048, 10**6)),
        (f"yarn_speeds(over half, {THETA}, 8.0, 2048, 16.0, 2.0, false)", yarn(8, 2048, 16, 2, False)),
    ],
)
def test_speeds(call: str, want: Any) -> None:
    close(speeds(call), want)


def test_slowed_down_pairs_are_between_both() -> None:
    assert len({tuple(np.round(llama3(8, 1, 4, n) / PLAIN, 3)) for n in (8, 64, 4096)}) == 3
    assert len({tuple(np.round(yarn(8, n, 32, 1, True) / PLAIN, 3)) for n in (64, 2048, 10**6)}) == 3


@pytest.mark.parametrize("pairs", [4, 2, 1])
def test_rotary_by_speeds(pairs: int) -> None:
    """As complex numbers; where speeds are fewer than pairs, the last numbers of a head stay."""
    body = f"dim b = 2, s = 6, k = 8, half = {pairs}\ninput x : f64[b,s,k]\nweight w[half]\n"
    m = text(body + "loss sum(rotary(x, over s, speeds = w, amplitude = 1.5))", "rotary")
    a = random_arrays(m)
    z = a["x"][..., :pairs] + 1j * a["x"][..., pairs : 2 * pairs]
    z = 1.5 * z * np.exp(1j * np.arange(6)[:, None] * a["w"])
    close(reduced(m, a), np.concatenate([z.real, z.imag, a["x"][..., 2 * pairs :]], -1))
    assert "turned_by" not in m.graph.name


# --- attention --------------------------------------------------------------------------------------------------


def by_hand(a: dict[str, Any], norm: str, scale: float, cap: float, sinks: bool, window: int) -> Any:
    """Grouped attention with all that there is, head by head."""

    def normal(z: Any, gain: Any) -> Any:
        return z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-3) * ((norm == "rms_1p") + gain)

    x = a["x"]
    q, k = (E("bsd,dhrk->bhrsk", x, a["wq"]), E("bsd,dhk->bhsk", x, a["wk"]))
    v = E("bsd,dhk->bhsk", x, a["wv"])
    if "bq" in a:
        q, k, v = q + a["bq"][:, :, None], k + a["bk"][:, None], v + a["bv"][:, None]
    if norm != "none":
        q, k = normal(q, a["q_norm.gain"]), normal(k, a["k_norm.gain"])
    z = np.exp(1j * np.arange(6)[:, None] * np.array([1.0, 100.0**-0.5]))
    q, k = (np.concatenate([(t := (y[..., :2] + 1j * y[..., 2:]) * z).real, t.imag], -1) for y in (q, k))
    scores = E("bhrsk,bhtk->bhrst", q, k) * (scale or 0.5)
    scores = cap * np.tanh(scores / cap) if cap else scores
    near = np.subtract.outer(np.arange(6), np.arange(6))
    scores = np.where((near >= 0) & ((near < window) | (window == 0)), scores, -np.inf)
    if sinks:
        nobody = np.broadcast_to(a["sink"][:, :, None, None], (*scores.shape[:-1], 1))
        p = shares(np.concatenate([scores, nobody], -1))[..., :-1]
    else:
        p = shares(scores)
    out = E("bhrst,bhtk,hrkd->bsd", p, v, a["wo"])
    return out + a["bo"] if "bo" in a else out


@pytest.mark.parametrize(
    ("options", "norm", "scale", "cap", "sinks", "window"),
    [
        ("bias = true", "none", 0.0, 0.0, False, 0),
        ("bias = true, out_bias = true, sinks = true, window = 2", "none", 0.0, 0.0, True, 2),
        ('norm = "rms", eps = 1e-3', "rms", 0.0, 0.0, False, 0),
        ('norm = "rms_1p", eps = 1e-3, scale = 0.3, window = 3', "rms_1p", 0.3, 0.0, False, 3),
        ("scale = 2.0, cap = 1.5", "none", 2.0, 1.5, False, 0),
        ('bias = true, norm = "rms", eps = 1e-3, cap = 0.7, sinks = true', "rms", 0.0, 0.7, True, 0),
    ],
)
def test_grouped_attention(options: str, norm: str, scale: float, cap: float, sinks: bool, window: int) -> None:
    m = text(TOKENS + f"loss sum(grouped_attention(x, 4, 2, size = 4, theta = 100.0, {options}))", "grouped_attention")
    a = random_arrays(m)
    close(reduced(m, a), by_hand(own(a, "grouped_attention"), norm, scale, cap, sinks, window))


def test_a_kind_of_norm_that_there_is_not() -> None:
    with pytest.raises(ParcError) as caught:
        text(TOKENS + 'loss sum(grouped_attention(x, 4, 2, norm = "layer"))', "grouped_attention")
    assert caught.value.diagnostics[0].code == "E0217"


def test_a_sink_takes_its_share_however_large_scores_are() -> None:
    body = "dim b = 3, t = 4\ninput x : f64[b,t]\ninput seen : int32[b,t] in 0..2\nweight sink[b]\n"
    m = text(body + "loss sum(softmax_with_sink(x, sink, over t, keep = seen == 1))", "softmax_with_sink")
    a = random_arrays(m)
    a["seen"] = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], np.int32)
    for far in (0.0, 1e4, -1e4):
        a["sink"] = a["sink"] + far
        rows = np.concatenate([np.where(a["seen"] == 1, a["x"], -np.inf), a["sink"][:, None]], -1)
        close(reduced(m, a), shares(rows)[:, :-1])


def test_a_bias_of_keys_is_there_and_changes_nothing() -> None:
    m = text(TOKENS + "loss sum(attention(x, 2, key_bias = true))", "attention")
    a = random_arrays(m)
    without = reduced(m, a | {"attention.bk": np.zeros((2, 4))})
    close(reduced(m, a), without)
    assert "attention.bk" in a


def test_cross_attention_without_biases_and_scale() -> None:
    body = TOKENS + "dim t = 5, e = 3\ninput y : f64[b, t, e]\n"
    m = text(body + "loss sum(cross_attention(x, y, 2, size = 3, plain = true))", "cross_attention")
    a = random_arrays(m)
    w = own(a, "cross_attention")
    q, k, v = (
        E("bsd,dhk->bhsk", a["x"], w["wq"]),
        E("bte,ehk->bhtk", a["y"], w["wk"]),
        E("bte,ehk->bhtk", a["y"], w["wv"]),
    )
    close(reduced(m, a), E("bhst,bhtk,hkd->bsd", shares(E("bhsk,bhtk->bhst", q, k)), v, w["wo"]))


def bucket(distance: int, buckets: int, farthest: int, both: bool) -> int:
    """Raffel and others 2019, as mesh-tensorflow has it."""
    first = 0
    if both:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    far = exact + int(log(distance / exact) / log(farthest / exact) * (buckets - exact) + 1e-9)
    return first + min(far, buckets - 1)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(8, 16), (32, 128), (12, 40)])
def test_relative_positions(buckets: int, farthest: int, both: bool) -> None:
    body = "dim s = 40, t = 40, h = 2\n"
    call = f"relative_positions(over s, over t, over h, {buckets}, {farthest}, both = {str(both).lower()})"
    m = text(f"{body}near = {call}\nloss sum(near)", "relative_positions")
    a = random_arrays(m)
    places = [[bucket(t - s, buckets, farthest, both) for t in range(40)] for s in range(40)]
    close(reduced(m, a), a["relative_positions.table"][np.array(places)].transpose(2, 0, 1))


@pytest.mark.parametrize("causal", [True, False])
def test_relative_attention(causal: bool) -> None:
    body = TOKENS + "dim h = 2, t = 6\nweight near[h,s,t]\n"
    call = f"relative_attention(x, 2, 3, near, over t, causal = {str(causal).lower()})"
    m = text(f"{body}loss sum({call})", "relative_attention")
    a = random_arrays(m)
    w = own(a, "relative_attention")
    q, k, v = (E("bsd,dhk->bhsk", a["x"], w[n]) for n in ("wq", "wk", "wv"))
    z = E("bhsk,bhtk->bhst", q, k) + a["near"]
    z = np.where(np.tri(6, dtype=bool), z, -np.inf) if causal else z
    close(reduced(m, a), E("bhst,bhtk,hkd->bsd", shares(z), v, w["wo"]))


def test_latent_attention_with_other_scale_and_speeds() -> None:
    """A larger scale is the same as larger queries; speeds of zero turn nothing."""
    call = "latent_attention(x, 2, 0, 6, 3, 4, 5, speeds = w, amplitude = 0.5, scale = 0.7)"
    m = text(HEAD + f"dim half = 2\nweight w[half]\nloss sum({call})", "latent_attention")
    a = random_arrays(m) | {"w": np.zeros(2)}
    w = own(a, "latent_attention")
    x, latents = a["x"], a["x"] @ w["wa"]
    latents = latents / np.sqrt((latents * latents).mean(-1, keepdims=True) + 1e-5) * w["rms_norm.gain"]
    q = np.concatenate([E("bsd,dhk->bhsk", x, w["wq"]), 0.25 * E("bsd,dhk->bhsk", x, w["wqr"])], -1)
    k = E("bsl,lhk->bhsk", latents, w["wk"])
    k = np.concatenate([k, np.broadcast_to((x @ w["wr"])[:, None], (*k.shape[:3], 4))], -1)
    z = np.where(np.tri(x.shape[1], dtype=bool), 0.7 * E("bhsk,bhtk->bhst", q, k), -np.inf)
    close(reduced(m, a), E("bhst,bhtk,hkd->bsd", shares(z), E("bsl,lhk->bhsk", latents, w["wv"]), w["wo"]))


# --- routers ----------------------------------------------------------------------------------------------------


def arrays_of(m: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random numbers for all that a mixture has, and the same without the names of its scopes."""
    found = random_arrays(m)
    rng = np.random.default_rng(9)
    found |= {s.name: rng.standard_normal(s.value.type.shape) for s in m.states}
    return found, {n.removeprefix("moe.").removeprefix("routed_experts."): v for n, v in found.items()}


def test_a_router_with_a_bias() -> None:
    m = mixture("active = 2, capacity = 2.0, renormalise = true, router_bias = true")
    found, a = arrays_of(m)
    want = np.zeros_like(a["x"])
    for b, s in np.ndindex(a["x"].shape[:2]):
        p = shares(a["x"][b, s] @ a["router"] + a["offset"])
        chosen = np.argsort(-p)[:2]
        want[b, s] = sum(expert(a, a["x"][b, s], e, p[e] / p[chosen].sum()) for e in chosen)
    close(reduced(m, found), want)


OPTIONS = "active = 3, sigmoid = true, renormalise = true, scale = 2.5, groups = 4, limit = 2"


def corrected(a: dict[str, Any], favoured: Any) -> tuple[Any, Any]:
    """DeepSeek-V3's report, equations 12 to 16 with the bias of 2.1.2; and how often each expert was chosen."""
    out, load = np.zeros_like(a["x"]), np.zeros(8)
    for b, s in np.ndindex(a["x"].shape[:2]):
        p = sigmoid(a["x"][b, s] @ a["router"])
        ranked = p + favoured
        worth = np.sort(ranked.reshape(4, 2), -1).sum(-1)
        among = set(np.argsort(-worth)[:2].tolist())
        chosen = sorted((e for e in range(8) if e // 2 in among), key=lambda e: -ranked[e])[:3]
        load[chosen] += 1
        out[b, s] = sum(expert(a, a["x"][b, s], e, 2.5 * p[e] / p[chosen].sum()) for e in chosen)
    return out, load


def test_experts_are_favoured_where_they_had_less_to_do() -> None:
    m = mixture(f"{OPTIONS}, capacity = 3.0, correction = 0.1", experts=8)
    found, a = arrays_of(m)
    found |= {"moe.favoured": 0.05 * a["favoured"], "moe.load": np.arange(8.0)}
    now = 0.05 * a["favoured"] + 0.1 * np.sign(3.5 - np.arange(8.0))
    want, load = corrected(a, now)
    close(reduced(m, found), want)
    after = dict(zip([s.name for s in m.states], run_graph(m.graph, found)[-2:], strict=True))
    close(after["moe.favoured"], now)
    close(after["moe.load"] / after["moe.load"].sum(), load / load.sum())


def test_favours_move_the_load_towards_even_shares() -> None:
    """Of a router that likes the first two experts, whatever comes."""
    m = mixture(f"{OPTIONS}, capacity = 3.0, correction = 0.01", experts=8)
    found, _ = arrays_of(m)
    found["x"][..., 0] = 1.0
    found["moe.routed_experts.router"] *= 0.5
    found["moe.routed_experts.router"][0, :2] = 3.0
    found |= {"moe.favoured": np.zeros(8), "moe.load": np.zeros(8)}
    spread = []
    for _ in range(100):
        favoured, load = run_graph(m.graph, found)[-2:]
        found |= {"moe.favoured": favoured, "moe.load": load}
        spread.append(load.std() / load.mean())
    assert spread[0] > 0.7 and np.mean(spread[-20:]) < 0.3


TRAINED = """use std.layers (embedding, cross_entropy, linear, moe)
use std.optimizers (adamw)

model m {
  dim b = 8, s = 8, d = 8, v = 12
  input tokens, targets : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d, std = 0.5)
  repeat 2 as block {
    y, busy = moe(x, 8, 6, std = 0.4, OPTIONS)
    x = x + y
  }
  logits = linear(x, over v, std = 0.4) as head
  loss cross_entropy(logits, targets, over v)
}

strategy plan for m {
  RULES
}

job fit {
  train m using plan
  optimizer adamw(lr = 1e-2)
}
"""


@pytest.mark.parametrize(
    "rules",
    [
        "mesh (ep = 2)\n  split e, b on ep\n  microbatches 2 over b",
        "mesh (pp = 2, dp = 2)\n  split b on dp\n  pipeline block on pp, schedule one_f_one_b(microbatches = 2)",
        "mesh (tp = 2)\n  split e, f, v, s on tp",
    ],
)
def test_favours_under_strategies(rules: str) -> None:
    """They are states: micro-batches add up what experts had to do, and all devices favour the same ones."""
    options = f"{OPTIONS}, capacity = 3.0, correction = 0.05, router_bias = true, bounded = true"
    source = TRAINED.replace("RULES", rules).replace("OPTIONS", options)
    compiled = parc.compile(Source("m.par", source), double=True)
    proof = prove(compiled.training, compiled.program, steps=3)
    assert proof.ok, proof
