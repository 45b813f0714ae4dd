"""A whole simulation: every rank against one of each class, what figures mean, and how long it takes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.cost.kernels.work import Collective, Part, Product, Work, WorkLoop
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.price.kinds import SLOWER
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.simulate import Simulation, simulate
from compiler.cost.time.slow import Variation, colours
from compiler.numbering import Ranks
from compiler.program import Axis
from compiler.traffic import collectives
from dsl.codes import CODES
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.cost.time import oracle

EXAMPLES = Path(__file__).parents[2] / "examples"
runner = CliRunner()

CASES = {
    "serial": ("gpt", ""),
    "tensor": ("gpt", "dp=2 tp=2 microbatches=2"),
    "pipeline": ("gpt", "dp=2 tp=2 pp=2 microbatches=4 layers=8"),
    "uneven": ("gpt", "pp=4 microbatches=8 layers=6"),
    "zero3": ("gpt", "dp=4 zero=3 layers=12"),
    "zero3 pipeline": ("gpt", "dp=2 pp=2 zero=3 layers=8 microbatches=2"),
    "context": ("gpt", "cp=2 dp=2 zero=2 microbatches=2 layers=5"),
    "llama": ("llama", "dp=2 tp=2 cp=2"),
    "towers": ("towers", ""),
    "resnet": ("resnet", ""),
    "recsys": ("recsys", ""),
}
STACKS: dict[str, dict[str, float]] = {
    "as stated": {},
    "overlapping": {
        "overlap": 1.0,
        "hidden": 0.5,
        "hidden_gather": 0.4,
        "ahead": 1.0,
        "slowdown": 0.2,
        "jitter": 0.01,
        "host": 0.0,
    },
    "partly ahead": {"ahead": 0.7, "scattered": 1.0, "ring": 0.5, "reentrant": 1.0, "host": 0.0},
    "blocking": {"prefetch": 0.0, "blocking_sends": 1.0, "scattered": 1.0, "host": 2e-5, "fused_attention": 1.0},
}


@cache
def simulation(example: str, options: str = "") -> Simulation:
    params = dict(o.split("=") for o in options.split())
    return Simulation.of(parc.compile(EXAMPLES / f"{example}.par", params=params))


def cal(s: Simulation, **changes: float) -> Calibration:
    return of_cluster(s.cluster).changed(**changes)


def every_rank(s: Simulation, calibration: Calibration, partition: list[int], slow: dict[int, float]) -> list[int]:
    """When each player ends; `range(devices)` as the partition plays every device."""
    return list(oracle.every_rank(s, s.pricer(calibration), partition, slow))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("case", CASES)
def test_every_rank_played_ends_when_its_class_does(case: str, stack: str) -> None:
    """Loops unrolled, each device by itself, to the picosecond."""
    s = simulation(*CASES[case])
    calibration = cal(s, **STACKS[stack])
    found = s.run(calibration)
    ends = every_rank(s, calibration, list(range(s.program.devices)), {})
    assert max(ends) == round(found.step_seconds * PICOSECONDS)
    for player in found.classes:
        assert len({ends[r] for r in range(player.first, player.first + player.count)}) == 1


@pytest.mark.parametrize("case", ["tensor", "pipeline", "zero3 pipeline", "context"])
@pytest.mark.parametrize("slow", [{0: 1.5}, {1: 1.3, 6: 2.0}])
def test_slow_devices_split_classes_and_every_rank_agrees(case: str, slow: dict[int, float]) -> None:
    s = simulation(*CASES[case])
    slow = {r: f for r, f in slow.items() if r < s.program.devices}
    partition = s.partition(slow)
    classes = every_rank(s, cal(s), partition, slow)
    ranks = every_rank(s, cal(s), list(range(s.program.devices)), slow)
    assert [classes[c] for c in partition] == ranks
    varied = s.run(None, Variation(slow))
    assert varied.step_seconds * PICOSECONDS == pytest.approx(max(ranks), abs=1)
    assert varied.step_seconds > s.run().step_seconds
    assert sum(p.count for p in varied.classes) == s.program.devices


def test_slow_devices_show_in_the_figures() -> None:
    s = simulation("pangu_200b")
    nominal, found = s.run(), s.run(None, Variation({3: 6.0}))
    assert found.bottleneck.startswith("Slow devices, and waits for them")
    assert found.update_seconds >= nominal.update_seconds and found.mfu < nominal.mfu
    (slow,) = (i for i, c in enumerate(found.classes) if (c.first, c.count) == (3, 1))
    for c, part, alike in ((c, part, nominal.spent[c.group]) for c, part in zip(found.classes, found.spent)):
        if c.group and c.first % 128 < 8:  # of the slow one's pipelines: they get later what its stage makes
            assert part.bubble > 3 * alike.bubble
        elif c.group:  # of others, which wait for its pipelines' gradients
            assert part.exposed[SLOWER] > found.step_seconds / 2 and part.bubble < alike.bubble * 1.1
    assert {e.cls for e in found.events} == set(range(len(found.classes)))
    assert found.busy[slow] == max(found.busy) > 5 * max(b for i, b in enumerate(found.busy) if i != slow)
    step = found.step_seconds * PICOSECONDS
    assert max(e.end_ps for e in found.events) <= step + 1


def test_one_slow_device_of_many_makes_few_classes() -> None:
    """256 devices in a mesh of 32 by 8: itself, those of its row, of its column, and the others."""
    ranks = Ranks([Axis("dp", 32, "mesh"), Axis("tp", 8, "mesh")])
    found = colours(ranks, {9: 2.0}, [("dp",), ("tp",)], [[]])
    assert sorted(found.count(c) for c in set(found)) == [1, 7, 31, 217]
    assert set(colours(ranks, {}, [("dp",), ("tp",)], [[]])) == {0}


def test_slow_links_cost_those_who_use_them() -> None:
    s = simulation("gpt", "dp=8 tp=2 batch=64 hidden=512")
    ideal = cal(s, host=0.0, alpha=0.0)
    base, slow = s.run(ideal), s.run(ideal, Variation({}, {"pod": 4.0}))
    assert slow.exposed_by_axis["dp"] > 1.5 * base.exposed_by_axis["dp"]
    assert slow.exposed_by_axis["tp"] == base.exposed_by_axis["tp"]


def nodes(part: Part) -> list[Work]:
    found: list[Work] = []
    for node in part.nodes:
        found += nodes(node.work.body) if isinstance(node.work, WorkLoop) else [node.work]
    return found


def test_model_flops_are_six_per_parameter_and_token() -> None:
    """And those of attention's core, 12 s d per layer and token (halved by nobody: a mask is no saving here)."""
    s = simulation("gpt", "layers=4 hidden=256 heads=4 seq=64 vocab=512")
    parameters = 4 * 12 * 256**2 + 512 * 256
    tokens = 16 * 64
    expected = 6 * parameters * tokens + 4 * 12 * 64 * 256 * tokens
    assert s.run().flops_model == pytest.approx(expected, rel=1e-3)
    assert s.features.flops == pytest.approx(expected, rel=1e-3)
    assert s.features.tokens == tokens and s.features.samples == 16


