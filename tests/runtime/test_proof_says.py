"""What a proof says: at whose scale it compares, what it could not compare or reach, and whether it says anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import parc
from compiler.text import parse_program, show
from dsl.source import Source
from parc.cli import cli
from runtime.prove import Proof, prove

OVERFLOW = """\
use std.optimizers (sgd)

model hot {
  dim b = 16, d = 8
  input x : compute[b,d]
  weight w[d] ~ ones
  e = cast(x * cast(w, compute), master) * 2.0
  loss mean(e * e)
}

strategy data for hot {
  mesh (dp = 2)
  split b on dp
}

job fit {
  train hot using data
  optimizer sgd(lr = 1e-3)
  precision f16, master f32, loss_scale dynamic
}
"""

PRIVATE_ZERO = """\
use std.optimizers
use std.layers

model m {
  dim b = 8, d = 8
  input x, y : f32[b,d]
  weight w[d] ~ normal(0.5)
  weight offset[d] ~ zeros
  p = x * w
  q = tanh(y * w) + offset
  dim o = b
  scores[b,o] = p @ rename(q, b -> o)
  logp = log_softmax(scores, over o)
  loss -mean(sum(where(iota(b) == iota(o), logp, 0.0), over o))
}

strategy both for m {
  mesh (dp = 2, o = 2)
  split b on dp
  split o on o
}

job fit {
  train m using both
  optimizer adamw(lr = 0.01)
  precision f32
}
"""


def broken(text: str, change: Callable[[str], str], **options: int) -> Proof:
    compiled = parc.compile(Source("t", text))
    shown = show(compiled.program)
    other = change(shown)
    assert other != shown
    return prove(compiled.training, parse_program(other), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_a_sum_that_overflows_on_one_side_only(executor: parc.api.Executor) -> None:
    """The serial sum of 16 terms overflows in f16, the halves do not: both go on with half the scale."""
    proof = parc.verify(Source("t", OVERFLOW), steps=3, executor=executor)
    assert proof.ok, proof.worst
    assert proof.skipped >= 1 and proof.steps == 3
    assert {r.name for r in proof.rows if r.kind == "gradient"} == {"w"}


def test_what_overflows_on_one_side_at_every_scale_is_an_error() -> None:
    """A gradient that is infinite whatever the loss scale is no matter of the order of a sum."""
    proof = broken(OVERFLOW, lambda p: p.replace("mul %mul_1.grad.mul, 2.0", "mul %mul_1.grad.mul, 1e+39"))
    assert not proof.equal and proof.steps < 2


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_a_gradient_that_is_zero_but_for_rounding(double: bool, executor: parc.api.Executor) -> None:
    """Each executor adds it up in an order of its own, and AdamW divides what is left by itself."""
    proof = parc.verify(Source("t", PRIVATE_ZERO), steps=3, double=double, executor=executor)
    assert proof.ok, proof.worst
    (row,) = (r for r in proof.rows if (r.kind, r.name) == ("gradient", "offset"))
    assert (row.kind, row.name) in {(b.kind, b.name) for b in proof.blind} or row.error == 0 and executor == "stacked"
    assert "w" not in {b.name for b in proof.blind}


SCALES = """\
use std.optimizers (adamw, sgd)

param factor = 1e-5

model m(factor) {
  dim b = 8, d = 6
  input x, y : f32[b,d]
  weight large[d] ~ normal(0.5)
  weight small[d] ~ normal(0.5)
  e = x * large + factor * (y * small)
  loss mean(e * e)
}

strategy s for m {
  mesh (dp = 2)
  split b on dp
}

job fit {
  train m(factor) using s
  optimizer OPTIMIZER
  precision f32
}
"""


def test_a_small_gradient_is_compared_at_its_own_scale() -> None:
    """1e-5 of the largest gradient, and wrong by a factor: no floor that others set hides it."""
    text = SCALES.replace("OPTIMIZER", "sgd(lr = 0.1)")
    assert parc.verify(Source("t", text)).ok

    def change(program: str) -> str:
        lines = program.splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if "1e-05" in line and "grad" in line.partition("=")[0])
        lines[at] = lines[at].replace("1e-05", "1.001e-05")
        return "".join(lines)

    proof = broken(text, change)
    assert {(r.kind, r.name) for r in proof.rows if not r.ok} == {("gradient", "small")}


def test_weight_decay_that_is_lost_shows_in_f32() -> None:
    """1e-5 of the weight: the change is compared, not the weight."""
    text = SCALES.replace("OPTIMIZER", "adamw(lr = 1e-3, decay = 0.01)")
    proof = broken(text, lambda p: p.replace("mul 0.01, %", "mul 0.0, %"))
    assert {r.kind for r in proof.rows if not r.ok} == {"weight"}


LAYERS = """\
use std.optimizers (sgd)

