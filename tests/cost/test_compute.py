"""Kernels: quantised products, ramps, and what fusion saves, on a device with round numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.cost.calibration import DEFAULT, calibration
from compiler.cost.compute import alignment, launches, product_seconds, tile_share, vector_seconds
from compiler.cost.machine import Machine
from compiler.cost.work import Product, Vector
from compiler.model import Device, Level
from dsl.units import Quantity

DEVICE = Device("d", (("f16", 100e12), ("f32", 10e12)), 1e9, 1e12, (("cores", (10,)), ("tile", (128, 256, 64))))
MACHINE = Machine(
    DEVICE, (Level("server", 8, 1e9, 1e-6),), {}, {}, 1, 10, (128, 256, 64), {}, (8,), dict(DEVICE.compute), {}
)
CAL = DEFAULT.changed(product=1.0, ramp=0.0, vector=1.0, launch=0.0, host=0.0, fusion=1.0)
BIG = Product(1280, 256 * 100, 4096, 1, "f16", 0)


def test_full_tiles_in_full_waves_reach_the_peak() -> None:
    assert tile_share(1280, 25600, 1, (128, 256, 64), 10) == 1.0
    assert product_seconds(BIG, MACHINE, CAL) == pytest.approx(BIG.flops / 100e12)


def test_tiles_and_waves_are_quantised() -> None:
    """One row more begins new tiles; eleven tiles on ten cores take two waves."""
    assert tile_share(1281, 25600, 1, (128, 256, 64), 10) < 0.99
    one, two = tile_share(128, 256, 10, (128, 256, 64), 10), tile_share(128, 256, 11, (128, 256, 64), 10)
    assert one == 1.0 and (11 / 20) ** 0.5 <= two < 1.0


@pytest.mark.parametrize("m, n", [(1, 1), (3, 5), (64, 64), (100, 1000), (4096, 130)])
def test_shares_are_shares_and_the_same_when_transposed(m: int, n: int) -> None:
    share = tile_share(m, n, 1, (128, 256, 64), 108)
    assert 0 < share <= 1 and share == tile_share(n, m, 1, (128, 256, 64), 108)


def test_short_sums_do_not_reach_the_peak() -> None:
    cal = CAL.changed(ramp=64.0)
    short = replace(BIG, k=64)
    assert product_seconds(short, MACHINE, cal) == pytest.approx(2 * short.flops / 100e12)


def test_thin_products_are_bound_by_memory() -> None:
    thin = Product(1280, 256 * 100, 1, 1, "f16", 10**9)
    assert product_seconds(thin, MACHINE, CAL) == pytest.approx(1e-3)


def test_rows_that_are_not_aligned_are_slow() -> None:
    even = product_seconds(Product(4096, 4096, 4096, 1, "f16", 0), MACHINE, CAL)
    assert product_seconds(Product(4096, 4096, 4097, 1, "f16", 0), MACHINE, CAL) > 1.9 * even
    assert [alignment(n) for n in (1, 64, 1800, 180)] == [1.0, 1.0, 0.95, 0.5]


def test_types_have_their_peaks() -> None:
    assert product_seconds(replace(BIG, dtype="f32"), MACHINE, CAL) == pytest.approx(BIG.flops / 10e12)
    assert MACHINE.peak("bf16") == 100e12  # counted as f16, where it is not stated


def test_fused_attention_moves_less_and_computes_half_under_a_mask() -> None:
    scores = Product(1024, 1024, 64, 16, "f16", 10**10, True, 10**6, True)
    loose = product_seconds(scores, MACHINE, CAL)
    fused = product_seconds(scores, MACHINE, CAL.changed(fused_attention=1.0, core=1.0))
    assert loose == pytest.approx(1e-2) and fused == pytest.approx(scores.flops / 2 / 100e12)
    softmax = Vector(10**9, 10**10, 8, 10**8, "f16", True)
    assert vector_seconds(softmax, MACHINE, CAL.changed(fused_attention=1.0)) == 0.0
    assert vector_seconds(softmax, MACHINE, CAL) == pytest.approx(1e-3)


def test_fusion_lies_between_one_kernel_and_many() -> None:
    work = Vector(10**9, 3 * 10**9, 5, 10**8, "f16")
    assert vector_seconds(work, MACHINE, CAL.changed(fusion=0.0)) == pytest.approx(3e-3)
    assert vector_seconds(work, MACHINE, CAL.changed(fusion=0.5)) == pytest.approx(2e-3)
    assert [launches(work, CAL.changed(fusion=f)) for f in (0.0, 0.5, 1.0)] == [5, 3, 1]


def test_vector_units_count_where_they_are_stated() -> None:
    machine = replace(MACHINE, vector_peaks={"f32": 1e9})
    assert vector_seconds(Vector(1, 1, 1, 10**9, "f32"), machine, CAL) == pytest.approx(1.0)


def test_a_device_states_its_efficiency_for_all_stacks_and_for_one() -> None:
    settings = (
        ("launch", (Quantity.of(3, "us"),)),
        ("efficiency", ("product", 0.5)),
        ("efficiency", ("mine", "product", 0.25)),
        ("efficiency", ("mine", "host", Quantity.of(20, "us"))),
    )
    device = replace(DEVICE, settings=settings)
    assert calibration(device) == DEFAULT.changed(launch=3e-6, product=0.5)
    assert calibration(device, "mine") == DEFAULT.changed(launch=3e-6, product=0.25, host=2e-5)
    assert calibration(device, "another") == calibration(device)
    with pytest.raises(KeyError, match="speed"):
        DEFAULT.changed(speed=1.0)
