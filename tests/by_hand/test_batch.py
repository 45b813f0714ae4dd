"""Pieces of the batch by hand, beside micro-batches and other axes that split it: these cut it first."""

from __future__ import annotations

from random import Random

import pytest

import parc
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.implement.alone import alone
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove
from runtime.prove.alone import differences
from tests.by_hand.files import file
from tests.by_hand.test_drawn import Drawn, job
from tests.golden.test_known import communication
from tests.some import one_in
from tests.stages.build import judged

EXPERTS = {
    "alone": ("ep = 2", "split b on ep"),
    "micro-batches": ("ep = 2", "split b on ep\nmicrobatches 4"),
    "the batch elsewhere whole": ("ep = 2", "microbatches 4"),
    "an axis before": ("dp = 2, ep = 2", "split b on dp\nsplit b on ep"),
    "an axis before, micro-batches": (
        "dp = 2, ep = 2",
        "split b on dp, ep\nmicrobatches 2".replace("dp, ep", "dp\nsplit b on ep"),
    ),
    "stages": ("pp = 2, ep = 2", "split b on ep\npipeline block on pp, schedule one_f_one_b(microbatches = 4)"),
}


def dispatched(mesh: str, rules: str) -> str:
    text = file("routed_experts", "dispatched_experts(ep)", mesh, rules)
    return text.replace("z * cast(busy, compute)", "z").replace("b = 4", "b = 16")


@pytest.mark.parametrize("name", [name for name in EXPERTS if name != "the batch elsewhere whole"])
def test_experts_send_what_is_written(name: str) -> None:
    """Whatever else cuts the batch: each micro-batch, and each part of another axis, by itself."""
    program = parc.compile(Source("main.par", dispatched(*EXPERTS[name]))).program
    found = {k: v for k, v in communication(program, 0).items() if k[1] != "-" and "all_to_all" in v}
    assert found == {("F", "block"): {"all_to_all": 3}, ("B", "block"): {"all_to_all": 5}}


@pytest.mark.parametrize("name", one_in(3, ["micro-batches", "stages", "an axis before, micro-batches"]))
def test_experts_compute_the_same_in_parts(name: str) -> None:
    judged(dispatched(*EXPERTS[name]))


def test_micro_batches_need_a_part_of_each_piece() -> None:
    with pytest.raises(ParcError) as found:
        evaluate(Source("main.par", dispatched("ep = 2", "microbatches 16")))
    (error,) = found.value.diagnostics
    assert error.code == "E0420" and "has 8 elements, which 16 micro-batches do not divide" in error.message
    assert error.notes[0][0] == "micro-batches are made here"


OWN = """\
use std.optimizers (sgd)

fn weighed(x[b, s, d]) {
  dim f = 4
  weight w[d, f] ~ normal(0.5)
  y[b, s, f] = x @ w
  return merge(y * cast(iota(b), compute), (b, s) -> n)
}

fn by_hand(x[b/tp, s, d], tp) {
  weight w[d, f]
  x = rename(x, b -> q)
  y[q, s, f] = x @ w
  n = merge(y * cast(iota(q), compute), (q, s) -> n)
  part = shard(all_gather(n, tp, over n -> every), tp, over every)
  return rename(part, every -> n)
}

model net() {
  dim b = 16, s = 4, d = 8
  input x : f32[b, s, d]
  weight first[s, d] ~ normal(1.0)
  y = weighed(x * first)
  loss mean(y * y * y)
}

strategy plan for net {
  mesh (MESH)
  RULES
  implement weighed by by_hand(tp)
}

job fit {
  train net() using plan
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize(
    ("mesh", "rules"), [("tp = 4", "microbatches 2"), ("dp = 2, tp = 2", "split b, n on dp\n  microbatches 2 over b")]
)
def test_the_batch_is_followed_under_other_names(mesh: str, rules: str) -> None:
    """Renamed, merged with what lies behind it, gathered as something else; positions are those in the whole."""
    judged(OWN.replace("MESH", mesh).replace("RULES", rules))


BEFORE = {
    "micro-batches": ("p = 2, q = 2", "microbatches 2"),
    "an axis": ("r = 2, p = 2, q = 2", "split b on r"),
    "both": ("r = 2, p = 2, q = 2", "split b on r\n  microbatches 2"),
    "an axis within": ("p = 2, q = 2, r = 2", "split b on r\n  microbatches 2"),
    "positions": ("p = 2, q = 2, r = 2", "split s on r for activations\n  microbatches 2"),
}


@pytest.mark.parametrize(("seed", "before"), one_in(7, [(seed, name) for seed in range(14) for name in BEFORE]))
def test_drawn_implementations_go_with_what_cuts_the_batch_before(seed: int, before: str) -> None:
    """Their messages are about the batch as about any other dim."""
    mesh, rules = BEFORE[before]
    text = Drawn(Random(seed)).text().replace("mesh (p = 2, q = 2)", f"mesh ({mesh})\n  {rules}")
    found = job(text.replace("b = 8, s = 4", "b = 16, s = 8"))
    assert all(not differences(a) for a in alone(found))
    compiled = compile_job(found)
    assert not verify(compiled.program)
    assert prove(compiled.training, compiled.program, 1).ok