model m {
  dim b = 8, d = 4
  input x : f32[b,d]
  h = x
  repeat 3 as block {
    weight w[d] ~ normal(0.5)
    h = h * w * 0.001
  }
  loss mean(h * h)
}

strategy s for m {
  mesh (dp = 2)
  split b on dp
}

job fit {
  train m using s
  optimizer sgd(lr = 1e12)
  precision f32
}
"""


def test_stacked_weights_are_compared_layer_by_layer() -> None:
    from runtime.prove.compare import compare

    serial = np.array([[1.0, 2.0], [1e-6, 2e-6]])
    run = serial + np.array([[0.0, 0.0], [0.0, 1e-7]])
    assert compare(serial, run, 1e-4).ok
    found = compare(serial, run, 1e-4, layers=1)
    assert not found.ok and found.error == pytest.approx(0.05)
    assert parc.verify(Source("t", LAYERS)).ok


# --- what the steps did not reach ----------------------------------------------------------------

SCHEDULED = SCALES.replace("OPTIMIZER", "sgd(lr = warmup_linear(step, 0.1, 20, 100))").replace(
    "(adamw, sgd)", "(sgd, warmup_linear)"
)


def never(proof: Proof) -> set[str]:
    return {u.never for u in proof.unreached}


def test_branches_that_no_step_reached_are_named() -> None:
    early, late, both = (parc.verify(Source("t", SCHEDULED), at_step=n) for n in (0, 30, 18))
    assert early.ok and late.ok and both.ok
    assert "step.number >= 20" in never(early) and "step.number < 20" in never(late)
    assert not any(n.startswith("step.number") for n in never(both))
    assert all(u.span is not None and u.span.source == "<std>/optimizers.par" for u in early.unreached)


def test_a_branch_is_wrong_only_for_the_steps_that_reach_it() -> None:
    def change(program: str) -> str:
        return program.replace("80.0", "81.0")  # the divisor of the decay

    assert broken(SCHEDULED, change).ok
    proof = broken(SCHEDULED, change, first=40)
    assert not proof.ok and {r.kind for r in proof.rows if not r.ok} == {"weight"}


RANDOM = LAYERS.replace("(sgd)", "(sgd)\nuse std.layers (dropout)").replace("h = h * w", "h = dropout(h, 0.5) * w")


@pytest.mark.parametrize("executor", ["stacked", "private"])
def test_random_numbers_are_those_of_the_later_step(executor: parc.api.Executor) -> None:
    first, later = (parc.verify(Source("t", RANDOM), steps=1, at_step=n, executor=executor) for n in (0, 7))
    assert first.ok and later.ok
    assert first.losses != later.losses


def test_the_loss_scale_grows() -> None:
    text = OVERFLOW.replace("* 2.0", "* 0.001")
    early, late = (parc.verify(Source("t", text), at_step=n) for n in (0, 1999))
    assert early.ok and late.ok
    assert "good_steps.next >= 2000" in never(early)
    assert not any(n.startswith("good_steps") for n in never(late))
    assert not broken(text, lambda p: p.replace("mul %loss_scale, 2.0", "mul %loss_scale, 3.0"), first=1999).ok
    assert broken(text, lambda p: p.replace("mul %loss_scale, 2.0", "mul %loss_scale, 3.0")).ok


# --- proofs that say nothing ----------------------------------------------------------------------

NAN = SCALES.replace("OPTIMIZER", "sgd(lr = 0.1)").replace("loss mean(e * e)", "loss mean(sqrt(-1.0 - e * e))")
ZEROS = SCALES.replace("OPTIMIZER", "sgd(lr = 0.1)").replace("loss mean(e * e)", "loss mean(0.0 * e)")
NOTHING = """\
use std.optimizers (sgd)

model m {
  dim b = 8
  input x : f32[b]
  loss mean(x * x)
}

strategy s for m {
  mesh (dp = 2)
  split b on dp
}

