"""Messages that go together: never one of them that waits for another."""

from __future__ import annotations

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Collective, Part, WorkLoop
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.ops.comm import Comm
from dsl.source import Source

# The gradient of the keys' input is split otherwise than that of the queries' input: of the gradients of the norms,
# some are gathered and then reduced, others reduced and then gathered.
TRANSLATE = """use std.layers
use std.optimizers (sgd)
use std.tactics (fsdp)

model translate() {
  dim b = 8, s = 8, u = 12, d = 16
  input source : f32[b,u,d]
  input target : f32[b,s,d]
  e = source
  repeat 2 as encoder {
    e = e + mlp(layer_norm(e), 32)
  }
  memory = rename(layer_norm(e), u -> t)
  x = target
  repeat 2 as decoder {
    x = x + cross_attention(layer_norm(x), memory, 4)
  }
  loss mean(layer_norm(x) * x)
}

strategy plan for translate {
  mesh (cp = 2, dp = 2)
  split h, s, u on cp for activations
  fsdp(dp)
  microbatches 2 over b
}

job fit {
  train translate using plan
  optimizer sgd(lr = 0.1)
}
"""


def _messages(part: Part) -> list[Collective]:
    """All messages, and the order: what a node waits for stands before it."""
    found: list[Collective] = []
    for i, node in enumerate(part.nodes):
        assert all(d < i for d in node.deps)
        if isinstance(node.work, WorkLoop):
            found += _messages(node.work.body)
        elif isinstance(node.work, Collective):
            found.append(node.work)
    return found


def test_messages_that_wait_for_each_other_are_several() -> None:
    program = compile_job(evaluate(Source("translate.par", TRANSLATE))).program
    kinds = [
        (work.op, work.axes)
        for part in features(program).parts[0].values()
        for work in _messages(part)
        if work.role == "gradients"
    ]
    assert len(set(kinds)) < len(kinds)  # one message per kind would have to wait for itself


SCALED = """use std.optimizers (sgd)
use std.tactics (optimizer_parallel)

model scaled() {
  dim b = 8, d = 16
  input x : f32[b,d]
  weight one[d], two[d], three[d] ~ normal(0.1)
  loss mean(tanh(tanh(x * one) * two) * three)
}

strategy plan for scaled {
  mesh (dp = 2)
  split b on dp
  optimizer_parallel(dp, 2)
}

job fit {
  train scaled using plan
  optimizer sgd(lr = 0.1)
}
"""


def test_all_that_a_message_sends_is_written() -> None:
    program = compile_job(evaluate(Source("scaled.par", SCALED))).program
    found = features(program)
    counts = []
    for function in program.classes[0].functions:
        inside, _ = found.inside[0][function.key]
        sent = {v.name for node in function.body.nodes if isinstance(node.op, Comm) for v in node.inputs}
        assert not sent & inside
        works = [node.work for node, _ in found.parts[0][function.key].each()]
        counts.append((len(sent), sum(isinstance(work, Collective) for work in works)))
    assert counts.count((3, 1)) == 2  # three gradients in one message, and three new weights
