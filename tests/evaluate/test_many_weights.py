"""Models of many different blocks: what weights have in common is evaluated once."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.model import Job
from compiler.ops.call import Call
from compiler.program import FunctionPhase, Program
from compiler.text import parse_program, show
from compiler.verify import verify
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
def test_updates_of_one_kind_differ_in_states_only(optimizer: str) -> None:
    job = blocks(3, optimizer)
    updates = {u.weight: u for u in job.updates}
    kinds = {(w.value.type, w.loops): updates[w.name].graph for w in job.model.weights}
    for w in job.model.weights:
        update = updates[w.name]
        assert update.graph is kinds[w.value.type, w.loops]
        given = update.graph.inputs[3:]
        assert [s.value.type for s in update.states] == [v.type for v in given]
        assert all(s.of == w.name and s.name.startswith(f"{w.name}.") for s in update.states)
    names = [s.name for u in job.updates for s in u.states]
    assert len(set(names)) == len(names)


def test_a_model_of_many_blocks_is_evaluated() -> None:
    """Its updates alone have more nodes than a job may have that are evaluated one by one (E0908)."""
    job = blocks(220)
    assert len(job.updates) > 2500
    assert sum(len(u.graph.nodes) for u in job.updates) > 50_000
    assert len({id(u.graph) for u in job.updates}) < 20


def called(program: Program) -> list[Call]:
    return [i.op for c in program.classes for f in c.functions for i in f.body.nodes if isinstance(i.op, Call)]


def test_kinds_have_one_function_from_the_training_graph_to_the_program() -> None:
    few, many = (compile_job(blocks(n)) for n in (2, 4))
    for of in (few, many):
        weights = len(of.job.model.weights)
        in_training = [n.op for n in of.training.update.nodes if isinstance(n.op, Call)]
        in_placed = [n.op for n in of.placed.update.nodes if isinstance(n.op, Call)]
        for calls in (in_training, in_placed, called(of.program)):
            assert [c.at for c in calls] == [w.name for w in of.job.model.weights]
            assert len(calls) == weights
    kinds = [len({id(c.body) for c in called(of.program)}) for of in (few, many)]
    assert kinds[0] == kinds[1] == len({w.value.type for w in few.job.model.weights})
    text = show(many.program)
    again = parse_program(text)
    assert again == many.program and show(again) == text
    assert len({id(c.body) for c in called(again)}) == kinds[1]
    assert verify(again) == ()


def test_lengths_grow_by_little_for_a_weight() -> None:
    """A call, its reads and writes: not the optimizer once more."""
    lengths = []
    for n in (2, 4):
        of = compile_job(blocks(n))
        (update,) = (f.body for c in of.program.classes for f in c.functions if f.phase is FunctionPhase.UPDATE)
        lengths.append((len(update.nodes), len(of.job.model.weights)))
    (short, less), (long, more) = lengths
    assert long - short == 8 * (more - less)  # weight, gradient and two states: four reads, a call, three writes


@pytest.mark.nightly
def test_four_hundred_blocks_are_compiled() -> None:
    program = compile_job(blocks(400)).program
    assert verify(program) == ()