job fit {
  train m using s
  optimizer sgd(lr = 0.1)
}
"""


DEAD = NOTHING.replace("dim b = 8", "dim b = 8, d = 4").replace("x : f32[b]", "x : f32[b,d]\n  weight w[d]")
DEAD = DEAD.replace("mean(x * x)", "mean(x * stop_gradient(w))")


def run(text: str, *words: str) -> Result:
    return CliRunner().invoke(cli, ["verify", "-", *words], input=text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NAN, "the loss is nan in step 1, on both sides"),
        (ZEROS, "all gradients are zero, on both sides"),
        (NOTHING, "the model has no weights"),
        (DEAD, "no weight is trained"),
    ],
)
def test_a_vacuous_proof_is_no_proof(text: str, why: str) -> None:
    proof = parc.verify(Source("t", text))
    assert proof.equal and not proof.ok and why in proof.vacuous
    result = run(text)
    assert result.exit_code == 1 and "VACUOUS" in result.stdout and why in result.stdout
    assert run(text, "--allow-vacuous").exit_code == 0
    assert why in json.loads(run(text, "--json").stdout)["result"]["vacuous"]


def test_allowing_vacuous_proofs_allows_no_wrong_ones() -> None:
    text = SCALES.replace("OPTIMIZER", "sgd(lr = 0.1)")
    assert not broken(text, lambda p: p.replace("mul 0.1, %", "mul 0.2, %")).equal
    assert run(DEEP_F32, "--allow-vacuous", "--tolerance", "0").exit_code == 1


def test_zero_gradients_are_listed() -> None:
    proof = parc.verify(Source("t", SCALES.replace("OPTIMIZER", "sgd(lr = 0.1)")), params={"factor": 0.0})
    assert proof.ok and [(b.kind, b.name) for b in proof.blind] == [("gradient", "small")]


def test_the_table_keeps_to_80_columns(tmp_path: Path) -> None:
    result = run(SCHEDULED)
    assert result.exit_code == 0 and "not reached" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    found = json.loads(run(SCHEDULED, "--json").stdout)["result"]
    assert {"never", "name", "count", "place"} <= found["not_reached"][0].keys()
    assert found["not_reached"][0]["place"]["line"] > 1
    assert found["ok"] and found["equal"] and found["vacuous"] == [] and found["skipped"] == 0


# --- 16 bits --------------------------------------------------------------------------------------

DEEP = """\
use std.layers
use std.optimizers

model m(layers) {
  dim b = 16, s = 8, d = 16, v = 24
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d] ~ normal(0.2)
  x = cast(take(wte, tokens, over v), compute)
  repeat layers as block {
    x = x + attention(layer_norm(x), 2)
    LAYER
  }
  loss cross_entropy(linear(layer_norm(x), over v), targets, over v)
}

strategy s for m {
  mesh (dp = 2, tp = 4)
  split b on dp
  split h, f, v on tp pad
}

job fit {
  train m(4) using s
  optimizer adamw(lr = 0.01, clip = 1.0)
  precision PRECISION
  seed SEED
}
"""
MLP = "x = x + mlp(layer_norm(x), 32)"
ROUTER = """dim e = 8, f = 32, g = e
    weight router[d,g] ~ normal(0.3)
    weight w1[e,d,f], w2[e,f,d] ~ normal(0.2)
    n = layer_norm(x)
    p = softmax(n @ cast(router, compute), over g)
    share, chosen = top_k(p, over g -> j, 2)
    hit[b,s,e] = sum(cast(chosen == rename(iota(g), g -> e), compute) * share, over j)
    o[b,s,d] = (gelu(n @ cast(w1, compute)) * hit) @ cast(w2, compute)
    x = x + o"""


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("layer", [MLP, ROUTER], ids=["mlp", "router"])
@pytest.mark.parametrize("precision", ["bf16, master f32", "f16, master f32, loss_scale dynamic", "f32"])
def test_right_programs_in_16_bits_are_accepted(precision: str, layer: str, seed: int) -> None:
    """Also where a rounding decides which expert a position goes to."""
    text = DEEP.replace("LAYER", layer).replace("PRECISION", precision).replace("SEED", str(seed))
    proof = parc.verify(Source("t", text))
    assert proof.ok, proof.worst


DEEP_F32 = DEEP.replace("LAYER", MLP).replace("PRECISION", "f32").replace("SEED", "1")


def test_wrong_programs_in_bf16_are_refused() -> None:
    """The gradients are compared within what bf16 explains, the update (in f32) within what f32 does."""
    text = DEEP.replace("LAYER", MLP).replace("PRECISION", "bf16, master f32").replace("SEED", "1")
    proof = broken(text, lambda p: p.replace("mul 0.01, %", "mul 0.02, %"))
    assert {r.kind for r in proof.rows if not r.ok} == {"weight"}
    proof = broken(text, lambda p: re.sub(r"(all_reduce \S+) sum over tp", r"\1 max over tp", p))
    assert "gradient" in {r.kind for r in proof.rows if not r.ok}
