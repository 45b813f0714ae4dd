"""Numbers for people."""

from __future__ import annotations

import pytest

from parc.units import percent, seconds


@pytest.mark.parametrize(
    ("number", "told"),
    [(12345.0, "12,345 s"), (9999.6, "10,000 s"), (999.6, "999.6 s"), (1.0, "1 s"), (0.99996, "1000 ms"),
     (0.0567, "56.7 ms"), (999.6e-6, "999.6 us"), (8.94e-6, "8.94 us"), (0.0, "0 s")],
)  # fmt: skip
def test_seconds(number: float, told: str) -> None:
    assert seconds(number) == told


@pytest.mark.parametrize(("share", "told"), [(0.125, "12.5%"), (0.00014, "0.014%"), (0.0, "0.0%"), (1.0, "100.0%")])
def test_percent(share: float, told: str) -> None:
    assert percent(share) == told
