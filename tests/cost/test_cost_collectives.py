"""Messages: closed formulas on one level, hierarchy over several, topologies, and which levels an axis spans."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from compiler.cost.calibration import DEFAULT
from compiler.cost.collectives import (
    bandwidth,
    collective_seconds,
    copy_seconds,
    meet_seconds,
    point_seconds,
    sent_bytes,
)
from compiler.cost.machine import Machine
from compiler.cost.work import Collective
from compiler.model import Device, Level

DEVICE = Device("d", (("f16", 100e12),), 1e9, 1e12)
LEVELS = (Level("server", 8, 100e9, 1e-6), Level("pod", 16, 10e9, 5e-6))
SIZES = {"pp": 2, "dp": 8, "tp": 8}
STRIDES = {"pp": 64, "dp": 8, "tp": 1}
MACHINE = Machine(DEVICE, LEVELS, SIZES, STRIDES, 64, 1, (128, 128, 64), {"host": 10e9}, (8, 128), {"f16": 100e12}, {})
CAL = DEFAULT.changed(inner=1.0, outer=1.0, inner_half=0.0, outer_half=0.0, alpha=0.0, launch=0.0)
V = 10**9


def work(op: str, *axes: str, role: str = "activations", itemsize: int = 1) -> Collective:
    return Collective(op, axes, V // itemsize, itemsize, role)


@pytest.mark.parametrize("op, times", [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1), ("all_to_all", 1)])
def test_rings_on_one_level(op: str, times: int) -> None:
    assert collective_seconds(work(op, "tp"), MACHINE, CAL) == pytest.approx(times * 7 / 8 * V / 100e9)
    assert collective_seconds(work(op, "dp"), MACHINE, CAL) == pytest.approx(times * 7 / 8 * V / 10e9)
    assert sent_bytes(work(op, "tp"), MACHINE, CAL) == pytest.approx(times * 7 / 8 * V)


def test_inside_first_then_pieces_outside() -> None:
    """64 devices on 8 servers: each has an eighth to send outside; the slower of both levels counts."""
    inside, outside = 7 / 8 * V / 100e9, 7 / 8 * V / 8 / 10e9
    found = collective_seconds(work("all_gather", "dp", "tp"), MACHINE, CAL)
    assert found == pytest.approx(max(inside, outside))
    assert found < collective_seconds(work("all_gather", "dp"), MACHINE, CAL)


def test_all_to_all_sends_most_outside() -> None:
    found = collective_seconds(work("all_to_all", "dp", "tp"), MACHINE, CAL)
    assert found == pytest.approx(56 / 64 * V / 10e9)


def test_latency_grows_with_the_ring_but_not_for_ever() -> None:
    cal = CAL.changed(alpha=1.0)
    tiny = Collective("all_gather", ("tp",), 0, 1, "activations")
    assert collective_seconds(tiny, MACHINE, cal) == pytest.approx(6e-6)  # 2 log2(8) steps of 1 us
    two = replace(MACHINE, sizes={**SIZES, "tp": 2})
    assert collective_seconds(tiny, two, cal) == pytest.approx(1e-6)


def test_short_messages_do_not_reach_the_link() -> None:
    """At the half size half of it, as measured on 8 A100: a ramp of the size."""
    cal = CAL.changed(inner_half=4e6)
    assert bandwidth(MACHINE, cal, 0, 4e6) == pytest.approx(50e9)
    assert bandwidth(MACHINE, cal, 1, 4e6) == pytest.approx(10e9)


def test_a_few_devices_of_a_full_mesh_have_a_few_links() -> None:
    mesh = replace(MACHINE, levels=(replace(LEVELS[0], topology="full_mesh"), LEVELS[1]), sizes={**SIZES, "tp": 2})
    switch = replace(MACHINE, sizes={**SIZES, "tp": 2})
    ratio = collective_seconds(work("all_gather", "tp"), mesh, CAL) / collective_seconds(
        work("all_gather", "tp"), switch, CAL
    )
    assert ratio == pytest.approx(7)
    whole = replace(mesh, sizes=SIZES)
    assert collective_seconds(work("all_gather", "tp"), whole, CAL) == pytest.approx(7 / 8 * V / 100e9)


def test_one_device_sends_nothing() -> None:
    alone = replace(MACHINE, sizes={"dp": 1}, strides={"dp": 1})
    assert collective_seconds(work("all_reduce", "dp"), alone, CAL) == 0.0


def test_weights_go_in_the_compute_type() -> None:
    cal = CAL.changed(wire=2.0)
    full = collective_seconds(work("all_gather", "tp", role="gradients", itemsize=4), MACHINE, cal)
    half = collective_seconds(work("all_gather", "tp", role="weights", itemsize=4), MACHINE, cal)
    assert half == pytest.approx(full / 2)
    short = CAL.changed(gradient_wire=2.0)
    assert collective_seconds(work("all_gather", "tp", role="gradients", itemsize=4), MACHINE, short) == half


@pytest.mark.parametrize(
    "axes, span",
    [(("tp",), (8, 1)), (("dp",), (1, 8)), (("pp",), (1, 2)), (("dp", "tp"), (8, 8)), (("pp", "dp", "tp"), (8, 16))],
)
def test_spans_follow_from_strides(axes: tuple[str, ...], span: tuple[int, ...]) -> None:
    assert MACHINE.span(axes) == span
    assert MACHINE.outermost(axes) == (0 if axes == ("tp",) else 1)


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16, 32, 128])
@pytest.mark.parametrize("per", [1, 2, 8, 16])
def test_spans_are_those_of_counting(tp: int, per: int) -> None:
    """Against the definition: how many members of the first group share a domain."""
    dp = 128 // tp
    machine = replace(MACHINE, sizes={"dp": dp, "tp": tp}, strides={"dp": tp, "tp": 1}, domains=(per, 128))
    for axes, ranks in ((("tp",), range(tp)), (("dp",), range(0, 128, tp)), (("dp", "tp"), range(128))):
        inside = sum(1 for r in ranks if r < per)
        assert machine.span(axes) == (inside, len(ranks) // inside)
        assert prod(machine.span(axes)) == len(ranks)


def test_messages_between_groups() -> None:
    assert MACHINE.between(0, 1) == 1 and replace(MACHINE, group=2).between(0, 1) == 0
    assert point_seconds(V, 1, MACHINE, CAL) == pytest.approx(V / 10e9)
    assert meet_seconds(V, (0, 1), MACHINE, CAL) == pytest.approx(V / 10e9)
    assert meet_seconds(V, (0,), MACHINE, CAL) == 0.0


def test_copies_go_over_the_device_s_link() -> None:
    assert copy_seconds(V, "host", MACHINE, CAL) == pytest.approx(0.1)
