"""What systems do beside other work, on a made-up GPT on 64 A100: each form of the price by its number alone."""

from __future__ import annotations

from functools import cache

import pytest

import parc
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.timeline import Timeline
from dsl.source import Source


@cache
def simulation(layers: int, rules: str, batch: int = 64, seq: int = 2048) -> Simulation:
    """Layers of 8,192 on 8 servers of 8; `rules`: of the strategy."""
    return Simulation.of(
        parc.compile(
            Source(
                "made_up.par",
                f"""use std.devices (a100_80)
use std.layers (attention, cross_entropy, gelu, layer_norm, mlp)
use std.optimizers (adamw)
use std.tactics (context_parallel, data_parallel, fsdp, megatron, optimizer_parallel)

model gpt() {{
  dim b = {batch}, s = {seq}, d = 8192, v = 51200
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d] ~ normal(0.02)
  x = take(wte, tokens, over v)
  repeat {layers} as block {{
    x = x + attention(layer_norm(x), 64)
    x = x + mlp(layer_norm(x), 32768)
  }}
  logits[b,s,v] = layer_norm(x) @ wte
  loss cross_entropy(logits, targets, over v)
}}

cluster pod() {{
  device gpu = a100_80
  level server = 8 gpu over 300 GB/s, 1 us
  level pod = 8 server over 25 GB/s, 5 us
}}

strategy s for gpt {{
  {rules}
}}

job j {{
  train gpt() on pod using s
  optimizer adamw(lr = 1e-4)
  precision bf16, master f32
}}
""",
            )
        )
    )


def run(s: Simulation, **changes: float) -> Timeline:
    """With some of the device's numbers changed."""
    return s.run(numbers(s, **changes))


def numbers(s: Simulation, **changes: float) -> Calibration:
    return of_cluster(s.cluster).changed(**changes)


ZERO_1 = "mesh (dp = 8, tp = 8)\n  data_parallel(dp)\n  megatron(tp)\n  optimizer_parallel(dp, 1)"


def test_reductions_and_gathers_of_a_step_go_beside_the_passes_around_the_update() -> None:
    """Gradients are reduced while the last backward pass goes on, and weights gathered while the next step begins."""
    s = simulation(48, ZERO_1)
    alone, reduced, both = run(s), run(s, hidden=1.0), run(s, hidden=1.0, hidden_gather=1.0)
    messages = {link.axes: link for link in alone.spent[0].links}["dp"]
    exposed = [t.exposed_by_axis.get("dp", 0.0) for t in (alone, reduced, both)]
    assert exposed[0] == pytest.approx(messages.seconds, rel=1e-3)
    gathers = run(s, hidden_gather=1.0).exposed_by_axis["dp"]
    assert 0 < exposed[1] < 0.7 * exposed[0] and gathers == pytest.approx(exposed[0] - exposed[1])
    assert exposed[2] < 0.01 * exposed[0]
    assert both.step_seconds == pytest.approx(alone.step_seconds - exposed[0], rel=1e-3)


def test_what_a_pass_is_too_short_for_is_waited_for() -> None:
    """A share of a pass hides no more than that takes."""
    s = simulation(48, ZERO_1)
    alone = run(s).step_seconds
    some = [alone - run(s, hidden_gather=share).step_seconds for share in (0.01, 0.02)]
    assert some[1] == pytest.approx(2 * some[0]) and some[0] > 0
