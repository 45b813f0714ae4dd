"""The order of examples: a permutation that is computed place by place."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from runtime.data.shuffle import chosen, permuted


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 65536, 65537])
def test_every_number_comes_once(total: int) -> None:
    places = np.arange(total)
    found = permuted(places, total, 7, 0)
    assert found.dtype == np.int64 and sorted(found) == list(range(total))
    if total > 16:
        assert (found != permuted(places, total, 7, 1)).any() and (found != permuted(places, total, 8, 0)).any()
        assert abs(np.corrcoef(places, found)[0, 1]) < 4 / total**0.5


def test_no_place_prefers_a_number() -> None:
    """Of 6 numbers in 6,000 epochs: each stands at each place about 1,000 times, each pair in front about 200."""
    rows = np.array([permuted(np.arange(6), 6, 1, e) for e in range(6000)])
    for place in range(6):
        counts = np.bincount(rows[:, place], minlength=6)
        assert ((counts - 1000) ** 2 / 1000).sum() < 25  # chi squared of 5 degrees: 1 in 7,000
    pairs = Counter(map(tuple, rows[:, :2].tolist()))
    assert len(pairs) == 30 and sum((n - 200) ** 2 / 200 for n in pairs.values()) < 65  # of 29: 1 in 7,000


def test_places_of_a_very_large_number_are_computed_alone() -> None:
    total = 2**45 + 12345
    places = np.array([0, 1, 5, total - 1])
    found = permuted(places, total, 0, 0)
    assert len(set(found.tolist())) == 4 and found.max() < total and found.max() > 2**40
    assert permuted(places[2:3], total, 0, 0)[0] == found[2]


def test_batches_run_across_epochs() -> None:
    rows = np.concatenate([chosen(step, 4, 10, 5, True) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10)) and list(rows[:10]) != list(rows[10:])
    assert list(chosen(2, 4, 10, 5, True)) == list(rows[8:12])
    assert list(chosen(2, 4, 10, 5, False)) == [8, 9, 0, 1]
    assert list(chosen(0, 25, 10, 5, False))[-6:] == [9, 0, 1, 2, 3, 4]
