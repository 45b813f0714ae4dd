"""Every layer of the standard library computes what it says (PyTorch or plain numpy knows)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsl import ast
from dsl.diagnostics import ParcError
from runtime.prove.serial import run_graph
from tests.evaluate.programs import model, random_arrays, reduced
from tests.evaluate.std import IMAGE, TOKENS, close, std, tensors, text, torch


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_activations(name: str) -> None:
    m = text(TOKENS + f"weight w[d]\nloss sum({name}(x * w))", name)
    a = random_arrays(m)
    x = torch().tensor(a["x"] * a["w"])
    f = torch().nn.functional
    want = {"gelu": lambda: f.gelu(x), "gelu_tanh": lambda: f.gelu(x, approximate="tanh"), "silu": lambda: f.silu(x)}
    close(reduced(m, a), want[name]())


def test_layer_norm() -> None:
    m = text(TOKENS + "loss sum(layer_norm(x))", "layer_norm")
    a = random_arrays(m)
    t = tensors(a)
    want = torch().nn.functional.layer_norm(t["x"], (8,), t["layer_norm.gain"], t["layer_norm.bias"])
    close(reduced(m, a), want)


def test_rms_norm() -> None:
    m = text(TOKENS + "loss sum(rms_norm(x))", "rms_norm")
    a = random_arrays(m)
    x = a["x"]
    close(reduced(m, a), x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * a["rms_norm.gain"])


def test_group_norm() -> None:
    m = text(IMAGE + "loss sum(group_norm(image, groups = 2))", "group_norm")
    a = random_arrays(m)
    t = tensors(a)
    image = t["image"].permute(0, 3, 1, 2)
    want = torch().nn.functional.group_norm(image, 2, t["group_norm.gain"], t["group_norm.bias"])
    close(reduced(m, a), want.permute(0, 2, 3, 1))


@pytest.mark.parametrize("per_microbatch", ["false", "true"])
def test_batch_norm(per_microbatch: str) -> None:
    """In training, with what it keeps, by the formulas of PyTorch's: `moved` once for each micro-batch, here once."""
    m = text(IMAGE + f"loss sum(batch_norm(image, per_microbatch = {per_microbatch}))", "batch_norm")
    a = random_arrays(m)
    for s in m.states:
        a[s.name] = np.random.default_rng(5).uniform(0.5, 1.5, s.value.type.shape)
    x, count = a["image"], a["image"][..., 0].size
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    close(reduced(m, a), (x - mean) / np.sqrt(variance + 1e-5) * a["batch_norm.gain"] + a["batch_norm.bias"])
    kept = run_graph(m.graph, a)[-2:]
    close(kept[0], 0.9 * a["batch_norm.usual_mean"] + 0.1 * mean)
    close(kept[1], 0.9 * a["batch_norm.usual_variance"] + 0.1 * variance * count / (count - 1))


def test_feed_forward() -> None:
    m = text(TOKENS + "loss sum(mlp(x, 16))", "mlp")
    a = random_arrays(m)
    t = tensors(a)
    u = torch().nn.functional.gelu(t["x"] @ t["mlp.w1"] + t["mlp.b1"])
    close(reduced(m, a), u @ t["mlp.w2"] + t["mlp.b2"])


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_lstm() -> None:
    """Position by position, with the formulas of PyTorch's `LSTM`."""
    m = text(TOKENS + "dim f = 4\nloss sum(lstm(x, over f))", "lstm")
    a = random_arrays(m)
    w = {k.removeprefix("lstm."): v for k, v in a.items()}
    h = c = np.zeros((2, 4))
    want = []
    for t in range(6):
        x = a["x"][:, t]
        i, f, o, n = (x @ w[f"w{k}"] + h @ w[f"u{k}"] + w[f"b{k}"] for k in "ifoc")
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(n)
        h = _sigmoid(o) * np.tanh(c)
        want.append(h)
    close(reduced(m, a), np.stack(want, 1))


def test_gru() -> None:
    """Position by position, with the formulas of PyTorch's `GRU`."""
    m = text(TOKENS + "dim f = 4\nloss sum(gru(x, over f))", "gru")
    a = random_arrays(m)
    w = {k.removeprefix("gru."): v for k, v in a.items()}
    h = np.zeros((2, 4))
    want = []
    for t in range(6):
        x = a["x"][:, t]
        r, z = (_sigmoid(x @ w[f"w{k}"] + h @ w[f"u{k}"] + w[f"b{k}"]) for k in "rz")
        n = np.tanh(x @ w["wn"] + w["bn"] + r * (h @ w["un"] + w["cn"]))
        h = (1 - z) * n + z * h
        want.append(h)
    close(reduced(m, a), np.stack(want, 1))


