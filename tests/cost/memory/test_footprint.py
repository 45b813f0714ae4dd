"""What a training system keeps, against the closed formulas that are published for it."""

from __future__ import annotations

from dataclasses import fields, replace
from math import prod

import pytest

import parc
from benchmarks.published.facts import Row, load
from benchmarks.published.generate import job
from compiler.cost.memory.footprint import Footprint, footprint
from compiler.cost.memory.systems import Need, Systems
from compiler.cost.price.calibration import NAMES
from compiler.driver import Compiled
from compiler.regions.marks import regions_of
from compiler.settings import EFFICIENCIES, FOOTPRINTS
from dsl.source import Source

ROW = next(r for r in load() if str(r) == "korthikanti_t5-0001")
PRECISIONS = ("fp16", "bf16")
S, B, H, A = 2048, 4, 6144, 64
UNIT = S * B * H


STATES = ("weight", "gradient", "optimizer")


def compiled(row: Row, **cells: str) -> Compiled:
    return parc.compile(Source("row.par", job(replace(row, facts={**row.facts, **cells}))))


def need(row: Row, fused: bool | None = None, **cells: str) -> Need:
    return Systems(compiled(row, **cells), fused=fused).fullest


def states(found: Need) -> int:
    return sum(found.peak.roles.get(role, 0) for role in STATES)


def activations(found: Need) -> int:
    return found.peak.bytes - states(found)


def per_layer(fused: bool, **cells: str) -> float:
    """Bytes that one layer more keeps, over s·b·h."""
    few, many = (activations(need(ROW, fused, **cells, layers=str(n))) for n in (4, 8))
    return (many - few) / 4 / UNIT


@pytest.mark.parametrize("tp, sp", [(1, 0), (8, 0), (8, 1)])
def test_activations_of_a_layer(tp: int, sp: int) -> None:
    """Korthikanti and others: s·b·h(10 + 24/t + 5as/ht), with sequence parallelism (34 + 5as/h)/t. Without dropout its
    masks (2 of the 10, 3 of the 5) are not there."""
    cells = {"tp": str(tp), "sp": str(sp), "n_dev": str(tp)}
    scores = 2 * A * S / H / tp
    linear = 32 / tp if sp else 8 + 24 / tp
    assert per_layer(False, recompute="none", **cells) == pytest.approx(linear + scores, rel=1e-3)
    assert per_layer(False, recompute="selective", **cells) == pytest.approx(linear, rel=1e-3)
    assert per_layer(True, recompute="none", attn="flash", **cells) == pytest.approx(linear, rel=1e-3)
    assert per_layer(False, recompute="full", **cells) == pytest.approx(2 / tp if sp else 2, rel=1e-3)


def test_a_loss_needs_so_many_bytes_per_logit() -> None:
    """Of all tokens of a micro-batch; beside them nothing else of that size is there at the peak."""
    of = compiled(ROW, layers="1", vocab="512000")
    peaks = []
    for loss in (8.0, 12.0, 16.0):
        systems = Systems(of, fused=True)
        systems.footprint = Footprint(loss=loss)
        peaks.append(systems.fullest.peak.bytes)
    assert peaks[1] - peaks[0] == peaks[2] - peaks[1] == 4 * S * B * 512000 // 8


def test_what_hangs_on_logits_is_found_by_what_a_loss_is_made_of() -> None:
    """Not by its size: a stage without a loss has none, nor has a loss without a softmax; attention's is another."""
    row = next(r for r in load() if str(r) == "korthikanti_t5-0003")
    program = compiled(row, vpp="1").program
    wide = regions_of(program).wide
    (names,) = {v.type.names for v in wide}
    first = {v for f in program.classes[0].functions for n in f.body.nodes for v in n.outputs}
    assert names == ("b", "s", "v") and first.isdisjoint(wide)
    text = """
        use std.layers (attention, linear, mse)
        use std.optimizers (sgd)
        model m() {
          dim b = 2, s = 8, d = 16, o = 16
          input x : f32[b,s,d]
          input y : f32[b,s,o]
          loss mse(linear(attention(x, 2), over o), y)
        }
        job fit {
          train m()
          optimizer sgd(lr = 0.1)
        }
    """
    assert not regions_of(parc.compile(Source("mse.par", text)).program).wide


