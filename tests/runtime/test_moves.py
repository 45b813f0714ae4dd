"""Memories besides the devices' own: programs written by hand that move values between them, in loops too."""

from __future__ import annotations

import re

import numpy as np
import pytest

import parc
from compiler.cost.time.simulate import Simulation
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.memory.peak import memory_use
from compiler.memory.tiers import Memory, move_rate
from compiler.program import Program
from compiler.text import parse_located, show
from compiler.verify import verify
from dsl.source import Source
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.program.samples import PAGED, in_one_memory
from tests.runtime.lists import Lists

LAYER = 4 * 4 * 4
"""Bytes of a layer's weights."""
ACTIVATION = 2 * 4 * 4
"""Bytes of a device's piece of a layer's input, of one micro-batch."""


def program(text: str = PAGED) -> Program:
    found, locations = parse_located(text)
    assert verify(found, locations) == ()
    return found


def test_the_clustertells_where_values_lie() -> None:
    assert show(program()) == PAGED


def test_where_values_lie_changes_no_bit() -> None:
    paged, plain = program(), program(in_one_memory(PAGED))
    assert {s.memory for s in paged.classes[0].states} == {"hbm", "host", "nvme"}
    runs = [Emulator(paged), Emulator(plain), RankExecutor(paged), RankExecutor(plain)]
    for step in range(3):
        batch = synthetic(paged.inputs, 0, step)
        losses = [run.step(batch, gradients=True).loss for run in runs]
        np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
        assert losses[0] == losses[1] and losses[2] == losses[3]
    for a, b in (runs[:2], runs[2:]):
        for name, x in {**a.weights(), **a.states()}.items():
            np.testing.assert_array_equal(x, {**b.weights(), **b.states()}[name])
            assert np.abs(x).sum() > 0


def test_any_backend_moves() -> None:
    paged = program(PAGED.replace("f32", "f64"))
    one, two = Emulator(paged), RankExecutor(paged, backend=Lists())
    batch = synthetic(paged.inputs, 0, 0)
    np.testing.assert_allclose(one.step(batch).loss, two.step(batch).loss, rtol=1e-12)
    np.testing.assert_allclose(one.weights()["w"], two.weights()["w"], rtol=1e-9)


def test_every_memory_to_the_byte() -> None:
    """In U new slices lie where the old ones did; each is there once more before it is copied there."""
    paged = program()
    use = memory_use(paged)[0]
    assert list(use) == ["hbm", "host", "nvme"]
    assert use["host"].bytes == max(3 * LAYER + 3 * ACTIVATION + ACTIVATION, 3 * LAYER + LAYER)
    assert use["nvme"].bytes == 3 * LAYER + LAYER
    assert use["nvme"].roles == {"optimizer": 3 * LAYER, "activation": LAYER}
    run = RankExecutor(paged)
    for step in range(2):
        run.step(synthetic(paged.inputs, 0, step))
    assert run.peaks[0] == [{memory: peak.bytes for memory, peak in use.items()}] * 2


def test_the_device_holds_a_layer_at_a_time() -> None:
    """With more layers, its memory grows by the gradients (and their sum over devices) only."""

    def need(layers: int, text: str) -> int:
        return memory_use(program(text.replace("block=3", f"block={layers}").replace("k 3", f"k {layers}")))[0][
            "hbm"
        ].bytes

    assert need(9, PAGED) - need(3, PAGED) == 2 * 6 * LAYER
    plain = in_one_memory(PAGED)
    assert need(9, plain) - need(3, plain) > 4 * 6 * LAYER


CLUSTER = """
use std.optimizers (sgd)

device npu {
  compute f32 10 TFLOP/s
  memory 8 GB, 1 TB/s
}

cluster pod {
  device d = npu
  level server = 2 d over 100 GB/s, 0 us
  host memory 1 TB, 60 GB/s over HOST GB/s
  nvme capacity 1 TB, 100 GB/s over NVME GB/s
}

model m {
  dim b = 2
  input x : f32[b]
  weight w[b]
  loss mean(x * w)
}

job fit {
  train m() on pod
  optimizer sgd(lr = 0.1)
  precision f32
}
"""


def seconds(host: float, nvme: float, text: str = PAGED) -> float:
    """A step of the program, in the large, on a cluster whose memories have these links (GB/s)."""
    cluster = CLUSTER.replace("HOST", str(host)).replace("NVME", str(nvme))
    compiled = compile_job(evaluate(Source("cluster.par", cluster)))
    assert compiled.job.cluster is not None
    large = text.replace("d=4", "d=2048").replace("e=4", "e=2048")
    return Simulation(program(large), compiled.job.cluster, compiled.training).run().step_seconds


SIZE = 2048 * 2048 * 4
"""Bytes of a layer's weights there."""


def test_moves_are_priced_by_the_links() -> None:
    """Twelve layers go to the device in F and B, three in U, and three back; three momenta each way in U. They are the
    slowest part by far. What is moved in goes one after the other, and beside it what is moved out: all but the last
    layer's, for which the last one's computation is waited."""
    slow, computing = seconds(2, 1), seconds(2, 1, in_one_memory(PAGED))
    layer, momentum = SIZE / 2e9, SIZE / 1e9
    moved_in = 15 * layer + 3 * momentum
    assert moved_in + layer + momentum < slow < moved_in + layer + momentum + computing
    assert seconds(1, 1) - slow == pytest.approx(16 * layer, rel=0.01)
    assert seconds(2, 0.5) - slow == pytest.approx(4 * momentum, rel=0.01)