def test_relu_mlp_and_swiglu() -> None:
    m = text(TOKENS + "loss sum(relu_mlp(x, 16) + swiglu(x, 4))", "relu_mlp, swiglu")
    a = random_arrays(m)
    x = a["x"]
    u = np.maximum(x @ a["relu_mlp.w1"] + a["relu_mlp.b1"], 0) @ a["relu_mlp.w2"] + a["relu_mlp.b2"]
    gate = x @ a["swiglu.gate"]
    close(reduced(m, a), u + (gate / (1 + np.exp(-gate)) * (x @ a["swiglu.up"])) @ a["swiglu.down"])


def test_linear() -> None:
    m = text(TOKENS + "dim o = 5\nloss sum(linear(x, over o))", "linear")
    a = random_arrays(m)
    close(reduced(m, a), a["x"] @ a["linear.w"] + a["linear.offset"])


@pytest.mark.parametrize("causal", [True, False])
def test_attention(causal: bool) -> None:
    m = text(TOKENS + f"loss sum(attention(x, 2, causal = {str(causal).lower()}))", "attention")
    a = random_arrays(m)
    t = {n.removeprefix("attention."): v for n, v in tensors(a).items()}
    e = torch().einsum
    q, k, v = (e("bsd,dhk->bhsk", t["x"], t[f"w{n}"]) for n in "qkv")
    q, v = q + t["bq"][:, None], v + t["bv"][:, None]
    mixed = torch().nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    close(reduced(m, a), e("bhsk,hkd->bsd", mixed, t["wo"]) + t["bo"])


def test_cross_attention() -> None:
    memory = "dim t = 5, e = 3\ninput y : f64[b, t, e]\n"
    m = text(TOKENS + memory + "loss sum(cross_attention(x, y, 2))", "cross_attention")
    a = random_arrays(m)
    t = {n.removeprefix("cross_attention."): v for n, v in tensors(a).items()}
    e = torch().einsum
    q = e("bsd,dhk->bhsk", t["x"], t["wq"]) + t["bq"][:, None]
    k, v = (e("bte,ehk->bhtk", t["y"], t[f"w{n}"]) for n in "kv")
    v = v + t["bv"][:, None]
    mixed = torch().nn.functional.scaled_dot_product_attention(q, k, v)
    close(reduced(m, a), e("bhsk,hkd->bsd", mixed, t["wo"]) + t["bo"])


def turned(x: Any) -> Any:
    """Rotary positions of [b, h, s, k], the textbook way: pairs as complex numbers."""
    n = x.shape[-1] // 2
    angle = np.arange(x.shape[-2])[:, None] * 10000.0 ** (-np.arange(n) / n)
    z = (x[..., :n] + 1j * x[..., n:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], -1)


