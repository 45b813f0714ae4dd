"""Published rows become jobs: what a row says stands in the strategy, and the job compiles."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

import parc
from benchmarks.published import machines
from benchmarks.published.accelerators import reached
from benchmarks.published.facts import SINGLE_NODE, Row, Unsupported, load, usual
from benchmarks.published.generate import degrees, job, microbatches, vocabulary
from benchmarks.published.score import Prediction, collect, rank_correlation, score, table
from compiler.cost.memory.footprint import Footprint, footprint
from compiler.cost.price.calibration import of_cluster
from dsl.source import Source

ROWS = {str(row): row for row in load()}


def changed(name: str, **cells: str) -> Row:
    row = ROWS[name]
    return replace(row, facts={**row.facts, **cells})


@pytest.mark.parametrize("family", sorted({row.family for row in ROWS.values()}))
def test_a_row_of_each_family_compiles(family: str) -> None:
    for row in ROWS.values():
        if row.family != family:
            continue
        try:
            text = job(row)
        except Unsupported:
            continue
        found = parc.compile(Source("row.par", text)).job
        assert found.strategy.devices == row.whole("n_dev")
        assert found.cluster is not None and found.cluster.devices == row.whole("n_dev")
        assert found.strategy.microbatches == microbatches(row)
        return
    pytest.fail("no row of this family has a job")


def test_single_node_rows_compile() -> None:
    rows = load(SINGLE_NODE)
    assert len(rows) == 720
    found = parc.compile(Source("row.par", job(rows[1]))).job
    assert found.strategy.devices == 8


def test_the_model_has_the_parameters_that_it_is_named_for() -> None:
    found = parc.evaluate(Source("row.par", job(ROWS["megatron_sc21_t1-0010"]))).job
    count = sum(prod(dim.size for dim in weight.value.type.dims) for weight in found.model.weights)
    assert count == pytest.approx(1.0e12, rel=0.02)


def test_heads_that_are_wider_than_the_model() -> None:
    row = next(r for r in ROWS.values() if r.family == "maxtext_v4" and r.whole("heads") * 128 != r.whole("hidden"))
    found = parc.evaluate(Source("row.par", job(row))).job
    (wq,) = (w.value for w in found.model.weights if w.name.endswith("wq"))
    assert {d.name: d.size for d in wq.type.dims}["k"] == 128


@pytest.mark.parametrize(
    "cells, reason",
    [
        ({"task": "infer"}, "task infer"),
        ({"arch": "vit"}, "kind vit"),
        ({"arch": "moe", "experts": "8"}, "not stated: topk, moe_ffn"),
        ({"arch": "moe-mla", "model": "Eel", "experts": "8", "topk": "2", "moe_ffn": "64"}, "latent attention of Eel"),
        ({"arch": "moe", "experts": "8", "topk": "2", "moe_ffn": "64", "ep": "40"}, "experts of 5 among 6"),
        ({"precision": "int8 weights"}, "precision int8"),
        ({"layers": "", "vocab": ""}, "not stated: layers, vocab"),
        ({"hidden": "large"}, "hidden is not a number"),
        ({"gbs": "1e999"}, "gbs is not finite"),
        ({"mbs": "1.5"}, "mbs is not a whole number"),
        ({"accel": "Abacus", "mem_GB": ""}, "peak or memory of Abacus"),
        ({"recompute": "as much as it takes"}, "it is not known what that is"),
        ({"recompute": "selective (every 3rd layer)", "layers": "80"}, "does not divide the layers"),
        ({"dp": "", "tp": "", "cp": ""}, "degrees of data"),
    ],
)
def test_a_row_that_has_no_job_says_why(cells: dict[str, str], reason: str) -> None:
    row = changed("megatron_sc21_t1-0010", **cells)
    with pytest.raises(Unsupported, match=reason):
        job(row)
    found = collect([row])
    assert found.left_out.total() == 1 and not found.seconds


def test_a_table_without_most_columns_is_scored_as_far_as_it_goes() -> None:
    few = [
        "n_dev",
        "layers",
        "hidden",
        "ffn",
        "heads",
        "vocab",
        "seq_len",
        "gbs",
        "mbs",
        "dp",
        "tp",
        "pp",
        "precision",
        "accel",
        "peak_tflops",
        "mem_GB",
    ]
    row = Row({c: ROWS["megatron_sc21_t1-0001"][c] for c in few} | {"step_time_s": "3.5", "accel": "B300-288GB"})
    found = collect([row, Row({})])
    assert [len(pairs) for pairs in found.seconds.values()] == [1]
    assert found.left_out.total() == 1


@pytest.mark.parametrize(
    "cells, width",
    [
        ({"hidden": "4096"}, "16384"),
        ({"hidden": "4096", "glu": "1"}, "11008"),
        ({"hidden": "4096", "glu": "1", "moe_ffn": "1408"}, "1408"),
        ({"hidden": "4096", "ffn": "999"}, "999"),
        ({"hidden": ""}, ""),
        ({"hidden": "large"}, ""),
    ],
)
def test_feed_forward_layers_of_usual_width(cells: dict[str, str], width: str) -> None:
    assert usual(Row(cells))["ffn"] == width


def test_an_accelerator_that_the_library_has_not_is_written_out_like_its_relative() -> None:
    row = changed("megatron_sc21_t1-0001", accel="H800-80GB", family="elsewhere", peak_tflops="989", attn="flash")
    cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
    assert cluster is not None and cluster.device.name == "measured" and cluster.stack == "megatron"
    like = replace(row, facts={**row.facts, "accel": "H100-80GB-SXM"})
    known = parc.evaluate(Source("row.par", job(like))).job.cluster
    assert known is not None and of_cluster(cluster) == of_cluster(known)


@pytest.mark.parametrize(
    "accel, cells, device, like",
    [
        ("NVIDIA A100 80GB", {}, "a100_80", "a100_80"),
        ("A100-SXM4-40GB", {"mem_GB": "40", "mem_bw_GBps": "1555"}, "a100_40", "a100_40"),
        ("A100-PCIe", {"mem_GB": "80", "mem_bw_GBps": "1935"}, "measured", "a100_80"),
        ("H100-PCIe", {"peak_tflops": "756", "mem_GB": "80", "mem_bw_GBps": "2000"}, "measured", "h100"),
        ("GB300", {"peak_tflops": "", "mem_GB": "", "mem_bw_GBps": ""}, "measured", "gb200"),
        ("MI300X", {"peak_tflops": "1307", "mem_GB": "192", "mem_bw_GBps": "5300"}, "measured", "h100"),
        ("Gaudi 2", {"peak_tflops": "432", "mem_GB": "96", "mem_bw_GBps": ""}, "measured", "a100_80"),
        ("Trillium (TPU v6e)", {"peak_tflops": "918", "mem_GB": "32", "mem_bw_GBps": ""}, "measured", "tpu_v5e"),
        ("TPUv4", {"peak_tflops": "275", "mem_GB": "32", "mem_bw_GBps": ""}, "tpu_v4", "tpu_v4"),
        ("trn2", {"peak_tflops": "", "mem_GB": "", "mem_bw_GBps": ""}, "measured", "tpu_v4"),
        ("Atlas 900 A2", {"peak_tflops": "", "mem_GB": "64", "mem_bw_GBps": ""}, "ascend910b", "ascend910b"),
        ("Ascend 910C", {"peak_tflops": "", "mem_GB": "", "mem_bw_GBps": ""}, "measured", "ascend910b"),
        ("Abacus", {"peak_tflops": "2000", "mem_GB": "180", "mem_bw_GBps": ""}, "measured", "b200"),
    ],
)
def test_accelerators_by_other_names(accel: str, cells: dict[str, str], device: str, like: str) -> None:
    """Named otherwise, or not in the library: the job compiles, with efficiencies of the nearest relative."""
    row = changed("korthikanti_t5-0001", accel=accel, family="elsewhere", source="", attn="cuDNN", **cells)
    assert machines.sheet(row).like == like
    cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
    assert cluster is not None and cluster.device.name == device
    stated = next((row.number(c) for c in ("peak_tflops",) if row[c]), 0.0)
    assert not stated or dict(cluster.device.compute)["bf16"] == pytest.approx(stated * 1e12, rel=0.06)
    known = [(words, text) for words, text in machines.library()[like] if words[0] == "efficiency" and len(words) == 2]
    if device == "measured":
        assert all(text in job(row) for words, text in known if words[1] != "product")
        theirs = next(float(text.split()[-1]) for words, text in known if words[1] == "product")
        assert of_cluster(cluster).product == pytest.approx(reached(theirs, machines.sheet(row), like), rel=0.01)


def test_peaks_of_narrow_products_are_those_of_the_row() -> None:
    """By its type; but some state that of 16 bits, and newer devices have more."""
    name = next(n for n, r in ROWS.items() if r["accel"] == "GB200" and "fp4" in r["precision"])
    for cells, peak, times in [
        ({"peak_tflops": "10000"}, 2500, 1.0),
        ({"peak_tflops": "2500"}, 2500, 1.0),
        ({"accel": "GB300", "peak_tflops": "15000"}, 2500, 1.5),
        ({"accel": "GB300", "peak_tflops": "5000", "precision": "mxfp8"}, 2500, 1.0),
    ]:
        row = changed(name, **cells)
        cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
        known = parc.evaluate(Source("row.par", job(changed(name, precision=row["precision"])))).job.cluster
        assert cluster is not None and known is not None
        assert dict(cluster.device.compute)["bf16"] == peak * 1e12
        assert of_cluster(cluster).narrow == pytest.approx(times * of_cluster(known).narrow, rel=5e-3)  # three digits


def test_software_that_a_device_does_not_state_is_taken_from_its_twin() -> None:
    like = next(r for r in ROWS.values() if r["accel"] == "GB200" and r["precision"] == "mxfp8")
    row = changed(str(like), accel="B200", peak_tflops="4500", mem_GB="180", dev_per_node="8", intra_link="NVLink5")
    cluster, known = (parc.evaluate(Source("row.par", job(r))).job.cluster for r in (row, like))
    assert cluster is not None and known is not None and cluster.stack == known.stack == "megatron_core_float8"
    numbers = of_cluster(known)
    assert of_cluster(cluster) == numbers.changed(
        product=pytest.approx(reached(numbers.product, machines.sheet(row), "gb200"), rel=0.01)
    )
    other = changed("torchtitan_h100-0002", accel="H100-80GB-SXM", mem_GB="80", mem_bw_GBps="3350")
    assert machines.home(other, "h100") == ("torchtitan", "h100_hbm2e")


@pytest.mark.parametrize(
    "cells",
    [
        {"precision": "bfloat16 mixed"},
        {"precision": "FP8 (E4M3)"},
        {"precision": "float32", "peak_tflops": "19.5"},
        {"recompute": "Full"},
        {"recompute": "True"},
        {"recompute": "selective(every 2nd layer)"},
        {"recompute": "activation checkpointing"},
        {"gbs": "1,024", "layers": "48.0", "mbs": "4"},
        {"dp": "", "glu": "", "kv_heads": ""},
        {"kv_heads": "2"},
        {"head_dim": "128"},
        {"zero_stage": "ZeRO-1", "sp": "yes", "task": "pretraining"},
        {"arch": "decoder-only", "dev_per_node": "", "intra_link": "", "intra_GBps_dir_per_dev": "unknown"},
        {"mem_per_dev": "61", "mem_unit": "GB/GPU", "mem_kind": "torch max_memory_allocated"},
        {"mem_per_dev": "81%", "mem_unit": "%", "mem_kind": "nvidia-smi"},
    ],
)
def test_cells_in_other_words(cells: dict[str, str]) -> None:
    found = collect([changed("korthikanti_t5-0001", family="elsewhere", **cells)])
    assert not found.left_out and len(found.seconds["elsewhere"]) == 1
    assert len(found.memory) == (1 if "mem_unit" in cells else 0)


def test_hosts_that_were_mended_are_software_of_their_own() -> None:
    """Rows of BLOOM's sweep say so; they keep in memory what the others keep."""
    before, after = ROWS["bloom_sweep-0036"], ROWS["bloom_sweep-0043"]
    assert (machines.software(before)[0], machines.software(after)[0]) == ("bloom", "bloom_numa")
    of = [parc.evaluate(Source("row.par", job(row))).job.cluster for row in (before, after)]
    assert [c.stack for c in of if c] == ["bloom", "bloom_numa"]
    first, second = (footprint(c.device, c.stack) for c in of if c)
    assert first == second != Footprint()


