"""Quantities: units, arithmetic, dimensions, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsl.lexer import split_quantity
from dsl.units import (
    BYTES,
    BYTES_PER_SECOND,
    FLOP,
    FLOP_PER_SECOND,
    HERTZ,
    NONE,
    SECONDS,
    UNITS,
    Dimension,
    DimensionError,
    Quantity,
    best_unit,
    count_in,
    show,
    show_both,
    show_in,
)

of = Quantity.of
units = st.sampled_from(sorted(UNITS))
integers = st.integers(-(10**12), 10**12)
numbers = integers | st.floats(-1e12, 1e12)


@pytest.mark.parametrize(
    ("value", "unit", "base", "dimension"),
    [
        (1, "B", 1, BYTES),
        (1, "KB", 1000, BYTES),
        (1, "KiB", 1024, BYTES),
        (3, "GB", 3 * 10**9, BYTES),
        (3, "GiB", 3 * 2**30, BYTES),
        (1, "PiB", 2**50, BYTES),
        (8, "Gb", 10**9, BYTES),
        (1, "Kb", 125, BYTES),
        (1, "Gb/s", 125_000_000, BYTES_PER_SECOND),
        (1, "FLOP", 1, FLOP),
        (2, "EFLOP", 2 * 10**18, FLOP),
        (312, "TFLOP/s", 312 * 10**12, FLOP_PER_SECOND),
        (5, "us", 5e-6, SECONDS),
        (2000, "ms", 2, SECONDS),
        (2, "min", 120, SECONDS),
        (3, "h", 10_800, SECONDS),
        (1.5, "GHz", 1.5e9, HERTZ),
    ],
)
def test_base_units(value: float, unit: str, base: float, dimension: Dimension) -> None:
    found = of(value, unit)
    assert found.value == base and found.dimension == dimension
    assert isinstance(found.value, int) == isinstance(base, int)  # what is exact stays exact


def test_a_unit_per_second_is_the_unit_over_a_second() -> None:
    for name, unit in UNITS.items():
        if name.endswith("/s"):
            assert of(24, name) == of(24, name.removesuffix("/s")) / of(1, "s")
            assert unit.dimension == UNITS[name.removesuffix("/s")].dimension / SECONDS


@given(integers, integers, units)
@example(999935763190, -999999999997, "ms")
def test_integers_stay_exact(a: int, b: int, unit: str) -> None:
    total = of(a, unit) + of(b, unit)
    rounded = 1e-15 * (abs(of(a, unit).value) + abs(of(b, unit).value))  # of two that nearly cancel, this is left
    assert math.isclose(total.value, of(a + b, unit).value, rel_tol=1e-12, abs_tol=max(1e-12, rounded))
    if UNITS[unit].per == 1:
        assert total == of(a + b, unit) and isinstance(total.value, int)


@given(numbers, numbers, units)
def test_arithmetic_is_that_of_the_values(a: float, b: float, unit: str) -> None:
    x, y = of(a, unit), of(b, unit)
    assert (x + y).value == x.value + y.value and (x - y).value == x.value - y.value
    assert (x < y) == (x.value < y.value) and (x >= y) == (x.value >= y.value)
    assert (-x).value == -x.value and x * 2 == 2 * x == x + x
    assert x == of(a, unit) and hash(x) == hash(of(a, unit))
    if y.value:
        ratio = x / y
        assert not isinstance(ratio, Quantity) and math.isclose(ratio, x.value / y.value)


@given(units, units)
def test_dimensions_multiply_and_divide(a: str, b: str) -> None:
    x, y = of(6, a), of(2, b)
    both = UNITS[a].dimension * UNITS[b].dimension
    product, ratio = x * y, x / y
    assert (product.dimension if isinstance(product, Quantity) else NONE) == both
    assert (ratio.dimension if isinstance(ratio, Quantity) else NONE) == UNITS[a].dimension / UNITS[b].dimension


@given(units, units)
def test_only_like_is_added_and_compared(a: str, b: str) -> None:
    x, y = of(1, a), of(1, b)
    operations: list[Callable[[], object]] = [lambda: x + y, lambda: x - y, lambda: x < y, lambda: x >= y]
    for operation in operations:
        if x.dimension == y.dimension:
            operation()
        else:
            with pytest.raises(DimensionError):
                operation()
    assert (x == y) == (x.dimension == y.dimension and x.value == y.value)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda: of(1, "GB") + of(1, "s"), "cannot add an amount of data and a time"),
        (lambda: of(1, "GB") + 1, "cannot add an amount of data and a plain number"),
        (lambda: 1 - of(1, "s"), "cannot add a time and a plain number"),
        (lambda: of(1, "GHz") < 1, "cannot compare a frequency and a plain number"),
        (lambda: of(1, "GB").expect(SECONDS), "1 GB is an amount of data, expected a time"),
        (lambda: (of(1, "GB") * of(1, "s")).expect(BYTES), "1e+09 B s is B s, expected an amount of data"),
    ],
)
def test_messages(operation: Callable[[], object], message: str) -> None:
    with pytest.raises(DimensionError) as caught:
        operation()
    assert str(caught.value) == message


def test_results_without_dimension_are_numbers() -> None:
    assert of(4, "GB") / of(2, "GB") == 2 and isinstance(of(4, "GB") / of(2, "GB"), int)
    assert of(30, "GB/s") * of(2, "s") == of(60, "GB")
    assert of(10, "GFLOP") / of(5, "GFLOP/s") == of(2, "s")
    assert 1 / of(2, "s") == of(0.5, "Hz")
    assert of(3, "Hz") * of(2, "s") == 6


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (30, "GB/s", "30 GB/s"),
        (32, "GiB", "32 GiB"),
        (1000, "B", "1 KB"),
        (1024, "B", "1 KiB"),
        (1536, "B", "1.536 KB"),
        (8, "Gb", "1 GB"),
        (0, "B", "0 B"),
        (-5, "GB", "-5 GB"),
        (0.1, "us", "100 ns"),
        (90, "s", "90 s"),
        (3600, "s", "1 h"),
        (3, "h", "3 h"),
        (45, "min", "45 min"),
        (12_345_678, "B", "12.35 MB"),
        (1.41, "GHz", "1.41 GHz"),
        (2500, "PB", "2500 PB"),
        (0.5, "B", "0.5 B"),
        (1024, "FLOP", "1.024 KFLOP"),
        (500_000, "FLOP", "500 KFLOP"),
        (123_456, "FLOP/s", "123.5 KFLOP/s"),
        (0, "FLOP", "0 FLOP"),
        (0.25, "FLOP", "0.25 FLOP"),
        (1e27, "FLOP", "1000000 ZFLOP"),
        (999.97, "MB", "1 GB"),
        (1e-12, "s", "0.001 ns"),
    ],
)
def test_show(value: float, unit: str, shown: str) -> None:
    assert show(of(value, unit)) == str(of(value, unit)) == shown


@given(units, st.floats(1e-20, 1e20) | st.integers(1, 10**20), st.booleans(), st.integers(3, 7))
def test_what_is_shown_is_the_quantity(unit: str, size: float, negative: bool, digits: int) -> None:
    """Read back, it is the same up to the digits asked for."""
    quantity = of(-size if negative else size, unit)
    number, name = split_quantity(show(quantity, digits).lstrip("-"))
    back = of(float(number), name)
    assert back.dimension == quantity.dimension
    assert math.isclose(back.value, abs(quantity.value), rel_tol=10.0 ** (1 - digits))
    assert show(quantity, digits).startswith("-") == negative


@given(units, st.floats(1e-20, 1e40), st.integers(3, 7))
def test_the_unit_is_one_to_read(unit: str, size: float, digits: int) -> None:
    """At least one and at most a thousand of it, where there is such a unit; else no other comes nearer to that."""
    quantity = of(size, unit)
    found = best_unit(quantity, digits)

    def off(name: str) -> float:
        count = abs(float(f"{count_in(quantity, name):.{digits}g}"))
        return max(1 / count if count else math.inf, count / 1000, 1.0)

    others = [name for name in UNITS if UNITS[name].dimension == quantity.dimension]
    plain = [name for name in others if "iB" not in name and "b" not in name.removesuffix("/s")]
    assert "iB" in found or off(found) <= min(map(off, plain)) * 1.001


@given(units, st.floats(1e-3, 1e12), st.sampled_from(sorted(UNITS)))
def test_any_unit_can_be_asked_for(unit: str, size: float, other: str) -> None:
    quantity = of(size, unit)
    if UNITS[other].dimension == quantity.dimension:
        number, name = split_quantity(show_in(quantity, other, 6))
        assert name == other and math.isclose(of(float(number), name).value, quantity.value, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("left", "right", "unit", "shown"),
    [
        ((21.47, "GB"), (16, "GiB"), None, ("20 GiB", "16 GiB")),
        ((21.47, "GB"), (16, "GiB"), "GiB", ("20 GiB", "16 GiB")),
        ((900, "ms"), (2, "s"), None, ("0.9 s", "2 s")),
        ((3, "h"), (90, "s"), "s", ("10800 s", "90 s")),
        ((1024, "FLOP"), (1, "ZFLOP"), "ZFLOP", ("1.024 KFLOP", "1 ZFLOP")),
        ((1024, "FLOP"), (5, "FLOP"), None, ("1024 FLOP", "5 FLOP")),
        ((0, "B"), (3, "GB"), None, ("0 GB", "3 GB")),
        ((3, "GB"), (0, "B"), None, ("3 GB", "0 GB")),
        ((3_000_000_001, "B"), (3, "GB"), "GB", ("3.000000001 GB", "3 GB")),
        ((3, "GB"), (3, "GB"), None, ("3 GB", "3 GB")),
    ],
)
def test_two_sides_have_one_unit(
    left: tuple[float, str], right: tuple[float, str], unit: str | None, shown: object
) -> None:
    assert show_both(of(*left), of(*right), unit) == shown


@given(units, st.floats(1e-9, 1e12), st.floats(1e-9, 1e12))
@example("B", 1.0000000000000003e-09, 1e-09)  # for which no unit is good to read
@example("EFLOP", 1.0000000000000003e-09, 1e-09)  # the same number of GFLOP
def test_what_differs_is_shown_to_differ(unit: str, a: float, b: float) -> None:
    left, right = of(a, unit), of(b, unit)
    shown = show_both(left, right)
    assert (shown[0] == shown[1]) == (left.value == right.value)
    if 1e-3 < a / b < 1e3:
        assert shown[0].split()[1] == shown[1].split()[1]
