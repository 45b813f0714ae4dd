"""Kernels: quantised products, ramps, and what fusion saves, on a device with round numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

import parc
from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Part, Product, Vector, WorkLoop, WorkNode
from compiler.cost.price.calibration import DEFAULT, calibration
from compiler.cost.price.compute import alignment, filled, launches, product_seconds, tile_share, vector_seconds
from compiler.cost.price.machine import Machine, machine
from compiler.cost.price.pricer import PICOSECONDS, Pricer
from compiler.cost.time.step import play
from compiler.cost.time.tasks import tasks
from compiler.model import Device, Level
from dsl.codes import CODES
from dsl.source import Source

EXAMPLES = Path(__file__).parents[3] / "examples"

DEVICE = Device("d", (("f16", 100e12), ("f32", 10e12)), 1e9, 1e12, (("cores", (10,)), ("tile", (128, 256, 64))))
MACHINE = Machine(
    DEVICE, (Level("server", 8, 1e9, 1e-6),), {}, {}, 1, 10, (128, 256, 64), {}, (8,), dict(DEVICE.compute), {}
)
CAL = DEFAULT.changed(product=1.0, ramp=0.0, vector=1.0, launch=0.0, host=0.0, fusion=1.0)
BIG = Product(1280, 256 * 100, 4096, 1, "f16", 0)


def test_full_tiles_in_full_waves_reach_the_peak() -> None:
    assert tile_share(1280, 25600, 1, (128, 256, 64), 10) == 1.0
    assert product_seconds(BIG, MACHINE, CAL) == pytest.approx(BIG.flops / 100e12)


def test_products_of_experts_are_dispatched_one_by_one() -> None:
    """Each takes so long at least; a large one hides it; and the host dispatches all of them."""
    few = Product(128, 256, 64, 4, "f16", 0, groups=4)
    cal = CAL.changed(grouped=1e-4)
    assert product_seconds(few, MACHINE, cal) == pytest.approx(4e-4)
    assert product_seconds(few, MACHINE, CAL) < 1e-4
    assert product_seconds(replace(few, groups=1), MACHINE, cal) == product_seconds(few, MACHINE, CAL)
    large = replace(BIG, batch=4, groups=4)
    assert product_seconds(large, MACHINE, cal) == product_seconds(large, MACHINE, CAL)
    assert launches(few, cal) == 4.0 and launches(BIG, cal) == 1.0


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
    assert [alignment(n) for n in (1, 64, 1800, 180, 150, 4097)] == [1.0, 1.0, 0.95, 0.5, 0.2, 0.1]


def test_narrow_products_are_those_with_weights() -> None:
    eight = CAL.changed(narrow=2.0, fused_attention=1.0, core=1.0)
    assert product_seconds(BIG, MACHINE, eight) == pytest.approx(BIG.flops / 200e12)
    core = replace(BIG, core=True)
    assert product_seconds(core, MACHINE, eight) == pytest.approx(BIG.flops / 100e12)


def test_types_have_their_peaks() -> None:
    assert product_seconds(replace(BIG, dtype="f32"), MACHINE, CAL) == pytest.approx(BIG.flops / 10e12)
    assert MACHINE.peak("bf16") == 100e12  # counted as f16, where it is not stated


def test_fused_attention_moves_less_and_computes_half_under_a_mask() -> None:
    scores = Product(1024, 1024, 64, 16, "f16", 10**10, True, 10**6, 0.5)
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
        ("launch", (3e-6,)),
        ("efficiency", ("product", 0.5)),
        ("efficiency", ("mine", "product", 0.25)),
        ("efficiency", ("mine", "host", 2e-5)),
    )
    device = replace(DEVICE, settings=settings)
    assert calibration(device) == DEFAULT.changed(launch=3e-6, product=0.5)
    assert calibration(device, "mine") == DEFAULT.changed(launch=3e-6, product=0.25, host=2e-5)
    assert calibration(device, "another") == calibration(device)
    with pytest.raises(KeyError, match="speed"):
        DEFAULT.changed(speed=1.0)


def test_a_cube_computes_whole_ones() -> None:
    """Ascend's matrix unit takes 16 x 16 x 16: a depth of 17 costs what one of 32 does, a width of 8 half a cube."""
    cube = replace(MACHINE, cube=(16, 16, 16))
    assert filled(cube, 64, 128) == filled(cube, 16, 16) == filled(cube, 48) == 1.0
    assert filled(cube, 17, 16) == pytest.approx(17 / 32) and filled(cube, 16, 8) == pytest.approx(0.5)
    odd, even = (product_seconds(replace(BIG, k=k), cube, CAL) for k in (4097, 4112))
    assert odd == pytest.approx(even) and odd > product_seconds(BIG, cube, CAL)
    assert filled(MACHINE, 64, 72) == alignment(64, 72) == 0.95