def test_flops_do_not_depend_on_the_strategy() -> None:
    serial = simulation("gpt", "layers=4 hidden=256").run().flops_model
    for options in ("dp=2 tp=2", "pp=2 dp=2 microbatches=4", "cp=2 dp=2", "dp=4 zero=3"):
        assert simulation("gpt", f"layers=4 hidden=256 {options}").run().flops_model == pytest.approx(serial)


def test_recompute_is_hardware_flops_only() -> None:
    s = simulation("pangu_200b")
    assert 1.2 < s.features.flops / s.run().flops_model < 4 / 3


def test_collectives_of_weights_and_gradients_are_one_message_per_layer() -> None:
    part = simulation(*CASES["zero3"]).features.parts[0]
    for kind, role, op in (("F", "weights", "all_gather"), ("B", "gradients", "reduce_scatter")):
        (loop,) = (n.work for n in part[kind, 0].nodes if isinstance(n.work, WorkLoop))
        inside = [w for w in nodes(loop.body) if isinstance(w, Collective)]
        assert [(w.op, w.role) for w in inside if w.role == role] == [(op, role)]


def test_attention_s_core_is_found() -> None:
    """Scores and mixing, forward; the same again and four products backward."""
    parts = simulation("pangu_200b").features.parts[0]
    assert [sum(isinstance(w, Product) and w.core for w in nodes(parts[k, 0])) for k in "FB"] == [2, 6]
    s = simulation("gpt", "layers=4 hidden=256 seq=1024")
    assert s.run(cal(s, fused_attention=1.0)).step_seconds < s.run(cal(s, fused_attention=0.0)).step_seconds


