"""What a model needs to compute is one number, however its strategy spreads it, and more than once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsl.source import Source
from parc import api

EXAMPLES = Path(__file__).parents[2] / "examples"

MODEL = """\
use std.optimizers (sgd)

model net {{
  dim b = 8, d = 6, f = 9
  input x : f32[b,d]
  input t : f32[b,d]
  weight w1[d,f] ~ normal(0.1)
  weight w2[f,d] ~ normal(0.1)
  y[b,d] = relu(x @ w1) @ w2
  loss sum((y - t) * (y - t), over (b, d))
}}

device npu {{
  compute f32 1 TFLOP/s
  memory 1 GB, 100 GB/s
}}

cluster pod {{
  device npu = npu
  level server = 4 npu over 10 GB/s, 1 us
}}

strategy s for net {{
  mesh (p = 2, q = 2)
{rules}}}

job fit {{
  train net on pod using s
  optimizer sgd(lr = 0.1)
  precision f32
}}
"""
FORWARD = 2 * 2 * 8 * 6 * 9
NEEDED = 2 * FORWARD + FORWARD // 2
"""Forward, gradients of both weights, and that of what is between them: nobody needs that of `x`."""


@pytest.mark.parametrize(
    "rules, computed",
    [
        ("", 4 * NEEDED),  # all devices alike
        ("split b on p", 2 * NEEDED),
        ("split b on p\nsplit d on q", NEEDED),
        ("split b on p\nsplit b on q\nmicrobatches 2 over b", NEEDED),
        ("split b on p\nsplit f on q pad", NEEDED * 10 / 9),
    ],
)
def test_products_that_devices_compute_alike_are_needed_once(rules: str, computed: float) -> None:
    text = MODEL.format(rules="".join(f"  {line}\n" for line in rules.splitlines()))
    t = api.cost(Source("net.par", text)).timeline
    assert t.flops_model == NEEDED
    assert t.flops_hardware == pytest.approx(computed)
    assert t.mfu == pytest.approx(NEEDED / (t.step_seconds * 4e12))
    assert t.hfu == pytest.approx(computed / (t.step_seconds * 4e12))


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet", {"sp": 2}),  # borders of bands
        ("resnet", {"dp": 2, "sp": 4, "sx": 2, "microbatches": 2}),
        ("recsys", {"dp": 4}),
        ("gpt", {"pp": 2, "tp": 2, "dp": 2, "microbatches": 4, "zero": 3}),
        ("towers", {"dp": 2}),
    ],
)
def test_what_a_model_needs_does_not_depend_on_the_strategy(name: str, options: dict[str, int]) -> None:
    file = EXAMPLES / f"{name}.par"
    serial, split = api.cost(file).timeline, api.cost(file, params=options).timeline
    assert split.flops_model == serial.flops_model <= split.flops_hardware * (1 + 1e-12)


@pytest.mark.parametrize("name", ["gpt", "llama", "resnet", "recsys", "towers"])
def test_what_a_model_needs_does_not_depend_on_recompute(name: str) -> None:
    """Nor where the first layer needs no gradient of its input, or a stage makes again what another made."""
    text = (EXAMPLES / f"{name}.par").read_text()
    again = re.sub(r"(\nstrategy [^\n]*\n  mesh[^\n]*\n)", r"\1  recompute\n", text, count=1)
    assert again != text
    plain, made = (api.cost(Source(f"{name}.par", t)).timeline for t in (text, again))
    assert made.flops_model == plain.flops_model and made.flops_hardware > 1.1 * plain.flops_hardware


def test_one_sample_per_device_is_as_much_work() -> None:
    """A product of one row and one column is no work for the matrix unit, but still what the model needs."""
    file = EXAMPLES / "recsys.par"
    whole = api.cost(file, params={"batch": 8}).timeline
    assert api.cost(file, params={"batch": 8, "dp": 8}).timeline.flops_model == whole.flops_model
