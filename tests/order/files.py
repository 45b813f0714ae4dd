"""Files with a causal model whose positions lie in another order."""

from __future__ import annotations


def file(rules: str, mesh: str, body: str = "", own: str = "", uses: str = "", dims: str = "", on: int = 0) -> str:
    """A small causal model, a strategy, a job. body: in the place of the loop of layers; on: devices of a cluster."""
    lines = "".join(f"  {line}\n" for line in rules.split("\n"))
    layers = """\
repeat 2 as block {
    x = x + attention(layer_norm(x), 2, causal = true)
    x = x + mlp(layer_norm(x), 16)
  }"""
    return f"""\
use std.devices (a100_80)
use std.implementations (ring_attention, gathered_attention, ulysses_attention, tensor_parallel_mlp)
use std.layers (attention, cross_entropy, layer_norm, mlp)
use std.optimizers (adamw)
{uses}
{own}
cluster pod(devices = 1) {{
  device gpu = a100_80
  level server = devices gpu over 300 GB/s, 2 us
}}
model net() {{
  dim {dims or "b = 4, s = 16, d = 8, v = 12"}
  input tokens, targets : int32[b, s] in 0..v
  weight table[v, d] ~ normal(1.0)
  weight places[s, d] ~ normal(1.0)
  x = take(table, tokens, over v) + places
  {body or layers}
  logits[b, s, v] = layer_norm(x) @ table
  loss cross_entropy(logits, targets, over v)
}}
strategy plan for net {{
  mesh ({mesh})
{lines}}}
job fit {{
  train net(){f" on pod({on})" if on else ""} using plan
  optimizer adamw(lr = 0.1)
}}
"""
