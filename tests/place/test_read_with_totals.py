"""`two passes`: what is read together with a whole batch's totals, and makes these as well; what is computed again."""

from __future__ import annotations

import pytest

import parc
from compiler.driver import compile_job, joined
from compiler.model import EVALUATE
from compiler.ops.repeat import Repeat
from compiler.program import Program
from compiler.verify import verify
from dsl.source import Source
from tests.stages.build import judged

FILE = """\
use std.optimizers (sgd)

model m {
  dim b = 8, d = 4
  input x, z : f32[b,d]
  weight a[d] ~ normal(0.7)
  e = z * a
BODY
  loss LOSS
}

strategy plan for m {
  mesh (AXES)
  RULES
  microbatches 2 over b, two passes
}

job j {
  train m using plan
  optimizer sgd(lr = 0.1)
}
"""
LOOP = """\
  c = tanh(e)
  y = x
  repeat 2 as block {
    weight w[d] ~ normal(0.7)
    y = y + tanh(y * w) * c
  }"""
CENTRED = "mean((y - mean(y, over b)) * e)"
ROOTS = "sqrt(mean(y * y)) * mean(e) + mean(y * sum(e, over b))"


def file(body: str, loss: str, axes: str, rules: str) -> str:
    return FILE.replace("BODY", body).replace("LOSS", loss).replace("AXES", axes).replace("RULES", rules)


@pytest.mark.parametrize("loss", [CENTRED, ROOTS])
@pytest.mark.parametrize(
    ("axes", "rules"),
    [
        ("one = 1", ""),
        ("one = 1", "recompute"),
        ("dp = 2", "split b on dp\n  recompute block"),
        pytest.param("pp = 2", "pipeline block on pp, schedule one_f_one_b\n  recompute", marks=pytest.mark.nightly),
        pytest.param("z = 2", "split b on z\n  shard weights, gradients, optimizer on z", marks=pytest.mark.nightly),
    ],
)
def test_it_is_what_the_serial_program_computes(loss: str, axes: str, rules: str) -> None:
    judged(file(LOOP, loss, axes, rules))


def test_maxima() -> None:
    rules = "split b on dp\n  recompute block"
    assert parc.verify(Source("main.par", file(LOOP, "max(y) * mean(e * y)", "dp = 2", rules)), double=True).ok


def whole_in_loops(program: Program) -> set[str]:
    """What the loops of the passes compute of all rows of the batch."""
    graphs = (f.body for c in program.classes for f in c.functions if f.phase in ("F", "B"))
    loops = [n.op.body for g in graphs for n in g.nodes if isinstance(n.op, Repeat)]
    values = [v for body in loops for n in body.nodes for v in n.outputs if v.type.has("b")]
    assert values
    return {v.name for v in values if v.layout.dims[v.type.names.index("b")] == ()}


def test_layers_before_the_totals_are_of_a_micro_batch() -> None:
    """What the loss reads beside the whole batch's mean makes the layers, too: these are not computed of all rows."""
    assert whole_in_loops(parc.compile(Source("main.par", file(LOOP, CENTRED, "one = 1", ""))).program) == set()


def test_texts_say_what_is_read_with_totals() -> None:
    source = Source("main.par", file(LOOP, CENTRED, "one = 1", "recompute block"))
    for stage in ("training", "placed"):
        text = parc.emit(source, stage)  # type: ignore[arg-type]
        assert "\ntotal %mean.whole" in text and "\nbeside %e.whole" in text
        assert parc.emit(Source(f"main.{stage}", text)) == parc.emit(source)


STATES = """\
  state seen : int32
  seen = seen + 1
  state met[d] ~ zeros
  met = 0.5 * met + mean(x, over b)
"""
SHARED = LOOP.replace("* c", "* a").replace("  c = tanh(e)\n", "") + "\n  n = y - mean(y, over b)"


@pytest.mark.parametrize(
    ("body", "loss", "rules"),
    [
        (STATES + LOOP, "max(y) * cast(seen, compute)", "pipeline block on at, schedule gpipe"),
        (STATES + LOOP, "max(y) * (sum(met) + mean(e))", "place block on at[1]\n  recompute"),
        (SHARED, "mean(n * n * n * a) + mean(e)", "place block on at[1]"),
        (SHARED, "sqrt(mean(n * n)) * mean(e * y) + mean(e * e)", "place block on at[1]\n  recompute"),
    ],
)
def test_entries_have_states_and_weights_in_the_same_places(body: str, loss: str, rules: str) -> None:
    compiled = judged(file(body, loss, "at = 2", rules))
    alone = compile_job(compiled.job, EVALUATE)
    assert not verify(joined([compiled.program, alone.program]))


def test_metrics_of_the_batch_beside_a_loss_that_devices_have_parts_of_are_explained() -> None:
    text = file(
        LOOP + "\n  metric root = sqrt(mean(y * y))", "sqrt(mean(y * y)) * mean(e * e)", "dp = 2", "split b on dp"
    )
    told = [parc.explain_tensor(Source("main.par", text), name) for name in ("loss", "root", "a")]
    assert [t.role for t in told] == ["loss", "activation", "weight"] and told[1].type.startswith("f32[]")
