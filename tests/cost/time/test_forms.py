"""What systems do beside other work, on a made-up GPT on 64 A100: each form of the price by its number alone."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

import parc
from compiler.cost.kernels.work import Collective, Wait
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.timeline import Piece, Timeline
from compiler.program import FunctionPhase
from dsl.source import Source


@cache
def simulation(layers: int, rules: str, batch: int = 64, seq: int = 2048, servers: int = 8) -> Simulation:
    """Layers of 8,192 on servers of 8; `rules`: of the strategy."""
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
  level pod = {servers} server over 25 GB/s, 5 us
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


FSDP = "mesh (dp = 64)\n  fsdp(dp)"


def test_gathers_ahead_of_reductions_leave_nothing_to_wait_for() -> None:
    """Fully sharded: the next layer's weights are there when the backward pass comes to it."""
    s = simulation(16, FSDP)
    exposed = [run(s, ahead=share, outer=1.0).exposed_by_axis["dp"] for share in (0.0, 0.5, 1.0)]
    links = {link.axes: link.seconds for link in run(s).spent[0].links}
    assert exposed[0] > 0.3 * links["dp"] and exposed[2] < 0.1 * links["dp"]
    assert exposed[1] == pytest.approx((exposed[0] + exposed[2]) / 2, rel=0.1)


@pytest.mark.parametrize("servers, doublings", [(1, 0), (8, 3)])
def test_all_wait_for_the_latest_host(servers: int, doublings: int) -> None:
    """1% of all computation for each doubling of the servers."""
    s = simulation(4, f"mesh (dp = {8 * servers})\n  data_parallel(dp)", servers=servers)
    alone, late = run(s), run(s, jitter=0.01)
    assert late.busy[0] == pytest.approx((1 + 0.01 * doublings) * alone.busy[0])
    assert late.step_seconds == pytest.approx(alone.step_seconds + 0.01 * doublings * alone.busy[0], rel=1e-6)


PIPELINE = (
    "mesh (pp = 8, tp = 8)\n  megatron(tp, sequence = {sequence})\n"
    "  pipeline block on pp, schedule one_f_one_b(microbatches = 16, over = b)"
)


def test_devices_that_send_alike_send_a_part_each() -> None:
    """Without sequence parallelism each of 8 devices would send all of a micro-batch to the next stage."""
    s = simulation(16, PIPELINE.format(sequence="false"), batch=16)
    whole, parts = run(s), run(s, scattered=1.0)
    message = 2048 * 8192 * 2
    assert whole.spent[3].sends[4] == 16 * message and parts.spent[3].sends[4] == 16 * message / 8
    sends = [next(link for link in t.spent[3].links if link.axes == "stages") for t in (whole, parts)]
    assert sends[0].calls == sends[1].calls and sends[1].seconds < 0.3 * sends[0].seconds
    gathers = [next(link for link in t.spent[3].links if link.axes == "tp") for t in (whole, parts)]
    assert gathers[1].calls - gathers[0].calls == 2 * 16  # forward and backward
    assert gathers[1].bytes - gathers[0].bytes == 2 * 16 * 7 / 8 * message
    split = simulation(16, PIPELINE.format(sequence="true"), batch=16)  # by layout: nothing is left to scatter
    assert run(split).spent[3].sends == run(split, scattered=1.0).spent[3].sends == parts.spent[3].sends
    assert run(split).step_seconds == run(split, scattered=1.0).step_seconds


@pytest.mark.parametrize("cp", [2, 4])
def test_a_ring_goes_beside_attention(cp: int) -> None:
    """32k positions: attention with what one device has takes longer than sending that on."""
    rules = f"mesh (dp = {8 // cp}, cp = {cp}, tp = 8)\n  data_parallel(dp)\n  context_parallel(cp)\n  megatron(tp)"
    s = simulation(4, rules, batch=8, seq=32768)
    exposed = [run(s, ring=share).exposed_by_axis.get("cp", 0.0) for share in (0.0, 0.5, 1.0)]
    assert exposed[1] == pytest.approx(exposed[0] / 2) and exposed[2] == 0 < exposed[0]


def test_a_ring_hides_no_more_than_attention_takes() -> None:
    """Short sequences over slow links: what is left is waited for."""
    rules = "mesh (cp = 8, tp = 8)\n  context_parallel(cp)\n  megatron(tp)"
    s = simulation(4, rules, batch=8)
    exposed = [run(s, ring=share, outer=0.01).exposed_by_axis["cp"] for share in (0.0, 1.0)]
    assert 0.5 * exposed[0] < exposed[1] < exposed[0]


