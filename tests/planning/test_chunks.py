"""Chunks share the bodies of their loops where many programs are priced: the program says what it says alone, and asks
the same of a machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.cost.kernels.program import features
from compiler.cost.kernels.templates import WorkTemplates
from compiler.cost.memory.systems import Systems
from compiler.cost.memory.templates import MemoryTemplates
from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.graph import Names
from compiler.model import Job
from compiler.ops.repeat import Repeat
from compiler.program import MODEL_PASSES, Program
from compiler.strategy import Strategy
from compiler.text import show
from dsl.source import Source
from parc.planning.pricing import StrategyPricer

MODEL = """
use std.layers (attention, cross_entropy, layer_norm, mlp, moe)
use std.optimizers (adamw)
use std.tactics

model net {
  dim b = 16, s = 8, d = 8, v = 12
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d]
  x[b,s,d] = take(wte, tokens, over v)
  repeat 7 as block {
    x = x + attention(layer_norm(x), 4)
    FEED
  }
  logits[b,s,v] = layer_norm(x) @ wte
  loss cross_entropy(logits, targets, over v)
}

strategy plan for net {
  mesh (AXES)
  RULES
}

job fit {
  train net using plan
  optimizer adamw(lr = 1e-3)
}
"""
DENSE, EXPERTS = "x = x + mlp(layer_norm(x), 16)", "y, balance = moe(layer_norm(x), 4, 16)\n    x = x + y"
PIPELINE = "pipeline block on pp, schedule {}"
INTERLEAVED = PIPELINE.format("interleaved(microbatches = 4, chunks = 3)")
BUBBLE, ONE = PIPELINE.format("zero_bubble(microbatches = 4)"), PIPELINE.format("one_f_one_b(microbatches = 4)")

CASES = {
    "dense": (DENSE, "pp = 2, dp = 2, tp = 2", ("data_parallel(dp)", "optimizer_parallel(dp, 2)", "megatron(tp)")),
    "experts": (EXPERTS, "pp = 2, ep = 2", ("moe(ep)", "recompute block.attention")),
}


def jobs(case: str) -> list[Job]:
    """One job with pipelines of several schedules."""
    feed, axes, rules = CASES[case]

    def job(pipeline: str) -> Job:
        text = MODEL.replace("FEED", feed).replace("AXES", axes).replace("RULES", "\n  ".join((*rules, pipeline)))
        return evaluate_file(Source("net.par", text)).job

    return [job(pipeline) for pipeline in (INTERLEAVED, ONE, BUBBLE)]


def loops(program: Program) -> list[int]:
    """Identities of the bodies of loops in functions of chunks, each class's functions once."""
    functions = {id(f): f for c in program.classes for f in c.functions if f.phase in MODEL_PASSES}.values()
    return [id(n.op.body) for f in functions for n in f.body.nodes if isinstance(n.op, Repeat)]


@pytest.mark.parametrize("case", CASES)
def test_chunks_share_what_is_the_same(case: str) -> None:
    first, *others = jobs(case)
    pricer, work, memories = StrategyPricer(first), WorkTemplates(), MemoryTemplates()

    def agrees(strategy: Strategy) -> tuple[Program, Program]:
        mine, alone = pricer.compiled(strategy), compile_job(replace(first, strategy=strategy))
        assert show(mine.program) == show(alone.program)
        asked, his = features(mine.program, work), features(alone.program)
        assert asked.parts == his.parts and asked.inside == his.inside
        assert Systems(mine, asked, before=memories).needs == Systems(alone, his).needs
        return mine.program, alone.program

    for _ in range(2):  # as they are when they come again, too
        mine, alone = agrees(first.strategy)
        assert len({*loops(alone)}) == len(loops(alone)) == 12
        assert len({*loops(mine)}) < 8
        for job in others:
            agrees(job.strategy)


def test_names_are_given_again_or_not_at_all() -> None:
    names = Names(["x"])
    noted = names.noted()
    given = [noted.fresh(name) for name in ("x", "y", "x")]
    assert given == ["x_1", "y", "x_2"] and names.fresh("y") == "y_1"
    again = Names(["x"])
    assert again.again(noted.given) and again.fresh("x") == "x_3"
    other = Names(["y"])
    assert not other.again(noted.given) and other.fresh("x") == "x"