def parameters(row: Row) -> float:
    layers, h, v, s = (row.whole(c) for c in ("layers", "hidden", "vocab", "seq_len"))
    return layers * (12 * h * h + 12 * h) + (v + s) * h + 2 * h


@pytest.mark.parametrize(
    "precision, cells, bytes_each",
    [
        # Megatron-LM's distributed_optimizer.md: without splitting, and as a distributed optimizer
        ("bf16", {}, 18.0),
        ("fp16", {}, 20.0),
        ("fp32", {}, 16.0),
        ("bf16", {"zero_stage": "1"}, 6 + 12 / 4),
        ("fp16", {"zero_stage": "1"}, 4 + 16 / 4),
        ("fp32", {"zero_stage": "1"}, 8 + 8 / 4),
        ("bf16", {"zero_stage": "2"}, 2 + 16 / 4),
        ("bf16", {"zero_stage": "3", "fsdp_shards": "4"}, 12 / 4),  # and what is gathered for a layer
        ("fp32", {"zero_stage": "3", "fsdp_shards": "4"}, 12 / 4),
    ],
)
def test_states_per_parameter(precision: str, cells: dict[str, str], bytes_each: float) -> None:
    cells = {
        "tp": "1",
        "dp": "4",
        "n_dev": "4",
        "gbs": "32",
        "mbs": "4",
        "layers": "4",
        "precision": precision,
        **cells,
    }
    found = need(ROW, **cells)
    row = replace(ROW, facts={**ROW.facts, **cells})
    kept = states(found) - ("fsdp_shards" in cells) * found.peak.roles.get("gradient", 0)
    assert kept == pytest.approx(bytes_each * parameters(row), rel=2e-3)
    of = Footprint(context=2e9)  # CUDA's and NCCL's, of any A100
    assert found.reserved == found.kept + round(found.turning * (1 + of.reserve))
    assert found.needed == found.reserved + of.context
    if "fsdp_shards" not in cells:
        assert found.kept == pytest.approx(kept, rel=1e-3) and found.kept + found.turning == found.peak.bytes


def test_gathered_weights_have_gradients_in_a_pool_of_their_own() -> None:
    """Shards of all of them, in f32: what is not there at the peak is reserved nevertheless."""
    cells = {"tp": "1", "dp": "4", "n_dev": "4", "gbs": "32", "mbs": "8", "layers": "4"}
    cells |= {"zero_stage": "3", "fsdp_shards": "4"}
    found = need(ROW, **cells)
    row = replace(ROW, facts={**ROW.facts, **cells})
    assert found.peak.roles.get("gradient", 0) < 0.1 * parameters(row)
    assert found.kept == pytest.approx(16 / 4 * parameters(row), rel=2e-3)
    assert found.kept + found.turning > found.peak.bytes


def test_a_distributed_optimizer_is_split_over_all_that_hold_the_same_weights() -> None:
    """Data parallel or context parallel: the states are as large (pieces of positions are not other weights)."""
    cells = {"layers": "4", "n_dev": "8", "tp": "1", "gbs": "32", "mbs": "1", "zero_stage": "1", "precision": "bf16"}
    dp, cp, both = (states(need(ROW, **cells, dp=d, cp=c)) for d, c in (("8", "1"), ("1", "8"), ("4", "2")))
    assert dp == pytest.approx(cp, rel=1e-3) and dp == pytest.approx(both, rel=1e-3)