def test_layers_that_run_again_as_a_whole() -> None:
    """Megatron's checkpoint: a third more products than the model needs, and the message behind the last one."""
    rules = "mesh (pp = 8, tp = 8)\n  megatron(tp, sequence = false)\n  recompute block\n"
    rules += "  pipeline block on pp, schedule one_f_one_b(microbatches = 16, over = b)"
    s = simulation(48, rules, batch=16)
    needed, whole = run(s), run(s, reentrant=1.0)
    assert needed.flops_hardware / needed.flops_model == pytest.approx(1.224, abs=0.015)
    assert whole.flops_hardware / whole.flops_model == pytest.approx(4 / 3, abs=0.015)
    sent = [next(link.bytes for link in t.spent[3].links if link.axes == "tp") for t in (needed, whole)]
    assert sent[1] / sent[0] == pytest.approx(6 / 5, rel=1e-4)  # 2 forward, 1 or 2 again, 2 backward
    assert 1.05 < whole.step_seconds / needed.step_seconds < 1.1


@pytest.mark.parametrize("rule", ["", "recompute block.attention", "recompute block keep block.mlp.u"])
def test_what_does_not_run_again_as_a_layer_is_left_out_by_all(rule: str) -> None:
    s = simulation(4, f"{ZERO_1}\n  {rule}")
    assert run(s).step_seconds == run(s, reentrant=1.0).step_seconds and s.features.again == 0


@pytest.mark.parametrize("unrolled", [0, 400])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_what_is_shown_of_gathers_ahead_is_what_was_played(share: float, unrolled: int) -> None:
    """On each stream one piece after the other, as many gathers as layers, and all of what is sent."""
    s = simulation(6, FSDP)
    pricer = s.pricer(numbers(s, ahead=share))
    (functions,) = s.costs(pricer, unrolled)
    (segment,) = functions[FunctionPhase.BACKWARD, 0]
    streams: dict[str, list[Piece]] = {}
    for piece in segment.pieces:
        streams.setdefault(piece.stream, []).append(piece)
    assert max(piece.end for piece in segment.pieces) <= segment.duration
    for name, pieces in streams.items():
        if name != "compute":  # waits lie beside kernels there
            assert all(a.end <= b.start for a, b in pairwise(pieces))
    if unrolled:
        (plain,) = s.costs(s.pricer(numbers(s)), unrolled)[0][FunctionPhase.BACKWARD, 0]
        sent = [sum(p.bytes for p in of.pieces if p.kind == "collective") for of in (segment, plain)]
        taken = [sum(p.end - p.start for p in of.pieces if p.kind == "collective") for of in (segment, plain)]
        assert sent[0] == pytest.approx(sent[1]) and taken[0] == taken[1]


def test_what_a_stage_has_from_itself_is_not_gathered() -> None:
    """Stages 0 and 2 are on the same devices: what the one makes for the other is there as a whole."""
    text = """use std.devices (a100_80)
use std.optimizers (sgd)
cluster pod() {
  device gpu = a100_80
  level server = 8 gpu over 300 GB/s, 1 us
}
model m() {
  dim b = 16, d = 64, f = 128
  input x : f32[b,d]
  weight w0[d,f], v0[f,d]
  c = tanh((x @ w0) @ v0)
  h = x
  repeat 8 as block {
    weight w[d,f], v[f,d]
    h = (h @ w) @ v + c
  }
  loss mean(h * c)
}
strategy s for m {
  mesh (pp = 2, tp = 4)
  split f on tp
  pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)
}
job j {
  train m() on pod using s
  optimizer sgd(lr = 0.1)
}
"""
    s = Simulation.of(parc.compile(Source("skip.par", text)))
    gathered: dict[str, int] = {}
    waits: list[tuple[str, int]] = []
    for part in s.features.parts[0].values():
        for node in part.nodes:
            if isinstance(node.work, Wait):
                waits.append((node.work.name, node.work.source))
            elif isinstance(node.work, Collective) and node.work.role == "stages":
                gathered[node.name] = gathered.get(node.name, 0) + 1
    assert ("c", -2) in waits and "c" not in gathered
    assert sum(gathered.values()) == sum(source % 2 for _, source in waits) > 0
    assert run(s, scattered=1.0).step_seconds > 0
