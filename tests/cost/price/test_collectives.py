"""Messages: closed formulas on one level, hierarchy over several, topologies, and which levels an axis spans."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

import parc
from compiler.cost.kernels.work import Collective, Part, Product, WorkLoop, WorkNode
from compiler.cost.price.calibration import DEFAULT, Calibration
from compiler.cost.price.collectives import (
    bandwidth,
    collective_seconds,
    copy_seconds,
    distinct,
    level_seconds,
    meet_seconds,
    point_seconds,
    sent_bytes,
)
from compiler.cost.price.machine import Machine, machine
from compiler.cost.price.pricer import PICOSECONDS, Pricer
from compiler.cost.time.simulate import Simulation, slower_sends
from compiler.cost.time.step import play
from compiler.cost.time.tasks import tasks
from compiler.memory.tiers import FIRST, Memory
from compiler.model import Device, Level
from compiler.numbering import Ranks
from compiler.program import Axis
from dsl.codes import CODES
from dsl.source import Source

DEVICE = Device("d", (("f16", 100e12),), 1e9, 1e12)
LEVELS = (Level("server", 8, 100e9, 1e-6), Level("pod", 16, 10e9, 5e-6))
SIZES = {"pp": 2, "dp": 8, "tp": 8}
STRIDES = {"pp": 64, "dp": 8, "tp": 1}
RANKS = Ranks([Axis("pp", 2, "place"), Axis("dp", 8, "mesh"), Axis("tp", 8, "mesh")])
SMALL = Ranks([Axis("pp", 2, "place"), Axis("tp", 2, "mesh")])
MEMORIES = {FIRST: Memory(FIRST, 1e9, 1e12), "host": Memory("host", 1e12, 400e9, 8, 10e9)}
MACHINE = Machine(DEVICE, LEVELS, SIZES, STRIDES, RANKS, 1, (128, 128, 64), MEMORIES, (8, 128), {"f16": 100e12}, {})
EXAMPLE = """
use std.optimizers (sgd)

device toy {
  compute f32 10 TFLOP/s
  memory 8 GB, 100 GB/s
  launch 5 us
}

cluster few {
  device npu = toy
  level server = 2 npu over 30 GB/s, 1 us
}

model m {
  dim b = 8
  input x : f32[b]
  weight w[b]
  loss mean(x * w)
}

job j {
  train m on few
  optimizer sgd(lr = 0.1)
}
"""
CAL = DEFAULT.changed(inner=1.0, outer=1.0, inner_half=0.0, outer_half=0.0, alpha=0.0, launch=0.0)
V = 10**9


def work(op: str, *axes: str, role: str = "activations", itemsize: int = 1) -> Collective:
    return Collective(op, axes, V // itemsize, itemsize, role)


@pytest.mark.parametrize("op, times", [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1), ("all_to_all", 1)])
def test_rings_on_one_level(op: str, times: int) -> None:
    assert collective_seconds(work(op, "tp"), MACHINE, CAL) == pytest.approx(times * 7 / 8 * V / 100e9)
    assert collective_seconds(work(op, "dp"), MACHINE, CAL) == pytest.approx(times * 7 / 8 * V / 10e9)
    assert sent_bytes(work(op, "tp"), MACHINE, CAL) == pytest.approx(times * 7 / 8 * V)


def test_slower_links_take_no_longer_to_get_going() -> None:
    """`inner_half` is of the device's own links; the time in it holds for others, too."""
    slow = replace(MACHINE, links=0.1, levels=(replace(LEVELS[0], bandwidth=10e9), LEVELS[1]))
    found = [
        collective_seconds(work("all_gather", "tp"), m, CAL.changed(inner_half=8e6))
        - collective_seconds(work("all_gather", "tp"), m, CAL)
        for m in (MACHINE, slow)
    ]
    assert found[0] == pytest.approx(7 / 8 * 8e6 / 100e9) == pytest.approx(found[1])


def test_a_device_says_of_which_links_its_efficiencies_are() -> None:
    text = EXAMPLE.replace("launch", "link 60 GB/s\n  launch", 1)
    for source, links in ((EXAMPLE, 1.0), (text, 0.5)):
        compiled = parc.compile(Source("few.par", source))
        assert compiled.job.cluster is not None
        assert machine(compiled.program, compiled.job.cluster).links == links


def test_inside_first_then_pieces_outside() -> None:
    """64 devices on 8 servers: each has an eighth to send outside; the slower of both levels counts."""
    inside, outside = 7 / 8 * V / 100e9, 7 / 8 * V / 8 / 10e9
    found = collective_seconds(work("all_gather", "dp", "tp"), MACHINE, CAL)
    assert found == pytest.approx(max(inside, outside))
    assert found < collective_seconds(work("all_gather", "dp"), MACHINE, CAL)