def test_what_some_layers_make_again() -> None:
    row = changed("torchtitan_h100-0002", recompute="selective(every 2nd layer)")
    text = job(row)
    assert "repeat 16 as block" in text and "recompute block.again1\n" in text
    assert "recompute block.kept1.grouped_attention keep" in text
    stages = job(changed("ascend_mindformers-0004"))  # 8 of 10 layers in the stage with most
    assert "repeat 16 as block" in stages and stages.count("recompute block.again") == 4


def test_seconds_are_those_reported_or_computed_from_what_was() -> None:
    row = changed("megatron_sc21_t1-0001", seconds="")
    assert row.seconds is None
    assert replace(row, facts={**row.facts, "step_time_s": "3", "derived_step_s": "4"}).seconds == 3.0
    assert replace(row, facts={**row.facts, "derived_step_s": "4"}).seconds == 4.0
    tokens = row.number("gbs") * row.number("seq_len")
    assert replace(row, facts={**row.facts, "tok_s_dev": "1000"}).seconds == pytest.approx(tokens / 1000 / 32)
    maxtext = changed("maxtext_v4-0001", seconds="", tflops_dev="156")
    assert maxtext.seconds == pytest.approx(ROWS["maxtext_v4-0001"].seconds, rel=1e-4)


def test_kinds_of_memory_are_not_mixed() -> None:
    kinds = {"torch max reserved/active": "reserved", "peak allocated (reserved is 3% more)": "allocated"}
    kinds |= {"nvidia-smi, max over nodes": "driver", "XLA total estimate": "xla", "": "unknown"}
    assert {k: changed("bloom_sweep-0001", mem_kind=k).memory_kind for k in kinds} == kinds