MASKED = """
use std.layers (grouped_attention)
model m {{
  dim b = 4, s = 256, d = 64
  input x : bf16[b,s,d]
  y = grouped_attention(x, 4, 2{options})
  loss sum(y)
}}
device d {{
  compute bf16 100 TFLOP/s
  memory 80 GB, 2 TB/s
}}
cluster pod {{
  device npu = d
  level server = 4 npu over 100 GB/s, 1 us
}}
strategy s for m {{
  mesh (cp = 4)
  split s on cp for activations
}}
job j {{
  train m on pod using s
  optimizer sgd(lr = 0.1)
  precision bf16, master f32
}}
"""


@pytest.mark.parametrize(
    "options, share",
    [(", causal = false", 1.0), ("", 0.5), (", window = 64", 0.25 - 0.25**2 / 2), (", window = 999", 0.5)],
)
def test_kernels_that_know_of_a_mask_compute_what_it_leaves(options: str, share: float) -> None:
    """All that attention's core multiplies, forward and backward, whichever axis its positions are split on."""
    text = "use std.optimizers (sgd)\n" + MASKED.format(options=options)
    parts = Simulation.of(parc.compile(Source("masked.par", text))).features.parts[0]
    found = [w.kept for part in parts.values() for w in nodes(part) if isinstance(w, Product) and w.core]
    assert len(found) >= 5 and found == pytest.approx([share] * len(found), abs=0.02)


def test_messages_of_activations_that_go_beside_products_cost_less() -> None:
    s = simulation("gpt", "layers=4 hidden=256 tp=2")
    none, half, whole = (s.run(cal(s, overlap=share, host=0.0, launch=0.0)).step_seconds for share in (0.0, 0.5, 1.0))
    assert none > half > whole and none - half == pytest.approx(half - whole, rel=0.05)


def test_the_bubble_is_that_of_the_schedule() -> None:
    """1F1B with equal stages: (pp-1)/(m+pp-1) of the time but for the update and messages."""
    s = simulation("gpt", "pp=4 microbatches=12 layers=64 vocab=2 hidden=256 batch=48 seq=256")
    found = s.run(cal(s, host=0.0, fixed=0.0, alpha=0.0))
    assert found.bubble == pytest.approx(3 / 15, abs=0.03)


def test_prefetch_hides_gathers_of_weights() -> None:
    s = simulation("gpt", "dp=8 zero=3 layers=12 hidden=1024 heads=16 batch=256 seq=1024")
    shown = s.run(cal(s, prefetch=0.0)).exposed_by_axis["dp"]
    hidden = s.run(cal(s, prefetch=1.0, slowdown=0.0)).exposed_by_axis["dp"]
    assert hidden < 0.6 * shown


def test_gradients_reduced_beside_the_backward_pass() -> None:
    s = simulation("gpt", "dp=8 layers=12 hidden=1024 heads=16 batch=64 seq=512")
    late, early = (s.run(cal(s, hidden=h)).step_seconds for h in (0.0, 0.8))
    assert early < late


def test_prices_change_and_features_stay() -> None:
    s = simulation("gpt", "dp=2 tp=2 microbatches=2")
    before = s.features
    slow, fast = s.run(cal(s, host=1e-4)), s.run(cal(s, host=0.0))
    assert slow.step_seconds > fast.step_seconds and s.features is before


