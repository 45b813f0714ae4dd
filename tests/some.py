"""Some pairs of two lists by default, all of them with `-m nightly`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest


def some_pairs(first: Collection[str], second: Sequence[str], every: int, always: Collection[str] = ()) -> list[object]:
    """Parameters (one of `first`, one of `second`): every so many of each row, in another place in each, so that all
    columns have some too. always: what of `second` is taken with each of `first`."""
    return [
        pytest.param(a, b, id=f"{a}-{b}", marks=() if b in always or (2 * i + j) % every == 0 else pytest.mark.nightly)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]