def test_the_software_of_a_row_is_one_that_its_device_states() -> None:
    for row in ROWS.values():
        name, _ = machines.device(row)
        assert machines.stack(row, name) in machines.stacks(name) | {""}
    words = {"0001": "torchtitan_eager", "0002": "torchtitan", "0026": "torchtitan_async", "0003": "torchtitan_float8"}
    for name, software in words.items():
        assert machines.software(changed(f"torchtitan_h100-{name}"))[0] == software


def test_a_batch_of_maxtext_is_one_pass() -> None:
    row = changed("maxtext_v5e-0019")
    assert row.whole("gbs") > row.whole("mbs") * degrees(row)["dp"] and microbatches(row) == 1


def test_a_model_that_looks_back_so_far_has_a_window() -> None:
    row = changed("ascend_modellink-0008")
    assert "window = 4096" in job(row)
    assert "window" not in job(changed("ascend_modellink-0008", seq_len="4096"))


def test_degrees_must_make_all_devices() -> None:
    with pytest.raises(Unsupported, match="3072 devices"):
        degrees(changed("megatron_sc21_t1-0010", dp="5"))
    with pytest.raises(Unsupported, match="micro-batches"):
        microbatches(changed("megatron_sc21_t1-0010", gbs="3073"))


def test_replicas_of_groups_that_shard_weights() -> None:
    row = next(r for r in ROWS.values() if r.family == "maxtext_v4" and r["n_dev"] == "128")
    assert degrees(row) == {"pp": 1, "rep": 2, "dp": 64, "cp": 1, "tp": 1}


