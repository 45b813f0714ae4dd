"""Published rows become jobs: what a row says stands in the strategy, and the job compiles."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

import parc
from benchmarks.published.facts import SINGLE_NODE, Row, load
from benchmarks.published.generate import Unsupported, degrees, job, microbatches, vocabulary
from benchmarks.published.score import Prediction, collect, rank_correlation, score, table
from dsl.source import Source

ROWS = {str(row): row for row in load()}


def changed(name: str, **cells: str) -> Row:
    row = ROWS[name]
    return replace(row, facts={**row.facts, **cells})


@pytest.mark.parametrize("family", sorted({row.family for row in ROWS.values()} - {"torchtitan_h200"}))
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


def test_float8_is_refused() -> None:
    row = next(r for r in ROWS.values() if "float8" in r["precision"])
    with pytest.raises(Unsupported, match="float8"):
        job(row)


def test_degrees_must_make_all_devices() -> None:
    with pytest.raises(Unsupported, match="3072 devices"):
        degrees(changed("megatron_sc21_t1-0010", dp="5"))
    with pytest.raises(Unsupported, match="micro-batches"):
        microbatches(changed("megatron_sc21_t1-0010", gbs="3073"))


def test_replicas_of_groups_that_shard_weights() -> None:
    row = next(r for r in ROWS.values() if r.family == "maxtext_v4" and r["n_dev"] == "128")
    assert degrees(row) == {"pp": 1, "rep": 2, "dp": 64, "cp": 1, "tp": 1}


def test_vocabulary_is_padded_where_it_is_split() -> None:
    assert vocabulary(changed("megatron_sc21_t1-0010", vocab="50257", tp="1")) == 50257
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
    assert found.left_out == sum(1 for r in ROWS.values() if not writable(r))
    assert all(score(pairs).mean == 0 for pairs in found.seconds.values())
    assert "bloom_sweep" in table("memory", found.memory)


def writable(row: Row) -> bool:
    try:
        job(row)
    except Unsupported:
        return False
    return True