def test_buffers_of_gradients_depend_on_the_precision() -> None:
    """DeepSpeed's pipelines: in bf16 sums in f32 beside the gradients, 4 bytes for each parameter of the device, where
    fp16 has an f32 copy of its part of the gradients at most (bf16_optimizer.py, stage_1_and_2.py)."""
    row = next(r for r in load() if str(r) == "bloom_sweep-0052")
    f16, bf16 = (need(row, precision=p) for p in ("fp16", "bf16"))
    dp = row.whole("dp")
    local = f16.peak.roles["gradient"] / 2
    assert bf16.peak.roles["gradient"] - f16.peak.roles["gradient"] == pytest.approx(4 * local)
    assert states(bf16) - states(f16) == pytest.approx(4 * local * (1 - 1 / dp), rel=1e-3)
    measured = {
        p: [r for r in load() if r.family == "bloom_sweep" and r.memory and p in r["precision"]] for p in PRECISIONS
    }
    for precision, rows in measured.items():
        errors = [abs(need(r).needed / (r.memory or 1) - 1) for r in rows[::8]]
        assert rows and sum(errors) / len(errors) < 0.05, precision


def test_the_gradient_of_a_tied_embedding_is_there_once() -> None:
    """A wider table: what is on the device more is its states, the 16-bit product that is added to the buffer, and on
    the stage with the loss what hangs on logits; never another gradient in f32."""
    row = next(r for r in load() if str(r) == "korthikanti_t5-0003")
    cells = {"vpp": "1", "tp": "8", "pp": "4", "n_dev": "32", "dp": "1", "gbs": "8", "precision": "bf16", "layers": "8"}
    few, many = (Systems(compiled(row, vocab=v, **cells)).needs[0].peak.roles for v in ("32768", "262144"))
    table = (262144 - 32768) * row.whole("hidden") / 8
    assert many["gradient"] - few["gradient"] == pytest.approx(4 * table, rel=1e-3)
    assert many["activation"] - few["activation"] <= 2.01 * table


def test_experts_have_their_states_where_they_are() -> None:
    """Split over 4 of 8 devices, twice: 6 + 12/2 bytes for each of a quarter of them; of all the rest 6 + 12/8."""
    cells = {"arch": "moe", "experts": "8", "topk": "2", "moe_ffn": "1024", "layers": "4", "mbs": "1", "gbs": "8"}
    cells |= {"tp": "1", "dp": "8", "n_dev": "8", "ep": "4", "zero_stage": "1"}
    experts = 4 * 8 * 3 * H * 1024
    row = replace(ROW, facts={**ROW.facts, **cells})
    weights = parc.compile(Source("row.par", job(row))).job.model.weights
    rest = sum(prod(d.size for d in w.value.type.dims) for w in weights) - experts
    assert states(need(row)) == pytest.approx((4 + 16 / 2) * experts / 4 + (4 + 16 / 8) * rest, rel=1e-3)


def test_what_a_device_may_state() -> None:
    assert {f.name for f in fields(Footprint)} == FOOTPRINTS.keys()
    assert EFFICIENCIES.keys() == NAMES


def test_a_loss_takes_what_is_stated_or_usual() -> None:
    sharded = {"tp": "1", "dp": "8", "n_dev": "8", "gbs": "32", "zero_stage": "3", "fsdp_shards": "8"}
    for cells, usual in [({}, 10.0), (sharded, 14.0)]:
        strategy = parc.evaluate(Source("row.par", job(replace(ROW, facts={**ROW.facts, **cells})))).job.strategy
        assert Footprint().logits(strategy, 2) == usual and Footprint(loss=6.0).logits(strategy, 2) == 6.0
        assert Footprint().logits(strategy, 4) == usual + 2


def test_warm_up_of_a_pipeline_in_chunks() -> None:
    """Korthikanti and others: the first of p stages holds 1 + (p - 1)/(p·v) times as much as with one chunk."""
    row = next(r for r in load() if str(r) == "korthikanti_t5-0003")
    s, b, h, t = (row.whole(c) for c in ("seq_len", "mbs", "hidden", "tp"))
    p, v, layers = row.whole("pp"), row.whole("vpp"), row.whole("layers")
    found = activations(need(row, recompute="selective", sp="1"))
    assert found == pytest.approx(32 * s * b * h / t * layers * (1 + (p - 1) / (p * v)), rel=0.05)