def test_weights_are_not_gathered_for_each_microbatch_of_a_pipeline() -> None:
    cells = {"n_dev": "128", "dp": "8", "tp": "8", "pp": "2", "fsdp_shards": "8", "mbs": "1", "gbs": "64", "sp": "1"}
    assert "shard optimizer on dp" in job(changed("torchtitan_h100-0031", **cells))
    assert "shard optimizer, gradients, weights on dp" in job(changed("torchtitan_h100-0031"))


def test_vocabulary_is_padded_where_it_is_split() -> None:
    assert vocabulary(changed("megatron_sc21_t1-0010", vocab="50257", tp="1")) == 50304
    assert vocabulary(changed("megatron_sc21_t1-0010", vocab="50264", tp="1")) == 50264
    assert vocabulary(changed("megatron_sc21_t1-0010", vocab="50257", tp="8")) == 51200


def test_score() -> None:
    found = score([(1.1, 1.0), (1.8, 2.0), (4.0, 4.0)])
    assert (found.n, found.mean, found.median) == (3, pytest.approx(0.2 / 3), pytest.approx(0.1))
    assert found.largest == pytest.approx(0.1) and found.bias == pytest.approx(0.0) and found.rank == pytest.approx(1.0)
    assert rank_correlation([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]) == pytest.approx(-1.0)
    assert rank_correlation([(1.0, 1.0), (1.0, 2.0)]) != rank_correlation([(1.0, 1.0), (2.0, 2.0)])


def test_collect_takes_any_predictor_and_counts_what_is_left_out() -> None:
    def perfect(row: Row) -> Prediction:
        job(row)
        return Prediction(row.seconds, row.memory)

    found = collect(ROWS.values(), perfect)
    assert found.left_out.total() == sum(1 for r in ROWS.values() if not writable(r))
    assert all(score(pairs).mean == 0 for pairs in found.seconds.values())
    assert "bloom_sweep" in table("memory", found.memory["driver"]) and "bloom_sweep" not in found.memory["reserved"]


def writable(row: Row) -> bool:
    try:
        job(row)
    except Unsupported:
        return False
    return True
