"""Pads, cuts and joins that move positions back are decoded as shifts and windows are; the first position is kept."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job, joined
from compiler.evaluate import evaluate
from compiler.incremental.cut_earlier import cut_earlier
from compiler.incremental.derive import incremental
from compiler.incremental.looked_back import looked_back
from compiler.model import DECODING, INFER
from compiler.ops.shape import Concat, Pad, Slice
from compiler.text import parse_program, show
from compiler.verify import verify
from compiler.walk import walk
from dsl.source import NOWHERE, Source
from runtime.prove.decoding import Course, prove_decoding
from runtime.prove.serial import run_graph
from runtime.stacked import Emulator
from tests.incremental.serial import apart, drawn, model_of
from tests.incremental.test_derive import LIMIT

SPLITS = ((8,), (1,) * 8, (3, 5), (2, 1, 1, 1, 3), (1, 7))
BACK = {
    "a convolution": "  dim k = 4\n  weight c[k,d] ~ normal(0.5)\n"
    "  w = window(pad(x, s -> sp, 3, 0, 0.0), sp -> (so, k))\n  y = sum(rename(w, so -> s) * c, over k)",
    "filled with ones, and a border behind": "  dim o = s, k = 3\n"
    "  w = window(pad(x, s -> sp, 2, 0, 1.0), sp -> (o, k))\n"
    "  y = x * rename(max(w, over k), o -> s)",
    "cut, and put together": "  y = x + concat(slice(x, s -> r, 0..4), slice(x, s -> r, 4..8), over r -> s)",
    "further back than it is wide": "  dim o = s, k = 3\n"
    "  w = window(slice(pad(x, s -> p, 5, 0, 0.0), p -> q, 0..10), q -> (o, k))\n"
    "  y = x + rename(sum(w, over k), o -> s)",
    "padded on both sides, and cut when summed": "  dim k = 4, so = s + 3, e = 5\n"
    "  weight c[k,d,e], bias[e], h[e,d] ~ normal(0.5)\n  w = window(x, s -> (so, k), pad = 3)\n"
    "  y = tanh(slice(tanh(w @ c + bias), so -> s, 0..8)) @ h",
    "a bias on what is padded": "  weight bias[d] ~ normal(1.0)\n"
    "  y = x + slice(tanh(pad(x, s -> sp, 2, 0, 0.0) + bias), sp -> s, 0..8)",
    "taps": "  xp = pad(x, s -> sp, 2, 0, 0.0)\n"
    "  y = slice(xp, sp -> s, 0..8) + 2.0 * slice(xp, sp -> s, 1..9) + 3.0 * slice(xp, sp -> s, 2..10)",
    "a join with zeros": "  dim one = 1\n"
    "  y = x + concat(zeros(b, one, d), slice(x, s -> one, 0..7), over one -> s)",
    "a join with a weight": "  dim two = 2\n  weight z[b,two,d] ~ normal(1.0)\n"
    "  y = x + concat(z, slice(x, s -> two, 0..6), over two -> s)",
    "a join of three": "  dim one = 1\n  weight z[b,one,d] ~ normal(1.0)\n"
    "  y = x + concat(z, 2.0 * z, slice(x, s -> one, 0..6), over one -> s)",
    "a pad of a slice": "  y = x + pad(slice(x, s -> r, 0..6), r -> s, 2, 0, 0.5)",
    "the first one again": "  y = x + concat(slice(x, s -> r, 0..1), slice(x, s -> r, 0..7), over r -> s)",
    "all from the first one": "  y = x * sum(slice(x, s -> one, 0..1), over one)",
    "each second number": "  one = slice(x, d -> h, 0..8, step = 2)\n"
    "  dim two = 2\n  weight w[h,two,d] ~ normal(0.5)\n"
    "  y = x + sum((one * slice(x, d -> h, 1..8, step = 2)) @ w, over two)",
    "the first one of each layer": "  repeat 2 as block {\n"
    "    x = attention(x * tanh(sum(slice(x, s -> one, 0..1), over one)), 2)"
    " + slice(pad(x, s -> sp, 2, 0, 0.0), sp -> s, 1..9)\n  }\n  y = x",
}  # fmt: skip


@pytest.mark.parametrize("name", BACK)
def test_positions_by_themselves_equal_all_of_them(name: str) -> None:
    model = model_of(BACK[name])
    env = drawn(model, 0)
    (whole,), (written,) = run_graph(model.graph, env), run_graph(looked_back(cut_earlier(model)).graph, env)
    assert (whole == written).all()  # by itself, to the last bit
    assert max(apart(model, split) for split in SPLITS) <= LIMIT


def test_no_more_is_kept_than_is_looked_at() -> None:
    def kept(name: str) -> list[str]:
        states = incremental(model_of(BACK[name]), "s", 1, NOWHERE).states
        return sorted(str(s.value.type) for s in states if s.value.type.dims)

    assert kept("a convolution") == ["f64[b=2, past=3, d=8]"]
    assert kept("padded on both sides, and cut when summed") == ["f64[b=2, past=3, d=8]"]
    assert kept("taps") == ["f64[b=2, past=1, d=8]", "f64[b=2, past=2, d=8]"]
    assert kept("all from the first one") == ["f64[b=2, one=1, d=8]"]


def test_what_moves_nothing_back_stays() -> None:
    body = "  y = x + concat(slice(x, s -> r, 4..8), slice(x, s -> r, 1..5), over r -> s)"
    body += " + pad(slice(x, s -> r, 1..8), r -> s, 0, 1, 0.0)"
    ops = [type(node.op) for node, _ in walk(looked_back(model_of(body)).graph)]
    assert (ops.count(Concat), ops.count(Slice), ops.count(Pad)) == (1, 3, 1)


FILE = """\
use std.layers (attention, embedding, linear, rms_norm)

