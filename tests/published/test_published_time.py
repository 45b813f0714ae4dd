"""Published steps: a row from the middle of each family, with the efficiencies that the standard library states.

All rows: `python -m benchmarks.published.score`; docs/validation.md has its table.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import parc
from benchmarks.published.facts import Row, load
from benchmarks.published.generate import Unsupported, job
from benchmarks.published.software import STACKS, by_prefix
from compiler.cost.price.calibration import of_cluster
from compiler.cost.time.simulate import Simulation
from dsl.source import Source

ROWS = load()
WITHIN = {"pax": 0.25, "torchtitan_h100": 0.25, "vtrain_multi": 0.2}
"""Families with larger errors; the others are within 15% in the middle. (BERT's sequences of 512 have their padding
removed, how much of it is not stated.)"""


def middle(family: str) -> tuple[Row, Simulation]:
    """The middle row, by time, of those that have a job."""
    rows = sorted((r for r in ROWS if r.family == family), key=lambda r: r.seconds or 0.0)
    for row in rows[len(rows) // 2 :] + rows:
        try:
            text = job(row)
        except Unsupported:
            continue
        return row, Simulation.of(parc.compile(Source(f"{row}.par", text)))
    raise AssertionError(f"no row of {family} has a job")


@pytest.mark.parametrize("family", sorted({r.family for r in ROWS} - {"bert_dle"}))
def test_the_middle_row_of_a_family(family: str) -> None:
    row, simulation = middle(family)
    base = by_prefix(STACKS, family)
    assert base and simulation.cluster.stack.startswith(base)
    assert simulation.run().step_seconds == pytest.approx(row.seconds, rel=WITHIN.get(family, 0.15))
    assert simulation.seconds() == simulation.run().step_seconds


def test_software_that_is_not_known_has_the_device_s_general_numbers() -> None:
    """A row of LLM Foundry as of somebody else: with all of H100's software together, in 16 bits, in 8, and unfused."""
    row = next(r for r in ROWS if str(r) == "llmfoundry-0063")

    def seconds(**cells: str) -> float:
        text = job(replace(row, facts={**row.facts, "family": "elsewhere", "source": "", **cells}))
        return Simulation.of(parc.compile(Source("row.par", text))).seconds()

    assert seconds() == pytest.approx(row.seconds, rel=0.25)
    assert seconds(precision="fp8") < 0.95 * seconds()
    slow = {"accel": "A100-80GB-SXM", "peak_tflops": "312"}
    assert seconds(attn="unfused", **slow) > 1.2 * seconds(**slow)


def test_every_stack_of_a_row_is_stated_by_its_device() -> None:
    seen = set()
    for row in ROWS:
        key = (row.family, row["accel"], row["precision"], row["notes"])
        if key in seen or row.family == "bert_dle":
            continue
        try:
            cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
        except (Unsupported, parc.ParcError):
            continue
        seen.add(key)
        assert cluster is not None
        stated = [words for keyword, words in cluster.device.settings if keyword == "efficiency"]
        assert any(words[0] == cluster.stack for words in stated), key
        assert of_cluster(cluster).product <= 0.97