def test_a_stack_keeps_what_its_device_states() -> None:
    row = next(r for r in load() if r.family == "bloom_sweep")
    device = parc.evaluate(Source("row.par", job(row))).job.cluster.device  # type: ignore[union-attr]
    assert footprint(device, "bloom").gradient == 6.0 and footprint(device, "bloom").gradient_f16 == 2.0
    assert footprint(device, "elsewhere") == Footprint(context=2e9)


def test_gradients_are_added_one_after_the_other() -> None:
    """Outside of loops, too: of many layers written out no more than the largest product of a gradient is there."""
    layers = "\n".join(f"  x = linear(x, over {'fd'[i % 2]})" for i in range(12))
    text = f"""
        use std.layers (linear)
        use std.optimizers (adam)
        model m() {{
          dim b = 2, d = 256, f = 256
          input given : compute[b,d]
          x = given
        {layers}
          loss mean(cast(x * x, master))
        }}
        job fit {{
          train m()
          optimizer adam(lr = 0.1)
          precision bf16, master f32
        }}
    """
    of = parc.compile(Source("many.par", text))
    found = Systems(of).fullest.peak.roles
    weights = 12 * (256 * 256 + 256)
    assert found["gradient"] == 4 * weights and found["weight"] == 2 * weights
    assert found["activation"] + found.get("saved", 0) < 2 * 256 * 256 + 2 * 256 * 2 * 40


@pytest.mark.parametrize("row", [r for r in load() if r.memory and r.family.startswith("torchtitan")], ids=str)
def test_published_runs_of_torchtitan_fit(row: Row) -> None:
    """All that ran fit, and the allocator reserves what was measured, to 5%; in the program's own bytes none does."""
    of = compiled(row)
    found = Systems(of).fullest
    assert of.job.cluster is not None
    assert found.reserved == pytest.approx(row.memory, rel=0.05)
    assert found.needed <= of.job.cluster.device.memory


@pytest.mark.parametrize("name", ["bloom_sweep-0008", "bloom_sweep-0024", "bloom_sweep-0053"])
def test_published_memory(name: str) -> None:
    """From 80 to 384 devices, of 53 to 76 GB: what nvidia-smi shows."""
    row = next(r for r in load() if str(r) == name)
    assert need(row).needed == pytest.approx(row.memory, rel=0.07)


def test_a_mixture_in_two_stages() -> None:
    """Stages without a loss, with scalars of routers outside of loops."""
    cells = {"arch": "moe", "experts": "8", "topk": "2", "moe_ffn": "1024", "layers": "4", "mbs": "1", "gbs": "8"}
    found = Systems(compiled(ROW, **cells, tp="1", pp="2", dp="4", n_dev="8", ep="4", zero_stage="1"))
    assert set(found.needs) == {0, 1} and all(n.peak.bytes > 0 for n in found.needs.values())


@pytest.mark.parametrize(
    "column, values",
    [
        ("layers", ("4", "8", "12")),
        ("mbs", ("1", "2", "4")),
        ("seq_len", ("1024", "2048", "4096")),
        ("vocab", ("32768", "65536", "131072")),
        ("zero_stage", ("3", "2", "1", "0")),
        ("recompute", ("full", "selective", "none")),
    ],
)
def test_what_is_larger_needs_no_less(column: str, values: tuple[str, ...]) -> None:
    cells = {"layers": "4", "mbs": "2", "gbs": "32", "n_dev": "8", "tp": "2", "dp": "4", "precision": "bf16"}
    found = [need(ROW, **{**cells, column: value}) for value in values]
    assert [n.peak.bytes for n in found] == sorted(n.peak.bytes for n in found)
    assert [n.needed for n in found] == sorted(n.needed for n in found)