model net(batch, seq) {
  dim b = batch, s = seq, d = 8, v = 12, k = 3, so = s + 2, one = 1
  input tokens : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 2 as block {
    weight c[k,d] ~ normal(0.5)
    y = x + attention(rms_norm(x), 2) + tanh(sum(slice(x, s -> one, 0..1), over one))
    z = tanh(slice(sum(window(y, s -> (so, k), pad = 2) * c, over k), so -> s, 0..seq))
    x = x + concat(tanh(slice(x, s -> one, 0..1)), slice(z, s -> one, 0..seq - 1), over one -> s)
  }
  logits = linear(rms_norm(x), over v, bias = false) as head
  output logits
}

strategy plan for net {
STRATEGY
}

job serve {
  infer net(4, 8) using plan
  precision f64
  decode over s, prefill 4
}
"""


@pytest.mark.parametrize(
    "strategy",
    [
        "  mesh (tp = 2)\n  split h, v, s on tp",
        "  mesh (pp = 2, dp = 2)\n  split b on dp\n  pipeline block on pp, schedule gpipe(microbatches = 2)",
    ],
)
def test_under_strategies(strategy: str) -> None:
    job = evaluate(Source("net.par", FILE.replace("STRATEGY", strategy)))
    whole, first, one = (compile_job(job, entry) for entry in (INFER, *DECODING))
    program = joined([first.program, one.program])
    assert verify(program) == () and parse_program(show(program)) == program and job.decoding is not None
    (row,) = prove_decoding(whole.training, program, job.decoding, Course(1, 4), executor=Emulator)
    assert row.ok and row.error < 1e-9


@pytest.mark.parametrize(
    "body",
    [
        "  y = tanh(x) + shift(x, s, by = 1)",
        "  y = x * cast(sum(slice(tokens, s -> one, 0..1), over one), compute)",
        "  y = tanh(x) + shift(x, s, by = 2) + sum(slice(x, s -> one, 0..1), over one)",
    ],
)
def test_what_is_kept_is_called_alike_in_all_entries(body: str) -> None:
    """A prefill that gives outputs at its last position alone keeps what single positions read."""
    model = model_of(body)
    prefill, one = (
        {s.name for s in incremental(model, "s", n, NOWHERE, called, last=n > 1).states}
        for n, called in ((3, "first"), (1, "next"))
    )
    assert prefill == one
