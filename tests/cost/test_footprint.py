"""What a training system keeps, against the closed formulas that are published for it."""

from __future__ import annotations

from dataclasses import fields, replace
from math import prod

import pytest

import parc
from benchmarks.published.facts import Row, load
from benchmarks.published.generate import job
from compiler.cost.calibration import DIVISORS, NAMES, PARTS, SIZES, TIMES
from compiler.cost.footprint import Footprint, Held, as_system, footprint, held
from compiler.cost.memory import memory_use
from compiler.evaluate.devices import FOOTPRINT
from dsl.source import Source

ROW = next(r for r in load() if str(r) == "korthikanti_t5-0001")
S, B, H, A = 2048, 4, 6144, 64
UNIT = S * B * H


def footprint_of(row: Row, fused: bool = False, **cells: str) -> Held:
    compiled = parc.compile(Source("row.par", job(replace(row, facts={**row.facts, **cells}))))
    return held(compiled, fused)


def per_layer(fused: bool, **cells: str) -> float:
    """Bytes that one layer more keeps, over s·b·h."""
    few, many = (footprint_of(ROW, fused, **cells, layers=str(n)).activations for n in (4, 8))
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
    compiled = parc.compile(Source("row.par", job(replace(ROW, facts={**ROW.facts, "layers": "1", "vocab": "512000"}))))
    peaks = [memory_use(as_system(compiled.program, True, loss)[0])[0]["hbm"].bytes for loss in (8.0, 12.0, 16.0)]
    assert peaks[1] - peaks[0] == peaks[2] - peaks[1] == 4 * S * B * 512000 // 8


def parameters(row: Row) -> float:
    layers, h, v, s = (row.whole(c) for c in ("layers", "hidden", "vocab", "seq_len"))
    return layers * (12 * h * h + 12 * h) + (v + s) * h + 2 * h


@pytest.mark.parametrize(
    "cells, bytes_each",
    [
        ({}, 18.0),  # fp16 weights, f32 gradients, master and two moments: no splitting
        ({"zero_stage": "1"}, 6 + 12 / 4),  # Megatron's distributed optimizer
        ({"zero_stage": "2"}, 2 + 16 / 4),
        ({"zero_stage": "3", "fsdp_shards": "4"}, 12 / 4),  # and what is gathered for a layer
    ],
)
def test_states_per_parameter(cells: dict[str, str], bytes_each: float) -> None:
    cells = {"tp": "1", "dp": "4", "n_dev": "4", "gbs": "32", "mbs": "4", "layers": "4", **cells}
    found = footprint_of(ROW, **cells)
    row = replace(ROW, facts={**ROW.facts, **cells})
    assert found.states == pytest.approx(bytes_each * parameters(row), rel=2e-3)
    assert found.allocated == found.states + found.activations
    assert found.reserved == pytest.approx(found.allocated * (1 + Footprint().reserve))
    assert found.driver == pytest.approx(found.reserved + Footprint().context)


def test_experts_have_their_states_where_they_are() -> None:
    """Split over 4 of 8 devices, twice: 6 + 12/2 bytes for each of a quarter of them; of all the rest 6 + 12/8."""
    cells = {"arch": "moe", "experts": "8", "topk": "2", "moe_ffn": "1024", "layers": "4", "mbs": "1", "gbs": "8"}
    cells |= {"tp": "1", "dp": "8", "n_dev": "8", "ep": "4", "zero_stage": "1"}
    experts = 4 * 8 * 3 * H * 1024
    row = replace(ROW, facts={**ROW.facts, **cells})
    weights = parc.compile(Source("row.par", job(row))).job.model.weights
    rest = sum(prod(d.size for d in w.value.type.dims) for w in weights) - experts
    assert footprint_of(row).states == pytest.approx((6 + 12 / 2) * experts / 4 + (6 + 12 / 8) * rest, rel=1e-3)


def test_what_a_device_may_state() -> None:
    assert {f.name for f in fields(Footprint)} == set(FOOTPRINT)
    assert TIMES | SIZES | DIVISORS | PARTS < NAMES


def test_a_loss_takes_what_is_stated_or_usual() -> None:
    sharded = {"tp": "1", "dp": "8", "n_dev": "8", "gbs": "32", "zero_stage": "3", "fsdp_shards": "8"}
    for cells, usual in [({}, 10.0), (sharded, 14.0)]:
        strategy = parc.evaluate(Source("row.par", job(replace(ROW, facts={**ROW.facts, **cells})))).job.strategy
        assert Footprint().logits(strategy) == usual and Footprint(loss=6.0).logits(strategy) == 6.0


def test_warm_up_of_a_pipeline_in_chunks() -> None:
    """Korthikanti and others: the first of p stages holds 1 + (p - 1)/(p·v) times as much as with one chunk."""
    row = next(r for r in load() if str(r) == "korthikanti_t5-0003")
    s, b, h, t = (row.whole(c) for c in ("seq_len", "mbs", "hidden", "tp"))
    p, v, layers = row.whole("pp"), row.whole("vpp"), row.whole("layers")
    found = footprint_of(row, recompute="selective", sp="1").activations
    assert found == pytest.approx(32 * s * b * h / t * layers * (1 + (p - 1) / (p * v)), rel=0.05)


def test_a_stack_keeps_what_its_device_states() -> None:
    row = next(r for r in load() if r.family == "bloom_sweep")
    device = parc.evaluate(Source("row.par", job(row))).job.cluster.device  # type: ignore[union-attr]
    assert footprint(device, "bloom").gradient == 2.0 and footprint(device, "bloom").partition == 4.0
    assert footprint(device, "elsewhere") == Footprint()


@pytest.mark.parametrize("name", ["bloom_sweep-0008", "bloom_sweep-0024", "bloom_sweep-0053"])
def test_published_memory(name: str) -> None:
    """From 80 to 384 devices, of 53 to 76 GB: what nvidia-smi shows."""
    row = next(r for r in load() if str(r) == name)
    assert footprint_of(row).driver == pytest.approx(row.memory, rel=0.08)
