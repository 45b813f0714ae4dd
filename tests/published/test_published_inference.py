"""Latencies of inference: rows become jobs, and are predicted by numbers of serving software alone."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import parc
from benchmarks.published.facts import Row, Unsupported, load
from benchmarks.published.fit import calibration
from benchmarks.published.inference import (
    FITTED,
    GROUP,
    INFERENCE,
    STACK,
    answer,
    collect,
    job,
    main,
    measured,
    predicted,
)
from compiler.cost.price.calibration import of_cluster
from dsl.source import Source

ROWS = {str(row): row for row in load(INFERENCE)}


def test_the_device_states_what_was_fitted() -> None:
    """`stack faster_transformer` of a cluster has it."""
    text = re.sub(r"  stack \w+\n", f"  stack {STACK}\n", job(ROWS["ft_infer-0193"]))
    assert "use std.devices (a100_80)" in text
    cluster = parc.compile(Source("row.par", text)).job.cluster
    assert cluster is not None
    assert of_cluster(cluster).changed(launch=GROUP.launch) == calibration(GROUP, FITTED)


def test_an_answer_is_a_prefill_and_positions_behind_it() -> None:
    row = ROWS["ft_infer-0193"]
    one, more = (answer(Row({**row.facts, "gen_len": str(n)})) for n in (1, 9))
    assert one.seconds() == one.prefill.seconds()
    assert more.seconds() == pytest.approx(more.prefill.seconds() + 8 * more.decode.seconds())
    assert more.decode.seconds() < one.seconds()


def test_few_rows_are_near_and_what_has_no_job_says_why() -> None:
    names = ["kipply13b-0001", "ft_infer-0079", "ft_infer-0193", "palm_infer-0001", "flexgen-0002"]
    found, missing = collect(ROWS[name] for name in names)
    assert [abs(predicted(s) / s.seconds - 1) < 0.25 for s in found] == [True] * 3
    assert sorted(missing.values()) == [1, 1] and any("offload" in reason for reason in missing)


def test_what_a_row_must_say() -> None:
    row = ROWS["ft_infer-0193"]
    for column, value, told in (
        ("prompt_len", "", "prompt_len"),
        ("kv_heads", "1", "other than GPT"),
        ("tp", "7", "heads on 7"),
    ):
        with pytest.raises(Unsupported, match=told):
            job(Row({**row.facts, column: value}))
    throughput = Row({**row.facts, "latency_ms": "", "tok_s_dev": "50", "batch": "4", "gen_len": "25", "n_dev": "2"})
    assert measured(throughput) == 1.0


def test_any_table_of_these_columns_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    rows = [dict(ROWS[name].facts) for name in ("ft_infer-0193", "kipply13b-0001")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "ft_infer" in out and "kipply13b" in out and "all" in out
