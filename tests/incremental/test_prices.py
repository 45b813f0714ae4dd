"""What entries of a job that decodes cost: weights, and what is kept, are read for every position."""

from __future__ import annotations

import pytest

import parc.api
from dsl.source import Source

FILE = """\
use std.layers (embedding, grouped_attention, linear, rms_norm, swiglu)
use std.tactics (tensor_parallel)

param context = 4096
param batch = 16
param tp = 1

model net() {
  dim b = batch, s = context, d = 4096, v = 4096
  input tokens : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 8 as block {
    x = x + grouped_attention(rms_norm(x), 32, 32)
    x = x + swiglu(rms_norm(x), 16384)
  }
  logits = linear(rms_norm(x), over v, bias = false) as head
  output logits
}

device card {
  compute f16 1 PFLOP/s
  memory 80 GiB, 1 TB/s
}

cluster box() {
  device gpu = card
  level server = tp gpu over 100 TB/s, 0.001 us
}

strategy plan for net {
  mesh (tp = tp)
  tensor_parallel(tp)
}

job serve {
  infer net() on box() using plan
  precision f16
  decode over s, prefill 512
}
"""
WEIGHTS = 2 * (8 * (4 * 4096 * 4096 + 3 * 4096 * 16384) + 4096 * 4096)
"""Bytes of what is read of them: all but the table of tokens."""


def prices(**params: int) -> dict[str, tuple[float, int, int]]:
    found = parc.api.cost(Source("f.par", FILE), params=params).decoding
    assert [e.entry for e in found] == ["prefill", "decode"]
    return {e.entry: (e.seconds, e.kept, e.positions * e.sequences) for e in found}


def kept(context: int, batch: int) -> int:
    """Bytes of keys and values of 8 layers."""
    return 2 * 2 * 8 * batch * context * 4096


def test_a_step_reads_weights_and_what_is_kept() -> None:
    for context, batch in ((4096, 16), (1024, 16), (4096, 1)):
        seconds, bytes, tokens = prices(context=context, batch=batch)["decode"]
        assert tokens == batch and abs(bytes - kept(context, batch)) <= 8
        least = (WEIGHTS + kept(context, batch)) / 1e12
        assert least <= seconds <= 1.6 * least, (seconds, least)


def test_twice_the_context_costs_what_is_kept_more() -> None:
    short, long = prices(context=2048)["decode"], prices(context=4096)["decode"]
    more = (kept(4096, 16) - kept(2048, 16)) / 1e12
    assert long[0] - short[0] == pytest.approx(more, rel=0.4)
    assert long[1] - short[1] == kept(4096, 16) - kept(2048, 16)


def test_it_is_cut_by_heads() -> None:
    one, two = prices()["decode"], prices(tp=2)["decode"]
    assert abs(two[1] - one[1] / 2) <= 8 and two[0] < 0.75 * one[0]


def test_a_prefill_costs_less_than_its_positions_by_themselves() -> None:
    found = prices()
    assert found["prefill"][2] == 512 * 16 and found["prefill"][0] < 0.1 * 512 * found["decode"][0]
