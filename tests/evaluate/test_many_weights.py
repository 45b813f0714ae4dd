"""Models of many different blocks: what weights have in common is evaluated once."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.model import Job
from compiler.verify import verify
from compiler.walk import graph_values
from dsl.source import Source

OPTIMIZER = """
optimizer normed(lr) {
  state m ~ zeros
  m = 0.9 * m + g
  total = norm(m)
  w = w - lr / maximum(total, 1.0) * m
}
"""


def blocks(n: int, optimizer: str = "adamw(lr = 0.1)") -> Job:
    """Blocks that stand one after the other, each by its own name: no loop."""
    calls = "\n".join(
        f"  x = x + attention(layer_norm(x), 2) as a{i}\n  x = x + relu_mlp(layer_norm(x), 8) as m{i}" for i in range(n)
    )
    return evaluate(
        Source(
            "many.par",
            f"""
use std.layers
use std.optimizers
{OPTIMIZER}
model many() {{
  dim b = 8, s = 4, d = 4
  input x : f32[b,s,d]
{calls}
  loss mean(x * x)
}}
strategy plan for many {{
  mesh (dp = 2)
  split b on dp
}}
job fit {{
  train many() using plan
  optimizer {optimizer}
}}
""",
        )
    )


@pytest.mark.parametrize("optimizer", ["adamw(lr = 0.1)", "lamb(lr = warmup_cosine(step, 0.1, 2, 9))", "normed(0.1)"])
def test_updates_of_one_kind_differ_in_names_only(optimizer: str) -> None:
    job = blocks(3, optimizer)
    updates = {u.weight: u for u in job.updates}
    alone = {u.weight: u for u in blocks(1, optimizer).updates}  # in which most weights are the first of their kind
    for name, other in ((n, n.replace("0", "2", 1)) for n in alone):
        one, two = alone[name], updates[other]
        assert two.graph.name == f"{other}.update"
        assert str(two.graph) == str(one.graph).replace(name, other)
        assert [v.name for v in graph_values(two.graph)] == [
            v.name.replace(name, other) for v in graph_values(one.graph)
        ]
        assert all(v.origin.path == v.name for v in graph_values(two.graph))
        assert [(s.name, s.of, s.role, s.init) for s in two.states] == [
            (s.name.replace(name, other), other, s.role, s.init) for s in one.states
        ]


def test_a_model_of_many_blocks_is_evaluated() -> None:
    """Its updates alone have more nodes than a job may have that are evaluated one by one (E0908)."""
    job = blocks(220)
    assert len(job.updates) > 2500
    assert len({v.name for u in job.updates for v in graph_values(u.graph)}) > 50_000


@pytest.mark.nightly
def test_four_hundred_blocks_are_compiled() -> None:
    program = compile_job(blocks(400)).program
    assert verify(program) == ()
