"""`behind_scans`: the same gradients as by sums from position to position, which the pass leaves out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compiler.driver import compile_job, run_passes
from compiler.evaluate import evaluate
from compiler.graph import Graph
from compiler.model import Job
from compiler.ops.repeat import Repeat
from compiler.passes.pipeline import Work
from compiler.walk import bodies
from dsl.source import Source
from runtime.numpy import CallContext
from runtime.prove import prove
from runtime.prove.serial import run_graph

STRATEGIES = {
    "serial": "",
    "recompute": "recompute block",
    "recompute cell": "recompute block.{cell}",
    "zero_bubble": "split b on q\n  pipeline block on p, schedule zero_bubble(microbatches = 2, over = b)",
    "sharded": "split b on p\n  split f on q\n  shard weights, gradients, optimizer on p",
    "positions": "split s on p\n  split b on q\n  microbatches 2 over b",
}
LAYERS = {
    "lstm": "x = x + rename(lstm(x, over f), f -> d)",
    "gru": "x = x + rename(gru(x, over f), f -> d)",
    "twice": """weight w[d,f], c[f] ~ normal(0.5)
    h = zeros(b, d)
    y = x
    scan over s as cell {
      h = rename(tanh(x @ w + h @ w + c), f -> d)
      y = rename(h @ w, f -> d)
    }
    x = x + y""",
    "inside": """weight w[d,f], k[f,d] ~ normal(0.5)
    z = split(x, s -> (n, i))
    h = zeros(b, d)
    scan over n as part {
      h = 0.5 * h
      scan over i as cell {
        u = tanh(z @ w) * sigmoid(rename(h, d -> f))
        h = tanh(u @ k) + h
        z = z * h
      }
    }
    x = merge(z, (n, i) -> s)""",
}
CELLS = {"lstm": "lstm.cell", "gru": "gru.cell", "inside": "part.cell"}
TEXT = """use std.layers (gru, lstm)
use std.optimizers (sgd)

model m(layers = 2) {{
  dim b = 4, s = 6, d = 4, f = 4, n = 2, i = 3
  input x0 : f64[b,s,d]
  weight into[d] ~ normal(1.0)
  x = x0 * into
  repeat layers as block {{
    {layer}
  }}
  loss mean(x * x)
}}

strategy plan for m {{
  mesh (p = 2, q = 2)
  {rules}
}}

job fit {{
  train m using plan
  optimizer sgd(lr = 0.1)
  precision f64
}}
"""


def _job(layer: str, rules: str = "") -> Job:
    rules = rules.format(cell=CELLS.get(layer, "cell"))
    return evaluate(Source("m.par", TEXT.format(layer=LAYERS[layer], rules=rules)))


def _both(layer: str, rules: str = "") -> list[Work]:
    """Just before the pass, and behind it; nothing of what was made before is changed by it."""
    return [run_passes(_job(layer, rules), name) for name in ("close", "behind_scans")]


def _sums(graph: Graph) -> Iterator[str]:
    """What scans carry that has no batch."""
    for body in bodies(graph):
        for node in body.nodes:
            if isinstance(node.op, Repeat) and node.op.scan:
                yield from (v.name for v in node.outputs[: node.op.carries] if not v.type.has("b"))


@pytest.mark.parametrize("rules", ["serial", "recompute", "recompute cell"])
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_are_those_of_sums_from_position_to_position(layer: str, rules: str) -> None:
    before, after = _both(layer, STRATEGIES[rules])
    assert [*_sums(before.differentiated.backward)]
    if rules != "recompute cell":
        assert not [*_sums(after.differentiated.backward)]
    found = []
    for work in (before, after):
        rng = np.random.default_rng(3)
        forward, backward = work.differentiated.forward, work.differentiated.backward
        env = {v.name: rng.standard_normal(v.type.shape) for v in forward.inputs}
        ctx = CallContext()
        made = run_graph(forward, env, ctx)
        env |= {v.name: x for v, x in zip(forward.outputs, made, strict=True)}
        found.append(run_graph(backward, env, ctx))
    for left, right in zip(*found, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rules", ["zero_bubble", "sharded", "positions"])
def test_it_is_proved(layer: str, rules: str) -> None:
    compiled = compile_job(_job(layer, STRATEGIES[rules]))
    assert prove(compiled.training, compiled.program, steps=1).ok
