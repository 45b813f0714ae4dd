"""Imported models are the published ones: parameters to the last, logits as transformers computes them, all names."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from parc.importing.families.known import KNOWN
from tests.importing.oracle import Small, imported
from tests.importing.pin import picked
from tests.importing.small import FOLDER, PUBLISHED, SMALL

LOGITS = json.loads((FOLDER / "logits.json").read_text())


def test_every_family_is_tested() -> None:
    assert {c["model_type"] for c in SMALL.values()} == set(KNOWN)
    assert {found["config"]["model_type"] for found in PUBLISHED.values()} == set(KNOWN)
    assert LOGITS.keys() - {"transformers"} == SMALL.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_were_published(name: str) -> None:
    job = imported(PUBLISHED[name]["config"], "bf16")
    assert job.parameters == PUBLISHED[name]["parameters"]
    assert f"{job.parameters:,} parameters" in job.text.partition("\n")[0]


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_transformers(name: str) -> None:
    """Of a random checkpoint, in f32; what is kept of them was computed by the version that the file names."""
    small = Small(SMALL[name])
    weights, batch = small.weights(), small.batch()
    assert picked(small.logits(weights, batch)) == pytest.approx(LOGITS[name], abs=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_matters(name: str) -> None:
    """Logits that do not see a weight would agree whatever its place in the checkpoint is."""
    small = Small(SMALL[name])
    weights, batch = small.weights(), small.batch()
    before = small.logits(weights, batch)
    unseen = []
    for weight, value in weights.items():
        moved = value + np.float32(0.5) * np.random.default_rng(7).standard_normal(value.shape).astype(np.float32)
        if np.abs(small.logits({**weights, weight: moved}, batch) - before).max() < 1e-4:
            unseen.append(weight)
    # a bias of the keys adds the same to all scores of a query; loads only count
    assert [w for w in unseen if not w.endswith((".attention.bk", ".load"))] == []


@pytest.mark.parametrize("name", SMALL)
def test_checkpoints_are_written_and_read(name: str) -> None:
    small = Small(SMALL[name])
    weights = small.weights()
    tensors = small.checkpoint(weights)
    back = small.read(tensors)
    assert {w for w in weights if not w.endswith(".load")} == back.keys()
    for weight, value in back.items():
        np.testing.assert_array_equal(value, weights[weight])
    assert sum(t.size for t in tensors.values()) == sum(w.size for w in back.values())
    pieces = Counter(w.name for row in small.job.table for w in row.weights)
    assert set(pieces.values()) == {1}, "each weight stands in one row"