@pytest.mark.parametrize("name, cores", [("ascend910", 32), ("ascend910b", 24)])
def test_the_tile_of_ascend_is_what_its_buffers_hold(name: str, cores: int) -> None:
    """L0C 128 KiB of f32 sums; L0A and L0B 64 KiB of 16-bit operands, two of each so that loads run beside products."""
    text = CODES["E0801"].mended.replace("device npu = small", f"device npu = {name}")
    compiled = parc.compile(Source("x.par", f"use std.devices ({name})\n\n{text}"))
    assert compiled.job.cluster is not None
    found = machine(compiled.program, compiled.job.cluster)
    m, n, k = found.tile
    assert 4 * m * n <= 128 * 1024 and 2 * 2 * m * k <= 64 * 1024 and 2 * 2 * k * n <= 64 * 1024
    assert found.cube == (16, 16, 16) and found.cores == cores
    assert all(t % c == 0 for t, c in zip(found.tile, found.cube))
    # One tile more than there are cores begins a second wave.
    full, more = (tile_share(m * cores, n * w, 1, found.tile, cores) for w in (1, 2))
    assert full == more == 1.0
    assert tile_share(m * (cores + 1), n, 1, found.tile, cores) < 0.9


def test_every_kernel_is_launched() -> None:
    cal = CAL.changed(launch=1e-3)
    tiny = Product(1, 1, 1, 1, "f16", 0)
    assert product_seconds(tiny, MACHINE, cal) == pytest.approx(1e-3)
    assert vector_seconds(Vector(0, 0, 4, 0, "f16"), MACHINE, cal) == pytest.approx(1e-3)
    assert vector_seconds(Vector(0, 0, 4, 0, "f16"), MACHINE, cal.changed(fusion=0.0)) == pytest.approx(4e-3)
    assert vector_seconds(Vector(0, 0, 4, 0, "f16", True), MACHINE, cal.changed(fused_attention=1.0)) == 0.0


def test_the_host_is_a_floor() -> None:
    """A function of short kernels takes as long as the host needs to dispatch them; of long ones as long as these."""
    part = Part(
        (
            WorkNode("a", BIG),
            WorkNode("b", Vector(0, 0, 1, 0, "f16"), (0,)),
            WorkNode("c", WorkLoop(7, Part((WorkNode("d", BIG),)))),
        )
    )
    work = 8 * BIG.flops / 100e12
    for host, expected in ((1.0, 9.0), (1e-6, work)):
        pricer = Pricer(MACHINE, CAL.changed(host=host))
        (segment,) = tasks(part, pricer)
        found = play(segment, pricer.streams)
        assert found.duration / PICOSECONDS == pytest.approx(expected)
        assert found.compute / PICOSECONDS == pytest.approx(work)


GPT = {"layers": 4, "hidden": 256, "heads": 4, "seq": 64, "vocab": 512}


def vectors(part: Part, times: int = 1) -> Iterator[tuple[WorkNode, Vector, int]]:
    for node in part.nodes:
        if isinstance(node.work, WorkLoop):
            yield from vectors(node.work.body, times * node.work.count)
        elif isinstance(node.work, Vector):
            yield node, node.work, times


def test_the_optimizer_reads_and_writes_each_number_once() -> None:
    """AdamW in f32: weight, gradient and two states are read, weight and states written: 28 bytes per parameter, and 4
    for the norm of the gradients. (Measured in systems that keep 16-bit weights as well: about 38.)"""
    compiled = parc.compile(EXAMPLES / "gpt.par", params=GPT)
    parameters = sum(prod(w.value.type.shape) for w in compiled.job.model.weights)
    part = features(compiled.program).parts[0]["U", 0]
    assert sum(w.bytes * n for _, w, n in vectors(part)) / parameters == pytest.approx(32, rel=1e-3)


def test_gradients_of_micro_batches_are_added_up() -> None:
    """Into buffers that are read and written: 8 bytes per parameter; of one micro-batch nothing is added."""
    for count in (1, 2):
        compiled = parc.compile(EXAMPLES / "gpt.par", params={**GPT, "microbatches": count})
        parameters = sum(prod(w.value.type.shape) for w in compiled.job.model.weights)
        part = features(compiled.program).parts[0]["B", 0]
        moved = sum(w.bytes * n for node, w, n in vectors(part) if node.name == "accumulation of gradients")
        assert moved / parameters == pytest.approx(8 if count > 1 else 0, rel=1e-3)


def test_softmax_moves_scores_unless_it_is_fused() -> None:
    """Scores are read and shares written (and what the backward pass needs): at least twice b·h·s·s numbers a layer."""
    compiled = parc.compile(EXAMPLES / "gpt.par", params=GPT)
    part = features(compiled.program).parts[0]["F", 0]
    scores = 16 * 4 * 64 * 64 * 4
    cores = [(w, n) for _, w, n in vectors(part) if w.core]
    assert sum(n for _, n in cores) == GPT["layers"]
    assert all(2 * scores <= w.bytes <= 3.1 * scores < w.loose for w, _ in cores)
    assert all(vector_seconds(w, MACHINE, CAL.changed(fused_attention=1.0)) == 0 for w, _ in cores)
