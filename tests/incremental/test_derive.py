"""The incremental program, derived: positions by themselves give what all of them give at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.evaluate import evaluate
from compiler.incremental.derive import incremental
from compiler.passes.inference import inference
from dsl.source import NOWHERE, Source
from tests.incremental.serial import apart, model_of

LIMIT = 1e-9

BY_HAND = """\
  dim t = s, k = 4, h = 2
  repeat 2 as block {{
    weight wq[d,h,k], wk[d,h,k], wv[d,h,k], wo[h,k,d] ~ normal(0.3)
    q[b,s,h,k] = x @ wq
    key[b,t,h,k] = rename(x @ wk, s -> t)
    value[b,t,h,k] = rename(x @ wv, s -> t)
    raw[b,h,s,t] = q @ key
    z = {}
    e = exp(z - max(z, over t))
    p = e / sum(e, over t)
    mixed[b,s,h,k] = p @ value
    out[b,s,d] = mixed @ wo
    x = x + out
  }}
  y = x"""

MODELS = {
    "gpt": """\
  repeat 2 as block {
    x = x + attention(layer_norm(x), 2)
    x = x + mlp(layer_norm(x), 16)
  }
  y = x""",
    "llama": """\
  repeat 2 as block {
    x = x + grouped_attention(rms_norm(x), 4, 2)
    x = x + swiglu(rms_norm(x), 16)
  }
  y = x""",
    "window": """\
  repeat 2 as block {
    x = x + grouped_attention(x, 2, 1, window = 3, sinks = true, cap = 5.0)
  }
  y = x""",
    "latent": """\
  repeat 2 as block {
    x = x + latent_attention(x, 2, 4, 6, 4, 2, 4)
  }
  y = x""",
    "positions": """\
  weight place[s,d] ~ normal(1.0)
  x = x + place
  y = x + attention(x, 2)""",
    "lstm": """\
  dim f = 5
  y = lstm(x, over f)""",
    "recurrent layers": """\
  repeat 2 as block {
    dim f = 8
    h[b,s,f] = gru(x, over f)
    x = x + rename(h, f -> d)
  }
  y = x""",
    "sums": """\
  y = cumsum(x, over s) / cast(iota(s) + 1, compute)""",
    "shifted": """\
  y = shift(x, s, by = 2, fill = 1.5) * x + shift(x, s, by = 1)""",
    "convolution": """\
  dim o = s, near = 3
  weight c[near,d] ~ normal(1.0)
  w = window(x, s -> (o, near), pad = 4, dilation = 2)
  y = rename(sum(w * c, over near), o -> s)""",
    "after the layers": """\
  dim t = s
  repeat 2 as block {
    x = x + mlp(x, 8)
  }
  z[b,s,t] = x @ rename(x, s -> t)
  y[b,s,d] = softmax(z, over t, keep = iota(s) >= iota(t)) @ rename(x, s -> t)""",
    "linear attention": """\
  dim t = s
  z[b,s,t] = x @ rename(x, s -> t)
  kept = z * cast(iota(t) <= iota(s), compute)
  y[b,s,d] = kept @ rename(x, s -> t)""",
    "masks joined": """\
  dim t = s
  z[b,s,t] = x @ rename(x, s -> t)
  far = iota(s) - iota(t)
  y[b,s,d] = where(not (far < 0) and far % 2 == 0, z, 0.0) @ rename(x, s -> t)""",
    "two masks in a row": """\
  dim t = s, u = s
  z[b,s,t] = where(iota(s) >= iota(t), x @ rename(x, s -> t), 0.0)
  w[b,s,u] = z @ rename(z, (s, t) -> (t, u))
  y[b,s,d] = w @ rename(x, s -> u)""",
    "carried through": """\
  dim t = s
  total = zeros(b, s, d)
  repeat 3 as block {
    total = total + x
    x = tanh(x) + attention(total, 2)
  }
  y = total""",
    "one by hand": BY_HAND.format("where(iota(t) <= iota(s), raw, -30000.0)"),
    "masked by another": BY_HAND.format("where(iota(t) > iota(s), -1e9, raw)"),
    "masked by negation": BY_HAND.format("where(not (iota(s) - iota(t) < 0), raw, -1e30)"),
    "a mask added": BY_HAND.format("raw + where(iota(t) <= iota(s), 0.0, -1e9)"),
    "renamed": BY_HAND.format("where(iota(t) <= iota(s), raw, -3e38)").replace("key", "foo").replace("value", "bar"),
}


def splits(size: int) -> Iterator[tuple[int, ...]]:
    """All ways to cut so many positions into a prefill, if any, and steps."""
    for first in range(size + 1):
        yield (*([first] if first else []), *([1] * (size - first)))


@pytest.mark.parametrize("name", MODELS)
def test_all_prefills_of_eight_positions(name: str) -> None:
    model = model_of(MODELS[name])
    assert max(apart(model, split) for split in splits(8)) <= LIMIT


@pytest.mark.parametrize("name", ["gpt", "recurrent layers", "convolution"])
def test_drawn_chunks_of_sixty_four(name: str) -> None:
    model, rng = model_of(MODELS[name], seq=64), random.Random(name)
    for _ in range(3):
        cuts = sorted(rng.sample(range(1, 64), 6))
        split = [b - a for a, b in zip([0, *cuts], [*cuts, 64])]
        assert apart(model, split) <= LIMIT


def states(name: str, length: int = 1) -> dict[str, str]:
    return {s.name: str(s.value.type) for s in incremental(model_of(MODELS[name]), "s", length, NOWHERE).states}


def test_what_is_kept() -> None:
    """The fewest bytes: keys before they are repeated for queries; of sums, scans and shifts what they carry."""
    assert states("llama") == {
        "position": "int32[]",
        "block.grouped_attention.key.cache": "f64[block=2, b=2, t=8, h=2, k=2]",
        "block.grouped_attention.value.cache": "f64[block=2, b=2, t=8, h=2, k=2]",
    }
    assert states("sums") == {"position": "int32[]", "cumsum.total": "f64[b=2, d=8]"}
    assert set(states("lstm").values()) == {"f64[b=2, f=5]", "f64[b=2, g=5]"}
    assert list(states("recurrent layers").values()) == ["f64[block=2, b=2, g=8]"]
    assert states("convolution") == {"embedding.out.last": "f64[b=2, past=4, d=8]"}
    for name in MODELS:
        assert states(name) == states(name, 4)


def test_what_is_renamed_twice_is_kept_once() -> None:
    assert list(states("linear attention").values()) == ["int32[]", "f64[b=2, t=8, d=8]"]
    other = model_of(MODELS["linear attention"].replace("kept @ rename(x, s -> t)", "kept @ tanh(rename(x, s -> t))"))
    assert len(incremental(other, "s", 1, NOWHERE).states) == 3


def test_a_mask_that_is_too_weak_is_seen() -> None:
    """Scores so low that the mask's number is no mask for them: no number rather than a wrong one."""
    import numpy as np

    from tests.incremental.serial import by_positions, drawn

    model = model_of(BY_HAND.format("where(iota(t) <= iota(s), raw - 30000.0, -30000.0)"))
    (found,) = by_positions(model, drawn(model, 0), [1] * 8)
    assert np.isnan(found).any()
    assert apart(model_of(BY_HAND.format("where(iota(t) <= iota(s), raw - 3000.0, -30000.0)")), [1] * 8) <= LIMIT


