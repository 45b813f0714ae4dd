"""Numbers for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc.units import amount, flop, flops, percent, seconds


@pytest.mark.parametrize(
    ("number", "told"),
    [(12345.0, "12,345 s"), (9999.6, "10,000 s"), (999.6, "999.6 s"), (1.0, "1 s"), (0.99996, "1 s"),
     (0.0567, "56.7 ms"), (999.6e-6, "999.6 us"), (8.94e-6, "8.94 us"),
     (3e-9, "3 ns"), (5e-13, "0.0005 ns"), (0.99996e-6, "1 us"), (0.0, "0 s")],
)  # fmt: skip
def test_seconds(number: float, told: str) -> None:
    assert seconds(number) == told


@pytest.mark.parametrize(("share", "told"), [(0.125, "12.5%"), (0.00014, "0.014%"), (0.0, "0.0%"), (1.0, "100.0%")])
def test_percent(share: float, told: str) -> None:
    assert percent(share) == told


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 B"), (0.4, "0 B"), (1023, "1023 B"), (973, "973 B"), (1024, "1.0 KiB"), (1.5 * 2**20, "1.5 MiB"),
     (2**30 - 1, "1.0 GiB"), (-(2**31), "-2.0 GiB"), (3 * 2**50, "3.0 PiB"), (5000 * 2**50, "5000.0 PiB")],
)  # fmt: skip
def test_amount(number: float, told: str) -> None:
    assert amount(number) == told


@pytest.mark.parametrize(
    ("number", "told"),
    [(1024, "1.0 KFLOP"), (96, "96 FLOP"), (0, "0 FLOP"), (3.636e23, "363.6 ZFLOP"), (4.2e11, "420.0 GFLOP"),
     (999_970_000, "1.0 GFLOP"), (1e26, "100000.0 ZFLOP")],
)  # fmt: skip
def test_flop(number: float, told: str) -> None:
    assert flop(number) == told and flops(number) == f"{told}/s"


@given(st.floats(1e-9, 1e21))
def test_the_unit_is_one_to_read(number: float) -> None:
    """At least one and less than a thousand of it, where there are such units."""
    for show, least, most in ((seconds, 1e-9, 9999), (amount, 1, 2**60), (flop, 1, 1e24)):
        if least <= number <= most:
            count = float(show(number).split()[0])
            assert 1 <= count < (1024 if show is amount else 1000 if number < 1 or show is flop else 10_000), show(
                number
            )
