"""Statistics `per microbatch`, and states that sums over the batch renew: under every order and layout the same as the
serial program with the same groups of samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

import parc
from compiler.layout import local_type
from compiler.ops.comm import AllReduce
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.some import some_pairs

MODEL = """\
use std.layers
use std.optimizers (sgd)
use std.tactics

model net {
  dim b = 16, y = 4, x = 2, c = 4, f = 6
  input image : f32[b,y,x,c]
  weight w[c] ~ normal(0.5)
  state seen[c]
  state most[c]
  h = batch_norm(image * w, per_microbatch = true) as first
  repeat 4 as block {
    weight v[c,f], u[f,c] ~ normal(0.5)
    r[b,y,x,f] = batch_norm(h, momentum = 0.3, per_microbatch = true) @ v
    h[b,y,x,c] = tanh(r) @ u + h
  }
  low = min(h, over (b, y) per microbatch)
  h = h - 0.1 * low
  seen = 0.5 * seen + mean(h, over (b, y, x))
  most = max(h, over (b, y, x))
  metric spread = sum(max(h, over b per microbatch))
  loss mean(h * h * h + h)
}

strategy plan for net {
  mesh (AXES)
  RULES
}

job fit {
  train net using plan
  optimizer sgd(lr = 0.1)
}
"""

LAYOUTS = {
    "dp": ("dp = 2", "data_parallel(dp)"),
    "tp": ("tp = 2", "split f on tp"),
    "channels": ("ch = 2", "split c on ch for activations"),
    "zero_1": ("z1 = 2", "data_parallel(z1)\n  optimizer_parallel(z1, 1)"),
    "zero_2": ("z2 = 2", "data_parallel(z2)\n  optimizer_parallel(z2, 2)"),
    "zero_3": ("z3 = 2", "fsdp(z3)"),
    "bands": ("sp = 2", "split y on sp"),
    "recompute": ("", "recompute block"),
}
ORDERS = {
    "none": ("", ""),
    "microbatches": ("", "microbatches 4 over b"),
    "gpipe": ("pp = 2", "pipeline block on pp, schedule gpipe(microbatches = 2, over = b)"),
    "one_f_one_b": ("pp = 4", "pipeline block on pp, schedule one_f_one_b(microbatches = 4, over = b)"),
    "interleaved": ("pp = 2", "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2, over = b)"),
    "zero_bubble": ("pp = 2", "pipeline block on pp, schedule zero_bubble(microbatches = 4, over = b)"),
}


def under(*tactics: tuple[str, str], text: str = MODEL) -> Source:
    """The model under these axes and rules."""
    axes = ", ".join(a for a, _ in tactics if a) or "one = 1"
    return Source("net.par", text.replace("AXES", axes).replace("RULES", "\n  ".join(r for _, r in tactics if r)))


@pytest.mark.parametrize(("layout", "order"), some_pairs(LAYOUTS, list(ORDERS), 3))
def test_every_layout_under_every_order(layout: str, order: str) -> None:
    source = under(LAYOUTS[layout], ORDERS[order])
    parc.check(source, double=True)
    assert parc.verify(source, double=True, steps=2).ok


@pytest.mark.parametrize("pair", [*combinations(LAYOUTS, 2)][::5], ids="+".join)
def test_pairs_of_layouts(pair: tuple[str, str]) -> None:
    source = under(*(LAYOUTS[p] for p in pair), ORDERS["microbatches"])
    assert parc.verify(source, double=True, steps=1).ok


@pytest.mark.nightly
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pair", [*combinations(LAYOUTS, 2)], ids="+".join)
def test_all_pairs_of_layouts(pair: tuple[str, str], order: str) -> None:
    assert parc.verify(under(*(LAYOUTS[p] for p in pair), ORDERS[order]), double=True, steps=1).ok


def test_every_device_by_itself_and_in_evaluation() -> None:
    source = under(LAYOUTS["dp"], ORDERS["one_f_one_b"])
    assert parc.verify(source, double=True, steps=2, executor="private").ok
    assert parc.verify(source, double=True, steps=1, entry="evaluate").ok


def test_the_number_of_micro_batches_is_part_of_what_is_computed() -> None:
    losses = {n: parc.run(under(("one = 1", f"microbatches {n} over b")), steps=1).losses[0] for n in (1, 2, 4)}
    assert len({round(float(v), 5) for v in losses.values()}) == 3


STATISTIC = """\
use std.layers (moved)
use std.optimizers (sgd)

param n = 4