def test_mamba() -> None:
    text = (Path(__file__).parents[2] / "examples" / "mamba.par").read_text()
    head = text[: text.index("strategy ")].replace("loss cross_entropy(logits, targets, over v)", "output logits")
    job = evaluate(Source("m.par", f"{head}job serve {{\n  infer mamba(2, 8, 3, 11, 8, 2)\n  precision f64\n}}\n"))
    model = inference(job.model, job.span)
    assert max(apart(model, split) for split in splits(8)) <= LIMIT


CROSS = """\
  dim k = 4, h = 2
  repeat 2 as block {
    x = x + attention(layer_norm(x), 2)
    weight wq[d,h,k], wk[d,h,k], wv[d,h,k], wo[h,k,d] ~ normal(0.5)
    q[b,s,h,k] = x @ wq
    key[b,u,h,k] = seen @ wk
    value[b,u,h,k] = seen @ wv
    scores[b,h,s,u] = q @ key
    mixed[b,s,h,k] = softmax(scores, over u) @ value
    out[b,s,d] = mixed @ wo
    x = x + out
  }
  y = x"""
ENCODER = """\
  dim u = 6
  input image : f64[b,u,d]
  seen = image
  repeat 2 as encoder {
    seen = seen + attention(layer_norm(seen), 2, causal = false)
  }
"""


def test_an_encoder_runs_once() -> None:
    """Cross attention: its keys and values are kept by the first pass, layer by layer; later ones have no encoder."""
    model = model_of(CROSS, more=ENCODER)
    assert max(apart(model, split) for split in splits(8) if split[0] < 8) <= LIMIT
    later = incremental(model, "s", 1, NOWHERE, begun=True)
    assert [i.value.name for i in later.inputs] == ["tokens.next"]
    assert not any(w.name.startswith("encoder") for w in later.weights)
    kept = {s.name: str(s.value.type) for s in later.states}
    assert kept["block.key.once"] == kept["block.value.once"] == "f64[block=2, b=2, u=6, h=2, k=4]"
    first = incremental(model, "s", 4, NOWHERE)
    assert {s.name: str(s.value.type) for s in first.states} == kept and len(first.inputs) == 2
