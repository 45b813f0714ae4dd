"""Attention whose probabilities a program keeps: fused kernels do not, and make them again in the pass backward."""

from __future__ import annotations

import pytest

import parc
from compiler.cost.kernels.work import Product, Vector
from compiler.cost.price.calibration import of_cluster
from compiler.cost.time.simulate import Simulation
from dsl.source import Source

TEXT = """
use std.devices (a100_80)
use std.layers (attention, cross_entropy, layer_norm)
use std.optimizers (adamw)
model m() {
  dim b = 2, s = 1024, d = 256, v = 50
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d] ~ normal(0.02)
  x[b,s,d] = take(wte, tokens, over v)
  repeat 2 as block {
    x = x + ATTENTION
  }
  loss cross_entropy(layer_norm(x) @ wte, targets, over v)
}
cluster c() {
  device npu = a100_80
  level server = 2 npu over 300 GB/s, 1 us
}
strategy kept for m {
  mesh (tp = 2)
  split h on tp
}
strategy again for m {
  mesh (tp = 2)
  split h on tp
  recompute block.attention keep block.attention.q, block.attention.key, block.attention.value, block.attention.mixed
}
job g {
  train m() on c() using kept
  optimizer adamw(lr = 0.001)
  precision PRECISION
}
"""


def simulation(attention: str, precision: str, strategy: str) -> Simulation:
    text = TEXT.replace("ATTENTION", attention).replace("PRECISION", precision)
    return Simulation.of(parc.compile(Source("kept.par", text), strategy=strategy))


def is_core(node: object) -> bool:
    return isinstance(node, Product) and node.core


@pytest.mark.parametrize("precision", ["bf16, master f32", "f32, master f32"])
@pytest.mark.parametrize("more", ["", ", causal = false", ", drop = 0.1"])
def test_what_is_kept_costs_what_making_it_again_costs(more: str, precision: str) -> None:
    """Of the inside of attention: the same work in fused kernels, and no value with all dims of scores in memory."""
    found = []
    for strategy in ("kept", "again"):
        s = simulation(f"attention(layer_norm(x), 4{more})", precision, strategy)
        pricer = s.pricer(of_cluster(s.cluster).changed(fused_attention=1.0, launch=0.0))
        nodes = [n for part in s.features.parts[0].values() for n, _ in part.each()]
        found.append(sum(pricer.price(n.work).ps for n in nodes if is_core(n.work)))
        loose = [n.name for n in nodes if isinstance(n.work, Vector) and not n.work.core and "softmax" in n.name]
        assert not loose, strategy
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_scores_that_stay_are_counted_where_attention_is_not_one_kernel() -> None:
    """Kept probabilities are read as any operand, and nothing is computed twice."""
    s = simulation("attention(layer_norm(x), 4)", "bf16, master f32", "kept")
    nodes = [n.work for part in s.features.parts[0].values() for n, _ in part.each()]
    again = [w for w in nodes if isinstance(w, Product) and w.again]
    assert len(again) == 1  # of the loop's body
    apart = s.pricer(of_cluster(s.cluster).changed(fused_attention=0.0, launch=0.0))
    (twice,) = again
    once = Product(twice.m, twice.n, twice.k, twice.batch, twice.dtype, twice.bytes, twice.core)
    assert apart.price(twice).ps == apart.price(once).ps