model m {
  dim b = 8, c = 3
  input x : f32[b,c]
  weight w[c] ~ ones
  state running[c] ~ constant(2.0)
  mu = mean(x * w, over b per microbatch)
  running = moved(running, mu, 0.25, over b)
  output mu, running
  loss mean(mu * x * w)
}

strategy s for m {
  mesh (dp = 2)
  split b on dp
  microbatches n over b
}

job fit {
  train m using s
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("n", [1, 2, 4])
def test_what_is_kept_moves_with_each_micro_batch_in_order(n: int) -> None:
    """As a loop over micro-batches would have it."""
    source = Source("m.par", STATISTIC)
    found = parc.run(source, steps=1, params={"n": n})
    means = found.outputs["mu"].reshape(n, 8 // n, 3)
    assert np.allclose(means, means[:, :1])
    kept = np.full(3, 2.0)
    for mean in means[:, 0]:
        kept = 0.75 * kept + 0.25 * mean
    np.testing.assert_allclose(found.outputs["running"], kept, rtol=1e-5)
    assert parc.verify(source, double=True, params={"n": n}).ok


def test_samples_are_split_as_their_dim_is() -> None:
    """No device has the samples of another: what is exchanged is one number per channel and micro-batch."""
    program = parc.compile(Source("m.par", STATISTIC)).program
    (cls,) = program.classes
    for f in cls.functions:
        for node in f.body.nodes:
            if isinstance(node.op, AllReduce):
                assert local_type(node.output.type, node.output.layout, program.sizes).elements <= 3
    assert "shard" not in parc.emit(Source("m.par", STATISTIC))


def test_micro_batches_of_another_dim_leave_one_group() -> None:
    text = STATISTIC.replace("microbatches n over b", "microbatches 2 over s").replace("c = 3", "c = 3, s = 4")
    text = text.replace("[b,c]", "[b,s,c]").replace("(running, mu,", "(running, mean(mu, over s),")
    assert "b_microbatch=1," in parc.emit(Source("m.par", text))
    assert parc.verify(Source("m.par", text), double=True).ok


@pytest.mark.parametrize(
    ("mean", "code"),
    [
        ("mean(x * w, over (c, b) per microbatch)", "E0210"),
        ("cumsum(x * w, over b per microbatch)", "E0210"),
        ("moved(x, x, 0.5, over b per microbatch)", "E0210"),
        ("mean(x * w, over d per microbatch)", "E0209"),
    ],
)
def test_what_is_refused(mean: str, code: str) -> None:
    text = STATISTIC.replace("mean(x * w, over b per microbatch)", mean)
    with pytest.raises(ParcError) as caught:
        parc.check(Source("m.par", text))
    assert caught.value.diagnostics[0].code == code


def test_micro_batches_that_do_not_divide_the_samples() -> None:
    with pytest.raises(ParcError) as caught:
        parc.check(Source("m.par", STATISTIC), params={"n": 3})
    assert {d.code for d in caught.value.diagnostics} == {"E0501"}


@pytest.mark.parametrize(
    ("new", "fine"),
    [
        ("0.5 * kept + mean(h, over b)", True),
        ("mean(h, over b) + 1.0", True),
        ("max(h, over b)", True),
        ("kept + mean(x, over b)", True),
        ("sqrt(mean(h * h, over b))", False),
        ("mean((h - mean(h, over b)) * h, over b)", False),
        ("kept * mean(h, over b)", True),
    ],
)
@pytest.mark.parametrize("order", ["microbatches", "gpipe"])
def test_states_that_sums_renew(new: str, fine: bool, order: str) -> None:
    """They are read as before the step, and renewed once, by `E`, behind the last micro-batch."""
    text = (
        "use std.optimizers (sgd)\nmodel m {\n  dim b = 8, d = 4\n  input x : f32[b,d]\n  h = x\n"
        "  repeat 2 as block {\n    weight w[d] ~ ones\n    state kept[d] ~ ones\n    h = tanh(h * w) + 0.1 * kept\n"
        f"    kept = {new}\n  }}\n  loss mean(h * h)\n}}\n"
        "strategy s for m {\n  mesh (AXES)\n  RULES\n}\n"
        "job fit {\n  train m using s\n  optimizer sgd(lr = 0.1)\n}\n"
    )
    source = under(LAYOUTS["dp"], ORDERS[order], text=text.replace("use std", "use std.tactics\nuse std", 1))
    if fine:
        parc.check(source)
        assert parc.verify(source, double=True, steps=2).ok
        assert all("E" in {f.phase for f in c.functions} for c in parc.compile(source).program.classes)
        return
    with pytest.raises(ParcError) as caught:
        parc.check(source)
    (found,) = caught.value.diagnostics
    assert found.code == "E0562" and "per microbatch" in (found.help or "")
