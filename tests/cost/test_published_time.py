"""Published steps: a row from the middle of each family, with the efficiencies that the standard library states.

All rows: `python -m benchmarks.published.score`; docs/validation.md has its table.
"""

from __future__ import annotations

import pytest

import parc
from benchmarks.published.facts import Row, load
from benchmarks.published.generate import STACKS, Unsupported, by_prefix, job
from compiler.cost.calibration import of_cluster
from compiler.cost.simulate import Simulation
from dsl.source import Source

ROWS = load()
WITHIN = {"ascend_modellink": 0.2, "torchtitan_h100": 0.2, "vtrain_multi": 0.2, "maxtext_v5p": 0.2}
"""Families with larger errors; the others are within 15% in the middle."""


def middle(family: str) -> tuple[Row, Simulation]:
    """The middle row, by time, of those that have a job."""
    rows = sorted((r for r in ROWS if r.family == family), key=lambda r: r.seconds)
    for row in rows[len(rows) // 2 :] + rows:
        if row["model"] == "Mistral-7B":  # its attention looks back 4,096 tokens only: the language cannot say that yet
            continue
        try:
            text = job(row)
        except Unsupported:
            continue
        return row, Simulation.of(parc.compile(Source(f"{row}.par", text)))
    raise AssertionError(f"no row of {family} has a job")


@pytest.mark.parametrize("family", sorted({r.family for r in ROWS} - {"torchtitan_h200"}))
def test_the_middle_row_of_a_family(family: str) -> None:
    row, simulation = middle(family)
    assert simulation.cluster.stack == by_prefix(STACKS, family) != ""
    assert simulation.run().step_seconds == pytest.approx(row.seconds, rel=WITHIN.get(family, 0.15))
    assert simulation.seconds() == simulation.run().step_seconds


def test_every_stack_of_a_row_is_stated_by_its_device() -> None:
    seen = set()
    for row in ROWS:
        key = (row.family, row["accel"])
        if key in seen:
            continue
        try:
            cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
        except Unsupported:
            continue
        seen.add(key)
        assert cluster is not None
        stated = [words for keyword, words in cluster.device.settings if keyword == "efficiency"]
        assert any(words[0] == cluster.stack for words in stated), key
        assert of_cluster(cluster).product <= 0.95
