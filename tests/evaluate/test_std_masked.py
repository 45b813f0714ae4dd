"""What is masked counts for exactly nothing: softmax with `keep`, attention, targets that are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import parc
from compiler.passes.differentiate import differentiate
from compiler.regions.masks import kept
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.serial import run_graph
from tests.evaluate.programs import model, random_arrays, reduced
from tests.evaluate.std import close, text
from tests.passes.checks import gradients

HEAD = (
    "dim b = 3, s = 5, t = 7\ninput x : f64[b, s, t]\ninput seen : int32[b, s, t] in 0..2\nweight w[b, s, t] ~ ones\n"
)
SOFTMAX = HEAD + "p = softmax(x * w, over t, keep = seen == 1)\nweight u[b, s, t]\nloss sum(p * u)"


def shares(z: Any, seen: Any) -> Any:
    """The textbook's, row by row; zeros where nothing is seen."""
    out = np.zeros_like(z)
    for at in np.ndindex(z.shape[:-1]):
        row = np.flatnonzero(seen[at])
        if len(row):
            e = np.exp(z[at][row] - z[at][row].max())
            out[at][row] = e / e.sum()
    return out


def masked(seed: int = 0) -> tuple[Any, dict[str, Any]]:
    m = text(SOFTMAX, "softmax")
    a = random_arrays(m, seed)
    a["w"] = np.ones_like(a["w"])
    a["seen"][0, :2] = 0  # rows of which nothing is kept
    a["seen"][1, 0] = [0, 0, 1, 0, 0, 0, 0]
    return m, a


@pytest.mark.parametrize("seed", range(3))
def test_softmax_of_what_is_kept(seed: int) -> None:
    m, a = masked(seed)
    want = shares(a["x"], a["seen"])
    close(reduced(m, a), want * a["u"])
    got = dict(zip([w.name for w in m.weights], gradients(differentiate(m), a), strict=True))
    inner = (want * a["u"]).sum(-1, keepdims=True)
    close(got["w"], want * (a["u"] - inner) * a["x"])
    assert np.all(got["w"][a["seen"] == 0] == 0) and np.all(got["u"][a["seen"] == 0] == 0)


