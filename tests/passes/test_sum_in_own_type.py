"""Gradients of a weight that is read in several places: summed in its own type, once a step where stages differ."""

from __future__ import annotations

from collections import Counter

import pytest

import parc
from compiler.ops.effects import Accumulate, Send, StageReduce
from compiler.ops.elementwise import Map
from compiler.program import Program
from dsl.source import Source

TEXT = """
use std.layers (cross_entropy, layer_norm, mlp)
use std.optimizers (sgd)

model tied {
  dim b = 8, s = 4, d = 8, v = 12
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d] ~ normal(0.1)
  x = take(wte, tokens, over v)
  y[s,v,b] = rename(x, d -> e) @ rename(wte, d -> e)
  repeat 4 as block {
    x = x + mlp(layer_norm(x), 16)
  }
  logits[b,s,v] = layer_norm(x) @ wte
  loss cross_entropy(logits + transposed(y), targets, over v)
}

fn transposed(y[s,v,b]) {
  z[b,s,v] = y
  return z
}

strategy serial for tied {
  mesh (dp = 1)
}

strategy staged for tied {
  mesh (pp = 2, dp = 2)
  split b on dp
  pipeline block on pp, schedule %s(microbatches = 4%s, over = b)
}

job fit {
  train tied using %s
  optimizer sgd(lr = 0.1)
  precision %s, master f32
}
"""
SCHEDULES = ["gpipe", "one_f_one_b", "interleaved", "zero_bubble"]


def source(schedule: str = "gpipe", strategy: str = "staged", precision: str = "bf16") -> Source:
    chunks = ", chunks = 2" if schedule == "interleaved" else ""
    return Source("tied.par", TEXT % (schedule, chunks, strategy, precision))


def test_addends_are_cast_and_then_added() -> None:
    backward = parc.compile(source(strategy="serial")).training.backward
    made = {v: n for n in backward.nodes for v in n.outputs}
    gradient = made[backward.outputs[0]]
    assert backward.outputs[0].name == "wte.grad" and gradient.op == Map("add", (None, None))

    def leaves(node_of: object) -> list[str]:
        node = made[node_of]  # type: ignore[index]
        if node.op == Map("add", (None, None)):
            return [x for v in node.inputs for x in leaves(v)]
        assert node.outputs[0].type == backward.outputs[0].type
        return [type(node.op).__name__]

    found = Counter(leaves(backward.outputs[0]))
    assert found["Cast"] == 3 and sum(found.values()) == 3


def of_weight(program: Program) -> tuple[int, int, int]:
    """Sends, accumulations and joins of values as large as the weight."""
    sends = sums = joins = 0
    for c in program.classes:
        for f in c.functions:
            for instr in f.body.nodes:
                large = any(set(v.type.names) in ({"v", "d"}, {"v", "e"}) for v in instr.inputs)
                sends += large and isinstance(instr.op, Send)
                sums += large and isinstance(instr.op, Accumulate)
                joins += large and isinstance(instr.op, StageReduce)
    return sends, sums, joins


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stages_join_their_gradients_once_a_step(schedule: str, precision: str) -> None:
    assert of_weight(parc.compile(source(schedule, precision=precision)).program) == (0, 2, 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_step_is_that_of_the_serial_program(schedule: str) -> None:
    assert parc.verify(source(schedule), double=True).ok
    assert parc.verify(source(schedule)).ok