def test_events_lie_in_the_step_and_activations_do_not_overlap() -> None:
    found = simulation(*CASES["pipeline"]).run()
    assert {e.kind for e in found.events} >= {"F", "B", "U", "send"}
    for player in range(len(found.classes)):
        kernels = [e for e in found.events if e.cls == player and e.stream == "compute"]
        assert all(a.end_ps <= b.start_ps for a, b in zip(kernels, kernels[1:]))
        assert kernels[-1].end_ps <= found.step_seconds * PICOSECONDS + 1
        assert sum(e.kind == "F" for e in kernels) == 4


def test_one_slow_device_of_2048_makes_four_classes_per_stage() -> None:
    s = simulation("pangu_200b")
    assert s.features.samples == 512 and len(s.run().classes) == 16
    assert len(s.run(None, Variation({3: 1.5}, {"pod": 2.0})).classes) == 64


E08 = [
    c for c in CODES.values() if c.code.startswith("E08") and c.code not in ("E0802", "E0803")
]  # which are told of plans


@pytest.mark.parametrize("code", E08, ids=lambda c: c.code)
def test_codes(code: object) -> None:
    entry = CODES[str(getattr(code, "code"))]  # noqa: B009
    with pytest.raises(ParcError) as caught:
        simulate(parc.compile(Source("failing.par", entry.failing)))
    assert [d.code for d in caught.value.diagnostics] == [entry.code]
    assert simulate(parc.compile(Source("mended.par", entry.mended))).step_seconds > 0


@pytest.mark.parametrize("options", ["pp=2 dp=2 microbatches=4 layers=4", "pp=4 tp=2 microbatches=8 layers=6", "tp=2"])
def test_traffic_between_stages_is_what_the_program_sends(options: str) -> None:
    """Activations and their gradients, and of the first and last stage the all-reduce of the tied table."""
    s = simulation("gpt", options)
    t = s.run()
    sent = [0.0] * s.program.groups
    for found in collectives(s.program):
        if found.op in ("send", "stage_reduce"):
            for group in found.groups:
                sent[group] += found.bytes
    assert any(found.op == "stage_reduce" for found in collectives(s.program)) == (s.program.groups > 1)
    assert t.traffic.get("stages", 0.0) == max(sent)
    for group, spent in enumerate(t.spent):
        assert sum(link.bytes for link in spent.links if link.axes == "stages") == sent[group]
        assert sum(spent.sends.values()) == sent[group]


@pytest.mark.parametrize("case", ["tensor", "zero3", "context", "recsys"])
@pytest.mark.parametrize("wire", [1.0, 2.0])
def test_in_f32_the_bytes_sent_are_those_of_the_program(case: str, wire: float) -> None:
    """What computes in f32 gathers weights and reduces gradients in f32, whatever systems do that compute in 16."""
    s = simulation(*CASES[case])
    want: dict[str, float] = {}
    for c in collectives(s.program):
        if c.axes:
            want["+".join(c.axes)] = want.get("+".join(c.axes), 0.0) + c.bytes
    found = s.run(cal(s, wire=wire, gradient_wire=wire)).traffic
    assert found == pytest.approx(want, rel=1e-3)  # what goes together is rounded up to whole elements


def test_uneven_pieces_are_sent_as_large_as_the_largest() -> None:
    text = """use std.devices (a100_80)
use std.layers (mlp)
use std.optimizers (sgd)

model m() {
  dim b = 8, d = 10
  input x : f32[b,d]
  loss mean(cumsum(mlp(x, 12), over d))
}

cluster pod() {
  device gpu = a100_80
  level server = 4 gpu over 300 GB/s, 1 us
}

strategy plan for m {
  mesh (tp = 4)
  split d on tp pad
}

job fit {
  train m on pod using plan
  optimizer sgd(lr = 0.1)
}
"""
    s = Simulation.of(parc.compile(Source("uneven.par", text)))
    found = collectives(s.program)
    assert any(c.op == "all_gather" for c in found)
    assert s.run().traffic == {"tp": pytest.approx(sum(c.bytes for c in found), rel=1e-3)}
