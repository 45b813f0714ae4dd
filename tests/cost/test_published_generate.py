"""Published rows become jobs: what a row says stands in the strategy, and the job compiles."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

import parc
from benchmarks.published import machines
from benchmarks.published.facts import SINGLE_NODE, Row, Unsupported, load
from benchmarks.published.generate import degrees, job, microbatches, vocabulary
from benchmarks.published.score import Prediction, collect, rank_correlation, score, table
from compiler.cost.calibration import of_cluster
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
        ({"arch": "moe", "experts": "8"}, "kind moe"),
        ({"precision": "int8 weights"}, "precision int8"),
        ({"layers": "", "vocab": ""}, "not stated: layers, vocab"),
        ({"hidden": "large"}, "hidden is not a number"),
        ({"gbs": "nan"}, "gbs is not finite"),
        ({"mbs": "1.5"}, "mbs is not a whole number"),
        ({"accel": "Abacus", "mem_GB": ""}, "peak or memory of Abacus"),
        ({"recompute": "every second"}, "it differs between layers"),
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


def test_an_accelerator_that_the_library_has_not_is_written_out_like_its_relative() -> None:
    row = changed("megatron_sc21_t1-0001", accel="H800-80GB", family="elsewhere", peak_tflops="989", attn="flash")
    cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
    assert cluster is not None and cluster.device.name == "measured" and cluster.stack == ""
    like = replace(row, facts={**row.facts, "accel": "H100-80GB-SXM"})
    known = parc.evaluate(Source("row.par", job(like))).job.cluster
    assert known is not None and of_cluster(cluster) == of_cluster(known)


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