def test_gathers_and_reductions_go_around_one_ring_of_all() -> None:
    """64 devices on 8 servers: 63 steps, 7 of them between servers. An all-reduce goes up and down trees."""
    cal = CAL.changed(alpha=1.0)
    for op in ("all_gather", "reduce_scatter"):
        empty = Collective(op, ("dp", "tp"), 0, 1, "weights")
        assert collective_seconds(empty, MACHINE, cal) == pytest.approx(56 * 1e-6 + 7 * 5e-6)
    empty = Collective("all_reduce", ("dp", "tp"), 0, 1, "gradients")
    assert collective_seconds(empty, MACHINE, cal) == pytest.approx(2 * 6 * (1e-6 + 5e-6))


@pytest.mark.parametrize("role, number", [("weights", 8), ("gradients", 8), ("activations", 1)])
def test_buckets_are_messages_of_their_own(role: str, number: int) -> None:
    """Each has its latencies and its launch, and takes as long to get going; weights and gradients alone are cut."""
    one = CAL.changed(alpha=1.0, launch=1e-5, outer_half=1e6, gradient_wire=4.0)
    cut = one.changed(bucket=V / 7.5)
    message = work("reduce_scatter", "dp", role=role)
    alone = collective_seconds(replace(message, elements=V // number), MACHINE, one)
    assert collective_seconds(message, MACHINE, cut) == pytest.approx(number * alone)
    assert collective_seconds(message, MACHINE, one) < number * alone or number == 1
    assert Pricer(MACHINE, cut).price(message).launches == number


def test_all_to_all_sends_most_outside() -> None:
    found = collective_seconds(work("all_to_all", "dp", "tp"), MACHINE, CAL)
    assert found == pytest.approx(56 / 64 * V / 10e9)


def test_copies_go_once_to_each_domain() -> None:
    """64 devices on 8 servers, 8 copies: of 8 servers 8(1 - (7/8)^8) = 5.25 have some; inside, of 64 devices 7.6."""
    copied = replace(work("all_to_all", "dp", "tp"), copies=8)
    once = CAL.changed(distinct=1.0)
    servers, devices = (n * (1 - (1 - 1 / n) ** 8) for n in (8, 64))
    inside, outside = level_seconds(copied, MACHINE, once)
    assert outside == pytest.approx(servers / 8 * 7 / 8 * V / 10e9)
    assert inside == pytest.approx(devices / 8 * 7 / 8 * V / 100e9)
    assert level_seconds(copied, MACHINE, CAL) == level_seconds(work("all_to_all", "dp", "tp"), MACHINE, once)
    limited = level_seconds(replace(copied, places=4), MACHINE, once)
    assert limited == (inside, pytest.approx(outside * 4 * (1 - (3 / 4) ** 8) / servers))
    assert level_seconds(replace(copied, places=16), MACHINE, once) == (inside, outside)
    few = level_seconds(replace(copied, copies=2), MACHINE, once)[1]  # on more servers than there are copies
    assert few == pytest.approx(8 * (1 - (7 / 8) ** 2) / 2 * 7 / 8 * V / 10e9)
    assert sent_bytes(copied, MACHINE, once) == pytest.approx(inside * 100e9 + outside * 10e9)
    assert sent_bytes(copied, MACHINE, CAL) == pytest.approx(63 / 64 * V)
    assert distinct(5, 1) == pytest.approx(1.0) and 7 * distinct(10**6, 7) == pytest.approx(7.0, rel=1e-4)


def test_short_messages_have_a_protocol_of_their_own() -> None:
    """Inside a server: half of the bandwidth, but a quarter of what it takes to get going; between servers none."""
    cal = CAL.changed(inner_half=8e6, outer_half=8e6)
    assert bandwidth(MACHINE, cal, 0, 1e6) == pytest.approx(0.5 * 100e9 * 1 / 3)
    assert bandwidth(MACHINE, cal, 0, 8e6) == pytest.approx(100e9 / 2)
    assert bandwidth(MACHINE, cal, 1, 1e6) == pytest.approx(10e9 / 9)


def test_latency_of_all_reduces_grows_with_the_ring_but_not_for_ever() -> None:
    cal = CAL.changed(alpha=1.0)
    tiny = Collective("all_reduce", ("tp",), 0, 1, "activations")
    assert collective_seconds(tiny, MACHINE, cal) == pytest.approx(12e-6)  # twice 2 log2(8) steps of 1 us
    two = replace(MACHINE, sizes={**SIZES, "tp": 2})
    assert collective_seconds(tiny, two, cal) == pytest.approx(2e-6)


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
    cal = CAL.changed(wire=2.0, gradient_wire=4.0)
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
    assert MACHINE.between(0, 1) == 1 and replace(MACHINE, ranks=SMALL).between(0, 1) == 0
    assert point_seconds(V, 1, MACHINE, CAL) == pytest.approx(V / 10e9)
    assert meet_seconds(V, (0, 1), MACHINE, CAL) == pytest.approx(V / 10e9)
    assert meet_seconds(V, (0,), MACHINE, CAL) == 0.0


def test_copies_go_over_the_device_s_link() -> None:
    assert copy_seconds(V, FIRST, "host", MACHINE, CAL) == pytest.approx(0.1)
    assert copy_seconds(V, FIRST, "host", MACHINE, CAL.changed(launch=1e-3)) == pytest.approx(0.101)


def test_devices_of_a_server_share_its_memories() -> None:
    """Four devices: host memory of 60 GB/s is 15 for each, less than the link of 20; one NVMe of 8 GB/s is 2."""
    text = CODES["E0801"].mended.replace(
        "1 npu over 10 GB/s, 1 us\n", "4 npu over 10 GB/s, 1 us\n  HOST\n  nvme 1 TB over 8 GB/s\n"
    )
    for shared, rate in ((60, 15e9), (100, 20e9)):
        compiled = parc.compile(Source("x.par", text.replace("HOST", f"host memory 1 TB, {shared} GB/s over 20 GB/s")))
        assert compiled.job.cluster is not None
        found = machine(compiled.program, compiled.job.cluster)
        assert copy_seconds(V, FIRST, "host", found, CAL) == pytest.approx(V / rate)
        assert copy_seconds(V, "nvme", FIRST, found, CAL) == pytest.approx(V / 2e9)


def test_an_all_reduce_over_two_levels() -> None:
    """Reduce-scatter inside, all-reduce of the eighths between, all-gather inside; latencies of both add up."""
    inside, outside = 2 * 7 / 8 * V / 100e9, 2 * 7 / 8 * V / 8 / 10e9
    work_ = work("all_reduce", "dp", "tp")
    assert level_seconds(work_, MACHINE, CAL) == pytest.approx((inside, outside))
    assert collective_seconds(work_, MACHINE, CAL) == pytest.approx(max(inside, outside))
    late = CAL.changed(alpha=1.0, launch=1e-3)
    steps = 2 * 6 * (1e-6 + 5e-6)  # 2 log2(8) each way on either level
    assert collective_seconds(work_, MACHINE, late) == pytest.approx(max(inside, outside) + steps + 1e-3)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_rings_between_servers_share_the_network_cards(tp: int) -> None:
    """The rule of docs/costs.md: a data-parallel ring between servers of 8 devices gets the server's bandwidth (eight
    cards of 10 GB/s) over min(devices per server, tp)."""
    servers = 8
    machine = replace(MACHINE, sizes={"dp": 8 * servers // tp, "tp": tp}, strides={"dp": tp, "tp": 1})
    outside = level_seconds(work("all_gather", "dp"), machine, CAL)[1]
    assert outside == pytest.approx((servers - 1) / servers * V / (80e9 / min(8, tp)))


def test_experts_send_the_share_of_other_servers_over_a_card_each() -> None:
    """(k-1)/k of what a device sends leaves its server of k."""
    for servers in (2, 4, 8):
        machine = replace(MACHINE, sizes={"ep": 8 * servers}, strides={"ep": 1})
        outside = level_seconds(work("all_to_all", "ep"), machine, CAL)[1]
        assert outside == pytest.approx((servers - 1) / servers * V / 10e9)


def ring(tp: int) -> Machine:
    levels = (replace(LEVELS[0], topology="ring"), LEVELS[1])
    return replace(MACHINE, levels=levels, sizes={**SIZES, "tp": tp})


def test_a_ring() -> None:
    """All the way around as on a switch; a part of it is a line, with half the links; messages to all take detours."""
    assert collective_seconds(work("all_gather", "tp"), ring(8), CAL) == pytest.approx(7 / 8 * V / 100e9)
    assert collective_seconds(work("all_gather", "tp"), ring(4), CAL) == pytest.approx(3 / 4 * V / 50e9)
    assert point_seconds(V, 0, ring(8), CAL) == pytest.approx(V / 50e9)
    # Between 8 on a ring a message of V/8 goes over 16/7 links on the average, in both directions.
    assert collective_seconds(work("all_to_all", "tp"), ring(8), CAL) == pytest.approx(2 * V / 100e9)
    tiny = Collective("all_gather", ("tp",), 0, 1, "activations")
    assert collective_seconds(tiny, ring(8), CAL.changed(alpha=1.0)) == pytest.approx(7e-6)


def test_an_all_to_all_between_servers_goes_around_no_ring_inside() -> None:
    assert collective_seconds(work("all_to_all", "dp"), ring(8), CAL) == pytest.approx(7 / 8 * V / 10e9)


def test_messages_on_a_full_mesh_have_one_link() -> None:
    mesh = replace(MACHINE, levels=(replace(LEVELS[0], topology="full_mesh"), LEVELS[1]), ranks=SMALL)
    assert point_seconds(V, 0, mesh, CAL) == pytest.approx(V / (100e9 / 7))
    assert meet_seconds(V, (0, 1), mesh, CAL) == pytest.approx(V / (100e9 / 7))
    tiny = Collective("all_reduce", ("tp",), 0, 1, "activations")
    assert collective_seconds(tiny, mesh, CAL.changed(alpha=1.0)) == pytest.approx(2e-6)  # one step each way


def test_borders_are_exchanged_with_one_neighbour() -> None:
    cal = CAL.changed(alpha=1.0)
    assert collective_seconds(work("halo", "tp"), MACHINE, cal) == pytest.approx(V / 100e9 + 1e-6)
    assert collective_seconds(work("halo_add", "dp"), MACHINE, cal) == pytest.approx(V / 10e9 + 5e-6)


def seconds(part: Part, calibration: Calibration = CAL) -> float:
    pricer = Pricer(MACHINE, calibration)
    (found,) = tasks(part, pricer)
    return play(found, pricer.streams).duration / PICOSECONDS


def test_axes_that_run_at_once_share_links() -> None:
    """Gathers of weights go beside all else. Over the same level they wait for each other; over different ones not; and
    what spans both needs the inner links for its part of them."""
    inner, outer = work("all_gather", "tp", role="weights"), work("all_gather", "dp", role="weights")
    a, b = 7 / 8 * V / 100e9, 7 / 8 * V / 10e9
    assert seconds(Part((WorkNode("a", inner), WorkNode("b", outer)))) == pytest.approx(max(a, b))
    assert seconds(Part((WorkNode("a", outer), WorkNode("b", outer)))) == pytest.approx(2 * b)
    both = work("all_gather", "dp", "tp", role="weights")
    inside, outside = level_seconds(both, MACHINE, CAL)
    assert inside < outside
    pair = Part((WorkNode("a", both), WorkNode("b", inner)))
    assert seconds(pair) == pytest.approx(max(outside, inside + a))
    # Ten of them keep the links inside busy for longer than the one outside.
    many = Part((WorkNode("a", both), *(WorkNode(f"{i}", inner) for i in range(10))))
    assert seconds(many) == pytest.approx(inside + 10 * a)
    after = Part((WorkNode("a", inner), WorkNode("b", both)))
    assert seconds(after) == pytest.approx(a + outside)


def test_sends_share_links_with_collectives() -> None:
    """Half of the time collectives use the level: sends take 1/(1 - 1/4) as long. The update does not count."""
    collective = work("all_reduce", "dp")
    taken = collective_seconds(collective, MACHINE, CAL)
    product = Product(1, 1, 10**6, 1, "f16", round(taken * 1e12))  # as long, bound by memory
    part = Part((WorkNode("a", WorkLoop(3, Part((WorkNode("b", product), WorkNode("c", collective))))),))
    pricer = Pricer(MACHINE, CAL.changed(vector=1.0))
    assert slower_sends({("F", 0): part}, {("F", 0): 4}, pricer) == pytest.approx((1.0, 4 / 3))
    assert slower_sends({("U", 0): part}, {("U", 0): 1}, pricer) == (1.0, 1.0)
    alone = pricer.post(V, 0, 1)
    slow = pricer.shared([(1.0, 4 / 3), (1.0, 1.0)])
    assert slow.post(V, 0, 1) == pytest.approx(4 / 3 * alone) and slow.post(V, 1, 0) == alone


def test_tensor_parallel_between_servers_slows_sends() -> None:
    """Stages of 16 devices on servers of 8: 16 ranks of `tp` meet on two levels, and sends go over the outer one."""
    file = Path(__file__).parents[3] / "examples" / "gpt.par"
    params = {"dp": 2, "tp": 8, "pp": 2, "heads": 8, "microbatches": 4, "batch": 16}
    wide = {"dp": 1, "tp": 16, "pp": 2, "heads": 16, "microbatches": 4, "batch": 16}
    inside, across = (Simulation.of(parc.compile(file, params=p)).pricer().slower for p in (params, wide))
    assert all(levels[1] < 1.1 for levels in inside) and all(levels[1] > 1.5 for levels in across)