@pytest.mark.parametrize("value", [1e30, -1e30, np.inf, -np.inf, np.nan])
def test_what_is_not_kept_may_be_anything(value: float) -> None:
    """Neither the result nor the derivative sees it, nor is there a NaN from 0 · inf."""
    m, a = masked()
    want, slopes = run_graph(m.graph, a), gradients(differentiate(m), a)
    hidden = a | {"w": np.where(a["seen"] == 0, value, a["w"]), "x": np.where(a["seen"] == 0, 1.0, a["x"])}
    close(run_graph(m.graph, hidden), want)
    for got, expected in zip(gradients(differentiate(m), hidden), slopes, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_scores_far_below_any_mask_are_shares_too() -> None:
    m, a = masked()
    close(reduced(m, a | {"x": a["x"] - 1e6}), shares(a["x"] - 1e6, a["seen"]) * a["u"])


@pytest.mark.parametrize("precision", ["f32", "bf16, master f32", "f16, master f32", "f16, master f16"])
def test_rows_of_nothing_in_narrow_types(precision: str) -> None:
    m = model(SOFTMAX.replace("f64", "compute"), use="softmax", precision=precision)
    a = {n: x if x.dtype == np.int32 else x.astype(np.float32) for n, x in masked()[1].items()}
    got = reduced(m, a)
    assert np.all(np.isfinite(got)) and np.all(got[a["seen"] == 0] == 0)
    assert all(np.all(np.isfinite(g)) for g in gradients(differentiate(m), a))


def test_without_keep_nothing_is_masked() -> None:
    m = text("dim b = 3, t = 4\nweight w[b, t]\nloss sum(softmax(w, over t))", "softmax")
    assert "where" not in {getattr(n.op, "fn", "") for n in m.graph}


def test_the_share_that_a_window_keeps_is_known() -> None:
    """A window is one condition of two parts; the cost model samples it."""
    body = "dim b = 1, s = 64, d = 8\ninput x : f64[b, s, d]\n"
    m = text(body + "loss sum(grouped_attention(x, 2, 1, window = 16))", "grouped_attention")
    made = {v.name: n for n in m.graph for v in n.outputs}
    wheres = [i for i in made.values() if getattr(i.op, "fn", "") == "where" and len(i.outputs[0].type.dims) == 5]
    assert len(wheres) == 2
    share = sum(min(i + 1, 16) for i in range(64)) / 64**2
    assert kept(wheres, made, {}) == (pytest.approx(share, abs=0.01), 0.0)


# --- losses -----------------------------------------------------------------------------------------------------


def entropy(z: Any, targets: Any, ignore: int, smoothing: float) -> tuple[Any, Any]:
    """`torch.nn.functional.cross_entropy`, from its documentation: the loss and its derivative."""
    n, v = z.shape
    log = z - np.log(np.exp(z).sum(-1, keepdims=True))
    total, slope, number = 0.0, np.zeros_like(z), 0
    for i, target in enumerate(targets):
        if target == ignore or target < 0:
            continue
        q = np.full(v, smoothing / v)
        q[target] += 1 - smoothing
        total, number = total - (q * log[i]).sum(), number + 1
        slope[i] = np.exp(log[i]) - q
    return total / max(number, 1), slope / max(number, 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("low, high, ignore", [(0, 6, -100), (-100, 6, -100), (0, 6, 2), (-1, 6, 0), (-100, 99, -100)])
def test_cross_entropy_of_the_positions_that_count(low: int, high: int, ignore: int, smoothing: float) -> None:
    body = f"dim n = 40, v = 6\ninput i : int32[n] in {low}..{high}\nweight z[n, v]\n"
    call = f"cross_entropy(z, i, over v, ignore = {ignore}, smoothing = {smoothing})"
    tail = f"loss {call}\nmetric right = accuracy(z, i, over v, ignore = {ignore})"
    m = text(body + tail, "accuracy, cross_entropy")
    a = random_arrays(m)
    a["i"] = (
        np.random.default_rng(1).choice([i for i in (ignore, -7, 0, 1, 2, 5) if low <= i < high], 40).astype(np.int32)
    )
    loss, right = run_graph(m.graph, a)
    want, slope = entropy(a["z"], a["i"], ignore, smoothing)
    close(loss, want)
    close(gradients(differentiate(m), a)[0], slope)
    counted = (a["i"] >= 0) & (a["i"] != ignore)
    close(right, (a["z"].argmax(-1) == a["i"])[counted].mean())
    if (low, ignore) == (0, -100):  # the range says that all count: nothing is counted
        assert "cast" not in {n.op.mnemonic for n in m.graph if n.output.name.startswith("cross_entropy")}


@pytest.mark.parametrize("target, want", [(-100, 0.0), (6, np.nan), (2**31 - 1, np.nan), (-(2**31), 0.0)])
def test_targets_that_are_no_classes(target: int, want: float) -> None:
    """A batch in which nothing counts has the loss 0, and no gradient; one with a class that there is not is NaN."""
    m = text("dim n = 4, v = 6\ninput i : int32[n]\nweight z[n, v]\nloss cross_entropy(z, i, over v)", "cross_entropy")
    a = random_arrays(m) | {"i": np.full(4, target, np.int32)}
    np.testing.assert_array_equal(run_graph(m.graph, a)[0], want)
    if want == 0:
        assert not gradients(differentiate(m), a)[0].any()


TUNED = """use std.layers (accuracy, attention, cross_entropy, embedding, linear, layer_norm)
use std.optimizers (adamw)

model tuned {
  dim b = 8, s = 8, d = 8, v = 12
  input tokens : int32[b,s] in 0..v
  input labels : int32[b,s] in -100..v
  x = embedding(tokens, over v, over d, std = 0.5)
  repeat 2 as block {
    x = x + attention(layer_norm(x), 2, std = 0.4)
  }
  logits = linear(x, over v, std = 0.4) as head
  metric right = accuracy(logits, labels, over v)
  loss cross_entropy(logits, labels, over v, smoothing = 0.1)
}

strategy plan for tuned {
  RULES
}

job fit {
  train tuned using plan
  optimizer adamw(lr = 1e-2)
}
"""


@pytest.mark.parametrize(
    "rules",
    [
        "mesh (dp = 2)\n  split b on dp",
        "mesh (tp = 2)\n  split h, v, s on tp",
        "mesh (dp = 2)\n  split b on dp\n  microbatches 4 over b",
        "mesh (pp = 2, dp = 2)\n  split b on dp\n  pipeline block on pp, schedule one_f_one_b(microbatches = 4)",
    ],
)
def test_the_divisor_is_the_number_in_the_whole_batch(rules: str) -> None:
    """Few positions count (12 of 112 labels), in some pieces none: still each counts as much as any other."""
    compiled = parc.compile(Source("tuned.par", TUNED.replace("RULES", rules)), double=True)
    assert prove(compiled.training, compiled.program).ok