@pytest.mark.parametrize("window", [0, 1, 3])
def test_grouped_attention(window: int) -> None:
    m = text(TOKENS + f"loss sum(grouped_attention(x, 4, 2, window = {window}))", "grouped_attention")
    a = {n.removeprefix("grouped_attention."): v for n, v in random_arrays(m).items()}
    q = turned(np.einsum("bsd,dhrk->bhrsk", a["x"], a["wq"]))
    k = turned(np.einsum("bsd,dhk->bhsk", a["x"], a["wk"]))
    v = np.einsum("bsd,dhk->bhsk", a["x"], a["wv"])
    scores = np.einsum("bhrsk,bhtk->bhrst", q, k) / np.sqrt(2)
    seen = np.tri(6, dtype=bool) & ~np.tri(6, 6, -window if window else -6, dtype=bool)
    scores = np.where(seen, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    want = np.einsum("bhrst,bhtk,hrkd->bsd", p, v, a["wo"])
    close(reduced(m, random_arrays(m)), want)


def test_embedding_and_one_hot_agree() -> None:
    head = "dim b = 3, v = 5, d = 4\ninput i : int32[b] in 0..v\n"
    m = text(head + "e = embedding(i, over v, over d)\nloss sum(e)", "embedding")
    a = random_arrays(m)
    close(reduced(m, a), a["embedding.table"][a["i"]])
    one = text(head + "weight w[v, d]\nloss sum(one_hot(i, over v) @ w)", "one_hot")
    close(reduced(one, {"i": a["i"], "w": a["embedding.table"]}), a["embedding.table"][a["i"]])


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (5, 2)])
def test_conv(size: int, stride: int) -> None:
    m = text(IMAGE + f"loss sum(conv(image, 3, size = {size}, stride = {stride}))", "conv")
    a = random_arrays(m)
    t = tensors(a)
    image, kernel = t["image"].permute(0, 3, 1, 2), t["conv.w"].permute(3, 2, 0, 1)
    want = torch().nn.functional.conv2d(image, kernel, t["conv.offset"], stride=stride, padding=size // 2)
    close(reduced(m, a), want.permute(0, 2, 3, 1))


def test_results_of_conv_keep_the_names_of_dims() -> None:
    m = text(IMAGE + "z = conv(conv(image, 3, stride = 2), 5)\nloss sum(z)", "conv")
    names = {w.name: w.value.type.shape for w in m.weights}
    assert names["conv.w"] == (3, 3, 4, 3)
    assert names["conv_1.w"] == (3, 3, 3, 5)


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pools(name: str) -> None:
    m = text(IMAGE + f"weight w[c]\nloss sum({name}(image * w))", name)
    a = random_arrays(m)
    image = torch().tensor(a["image"] * a["w"]).permute(0, 3, 1, 2)
    f = torch().nn.functional
    want = f.max_pool2d(image, 2) if name == "max_pool" else f.avg_pool2d(image, 2)
    close(reduced(m, a), want.permute(0, 2, 3, 1))


def test_dropout_keeps_its_share_and_the_mean() -> None:
    m = model("dim n = 4000\nweight w[n]\nloss sum(dropout(w, 0.25))", use="dropout")
    out = reduced(m, {"w": np.ones(4000, np.float32)})
    assert set(np.unique(out).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert 0.72 < (out != 0).mean() < 0.78


def test_softmax_and_log_softmax() -> None:
    m = text(
        TOKENS + "weight w[d]\nloss sum(softmax(x * w, over s) + log_softmax(x * w, over d))", "softmax, log_softmax"
    )
    a = random_arrays(m)
    x = torch().tensor(a["x"] * a["w"])
    close(reduced(m, a), x.softmax(1) + x.log_softmax(2))


def test_cross_entropy_and_accuracy() -> None:
    body = "dim b = 6, v = 5\ninput x : f64[b, v]\ninput i : int32[b] in 0..v\nweight w[v]\nz = x * w\n"
    tail = "loss cross_entropy(z, i, over v)\nmetric accuracy = accuracy(z, i, over v)"
    m = text(body + tail, "accuracy, cross_entropy")
    a = random_arrays(m)
    loss, accuracy = run_graph(m.graph, a)
    z, i = torch().tensor(a["x"] * a["w"]), torch().tensor(a["i"]).long()
    close(loss, torch().nn.functional.cross_entropy(z, i))
    close(accuracy, (z.argmax(-1) == i).double().mean())


def test_mse() -> None:
    m = text(TOKENS + "weight w[d]\nloss mse(x * w, x)", "mse")
    a = random_arrays(m)
    close(run_graph(m.graph, a)[0], ((a["x"] * a["w"] - a["x"]) ** 2).mean())


def test_statistics_are_taken_in_master_precision() -> None:
    body = "dim b = 2, s = 4, d = 8, v = 5\ninput x : compute[b, s, d]\ninput i : int32[b, s] in 0..v\nweight w[d, v]\n"
    body += "loss cross_entropy(layer_norm(x) @ w, i, over v)"
    m = model(body, use="cross_entropy, layer_norm", precision="bf16, master f32")
    wide = {n.output.type.dtype for n in m.graph if n.op.mnemonic == "reduce"}
    assert wide == {"f32"}
    assert {n.output.type.dtype for n in m.graph if n.op.mnemonic == "contract"} == {"bf16"}


def test_every_function_is_tested_here() -> None:
    here = Path(__file__).read_text()
    elsewhere = {"in_best_groups", "latent_attention", "mean_of_counted", "moe", "rotary", "routed_experts"}
    here += (Path(__file__).parent / "test_std_published.py").read_text()
    names = {i.name.id for i in std("layers") if isinstance(i, ast.Function)} - elsewhere
    assert [n for n in sorted(names) if n not in here] == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("attention(x, 3)", "`d % heads == 0` does not hold: 2 == 0"),
        ("cross_attention(x, rename(x, s -> t), 5)", "`size > 0 or d % heads == 0` does not hold"),
        ("grouped_attention(x, 4, 3)", "`heads % kv_heads == 0` does not hold"),  # would leave one head out
        ("grouped_attention(x, 3, 1)", "`size > 0 or d % heads == 0` does not hold"),
        ("grouped_attention(x, 8, 2)", "`k % 2 == 0` does not hold: 1 == 0"),  # rotary turns halves
    ],
)
def test_heads_that_make_no_sense(call: str, told: str) -> None:
    with pytest.raises(ParcError) as caught:
        text(f"{TOKENS}y = {call}\nloss mean(y * y)", call.partition("(")[0])
    (found,) = caught.value.diagnostics
    assert found.code == "E0217" and found.message.startswith(told)
