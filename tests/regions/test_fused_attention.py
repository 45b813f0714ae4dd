"""Attention as one region with its products: what stands, what is computed, and how much memory that takes."""

from __future__ import annotations

import pytest

import parc
from compiler.driver import Compiled
from compiler.memory.peak import memory_use
from compiler.program import Program
from compiler.regions.fused import FusedNodes, as_run, is_product
from compiler.text import parse_program, show
from compiler.verify import verify
from compiler.walk import bodies
from dsl.source import Source
from runtime.prove import prove
from runtime.rank import blocks
from runtime.rank.executor import RankExecutor
from tests.memory.measured import exact

MODEL = """
use std.layers (NAME)
use std.optimizers (adamw)

model m() {
  dim b = 4, s = SEQ, d = 16
  input x, y : compute[b,s,d]
  weight first[s,d] ~ normal(1.0)
  h = x * first
  repeat 2 as block {
    h = h + CALL
  }
  loss mean((h - y) * (h - y), over (b, s, d))
}

strategy way for m {
  mesh (dp = 2, tp = 2)
  split b on dp
  RULES
}

job fit {
  train m() using way
  PRECISION
  optimizer adamw(lr = 0.001)
}
"""

AGAIN = "recompute block.NAME\n  split h on tp"


def compiled(call: str, rules: str, seq: int = 12, precision: str = "", double: bool = False) -> Compiled:
    text = MODEL.replace("CALL", call).replace("RULES", rules).replace("SEQ", str(seq))
    text = text.replace("NAME", call.split("(")[0]).replace("PRECISION", precision)
    return parc.compile(Source("main.par", text), double=double)


def attentions(program: Program) -> list[FusedNodes]:
    """Regions with products, each once."""
    found = [n.op for c in program.classes for f in c.functions for b in bodies(f.body) for n in as_run(b).nodes]
    return [op for op in found if isinstance(op, FusedNodes) and any(map(is_product, op.nodes))]


LAYERS = {
    "attention": ("attention(h, 4)", AGAIN),
    "kept": ("attention(h, 4)", "split h on tp"),
    "not causal": ("attention(h, 2, causal = false)", AGAIN),
    "dropout": ("attention(h, 4, drop = 0.25)", AGAIN),
    "grouped": ("grouped_attention(h, 4, 2)", "recompute block.NAME"),
    "windowed": ("grouped_attention(h, 4, 2, window = 5, sinks = true)", "recompute block.NAME"),
    "micro-batches": ("attention(h, 4)", "recompute block.NAME\n  microbatches 2"),
    "fully sharded": ("attention(h, 4)", "recompute block.NAME\n  shard weights on dp"),
    "context parallel": ("attention(h, 4)", "recompute block.NAME\n  split s on tp for activations"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_one_region_in_both_passes_and_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 40)  # some rows of scores
    of = compiled(*LAYERS[name], double=True)
    program = of.program
    assert not verify(program) and parse_program(show(program)) == program
    forward, backward = attentions(program)
    assert sum(map(is_product, forward.nodes)) == 2 and not forward.sums
    assert len(backward.sums) >= 1 + (name != "kept")  # gradients of keys, and of values where all is made again
    proof = prove(of.training, program, executor=RankExecutor)
    assert proof.ok, proof.worst
    exact(program, 1)


def test_narrow_sums_are_added_up_in_wide_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one block: rounding does not grow with the number of blocks."""
    of = compiled("attention(h, 4)", AGAIN, 48, "precision bf16")
    backward = attentions(of.program)[1]
    assert {v.type.dtype for n in backward.nodes for v in n.outputs if v.name in backward.sums} == {"bf16"}
    monkeypatch.setattr(blocks, "BLOCK", 48)  # a row of scores: 48 blocks for each head of each sample
    proof = prove(of.training, of.program, 1, executor=RankExecutor)
    assert proof.ok, proof.worst
    exact(of.program, 1)


def peak(rules: str, seq: int) -> int:
    program = compiled("attention(h, 4)", rules, seq).program
    return max(use["hbm"].bytes for use in memory_use(program).values())


def test_scores_stand_in_no_memory() -> None:
    """But for the mask, which samples and heads share, memory grows as positions do; with each instruction by itself
    as their square."""
    fused, plain = (
        [peak(rules, seq) - seq * seq for seq in (512, 1024, 2048)] for rules in (AGAIN, f"{AGAIN}\n  fuse off")
    )
    assert fused[2] - fused[1] == 2 * (fused[1] - fused[0])
    assert plain[2] - plain[1] > 3.5 * (plain[1] - plain[0])
    scores = 4 * 2 * 2 * 2048 * 2048  # bytes, of two samples and two heads
    assert plain[2] - fused[2] > 3 * scores