def with_line(line: str, text: str) -> str:
    """The program with one more value of the update, behind `%m`."""
    return re.sub(r"(    %m: .* = read m\n)", rf"\1    {line}\n", text)


def test_the_way_between_two_other_memories_is_over_the_device() -> None:
    """It takes the link into the device and the one out of it, the slower one's time: beside neither direction."""
    twin = with_line("%m.twin: f32[block=3, d=4, e=4] in host = move %m from nvme to host", PAGED)
    assert seconds(2, 1, twin) - seconds(2, 1) == pytest.approx(3 * SIZE / 1e9, rel=0.02)


MOVED_ONLY = with_line("%m.twin: f32[block=3, d=4, e=4] in nvme = move %m from hbm to nvme", in_one_memory(PAGED))


@pytest.mark.parametrize(
    ("text", "memory"),
    [(PAGED, "nvme"), (PAGED.replace("nvme", "cxl"), "cxl"), (MOVED_ONLY, "nvme")],
    ids=["a state's", "one that parc does not know", "one that is moved to"],
)
def test_a_memory_that_the_cluster_lacks(text: str, memory: str) -> None:
    """An error at the cluster, which says what it has, and how it would have the other."""
    described = CLUSTER.replace("HOST", "2").replace("  nvme capacity 1 TB, 100 GB/s over NVME GB/s\n", "")
    compiled = compile_job(evaluate(Source("cluster.par", described)))
    cluster = compiled.job.cluster
    assert cluster is not None and list(cluster.tiers) == ["hbm", "host"]
    Simulation(program(in_one_memory(PAGED)), cluster, compiled.training).run()
    with pytest.raises(parc.ParcError) as raised:
        Simulation(program(text), cluster, compiled.training).run()
    (found,) = raised.value.diagnostics
    assert found.code == "E0412" and f"`{memory}`" in found.message and found.span == cluster.span
    assert (
        found.help is not None and "hbm, host" in found.help and ("nvme capacity" in found.help) == (memory == "nvme")
    )


def test_faster_links_than_a_device_s_share_of_the_memory_do_not_help() -> None:
    """Two devices have 60 GB/s of the host's memory together, and 100 of NVMe."""
    assert seconds(30, 50) == seconds(300, 500) < seconds(29, 50)


def test_moves_run_beside_computation() -> None:
    """In F and B a layer comes while the one before is computed; in U there is nothing to compute."""
    large = PAGED.replace("b=2/", "b=1024/").replace("b=8", "b=4096")
    in_update = 6 * SIZE / 30e9 + 6 * SIZE / 50e9
    moving = in_update + 12 * SIZE / 30e9 + 12 * 1024 * 2048 * 4 / 30e9
    added = seconds(30, 50, large) - seconds(30, 50, in_one_memory(large))
    assert in_update < added < 0.6 * moving


@pytest.mark.parametrize(
    ("source", "target", "rate"),
    [("hbm", "host", 5.0), ("host", "hbm", 5.0), ("host", "nvme", 2.0), ("host", "host", 10.0), ("hbm", "hbm", 100.0)],
)
def test_the_slowest_part_of_the_way_counts(source: str, target: str, rate: float) -> None:
    memories = {
        m.name: m for m in (Memory("hbm", 1, 100.0), Memory("host", 1, 40.0, 4, 5.0), Memory("nvme", 1, 8.0, 4))
    }
    assert move_rate(memories, source, target) == rate


BROKEN = {
    "a slice is read where it is not": ("contract %h, %w.here", "contract %h, %w.slice"),
    "a move from elsewhere": ("move %w.slice from host to hbm", "move %w.slice from nvme to hbm"),
    "a move to elsewhere": ("%h.away: f32[b=2/mb/dp, d=4] in host = move", "%h.away: f32[b=2/mb/dp, d=4] = move"),
    "a move that is none": ("= move %h from hbm to host", "= move %h from hbm to hbm"),
    "a read of another memory": ("in host = read w", "= read w"),
    "a write into another memory": ("= zeros in nvme", "= zeros in host"),
    "a save into another memory": (
        "saved h: f32[block=3, b=2/mb/dp, d=4] in host",
        "saved h: f32[block=3, b=2/mb/dp, d=4]",
    ),
    "a stack in another memory": ("%hs: f32[block=3, b=2/mb/dp, d=4] in host =", "%hs: f32[block=3, b=2/mb/dp, d=4] ="),
    "a parameter in another memory": ("in host each %w,\n    ) {", "each %w,\n    ) {"),
    "a result of a computation": ("%u: f32[b=2/mb/dp, e=4] = contract", "%u: f32[b=2/mb/dp, e=4] in host = contract"),
    "a carry that ends elsewhere": ("yield %next, %h.away", "yield %h.away, %h.away"),
    "an input": ("%x: f32[b=2/mb/dp, d=4] = input x", "%x: f32[b=2/mb/dp, d=4] in host = input x"),
}


@pytest.mark.parametrize(("old", "new"), BROKEN.values(), ids=BROKEN)
def test_values_are_read_where_they_lie(old: str, new: str) -> None:
    assert old in PAGED
    found = verify(*parse_located(PAGED.replace(old, new)))
    assert {d.code for d in found} == {"E0619"}


def test_memories_are_limits() -> None:
    paged = program()
    use = {memory: peak.bytes for memory, peak in memory_use(paged)[0].items()}
    Emulator(paged, use)
    for memory in use:
        with pytest.raises(parc.ParcError, match="E0701"):
            Emulator(paged, use | {memory: use[memory] - 1})
