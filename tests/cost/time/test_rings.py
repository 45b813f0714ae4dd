"""What goes round a ring does so on a stream of its own: beside computation, as far as nothing reads it."""

from __future__ import annotations

import pytest

from compiler.cost.kernels.work import Collective
from compiler.cost.price.calibration import Calibration
from compiler.cost.time.simulate import Simulation
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from dsl.source import Source

# The messages of activations are dear at SPEED, and free where links are as quick as memory.
TEXT = """use std.devices (a100_80)
use std.implementations (overlapped_mlp, sequence_parallel_mlp, ring_attention)
use std.layers (attention, mlp)
use std.optimizers (sgd)

cluster pod {
  device gpu = a100_80
  level server = 4 gpu over SPEED GB/s, 2 us
}

model net() {
  dim b = 4, s = LONG, d = 2048
  input y0 : compute[b,s,d]
  y = y0
  repeat 4 as block {
    y = y + 0.5 * LAYER
  }
  loss mean(y * y)
}

strategy plan for net {
  mesh (tp = 4)
  split s on tp for activations
  implement block.NAME by FN(tp)
}

job fit {
  train net() on pod using plan
  optimizer sgd(lr = 0.1)
  precision bf16, master f32
}
"""
LAYERS = {"mlp": ("mlp(y, 8192)", 2048), "attention": ("attention(y, 16)", 16384)}
"""The call, and how many positions there are."""
ALONE = Calibration(slowdown=0.0)
"""Kernels take as long beside messages as without."""


def simulation(fn: str, speed: float) -> Simulation:
    name = next(n for n in LAYERS if n in fn)
    call, positions = LAYERS[name]
    text = TEXT.replace("LAYER", call).replace("LONG", str(positions)).replace("SPEED", str(speed))
    text = text.replace("NAME", name).replace("FN", fn)
    return Simulation.of(compile_job(evaluate(Source("ring.par", text))))


def messages(s: Simulation) -> float:
    """Seconds of all messages of activations, one after the other."""
    pricer = s.pricer(ALONE)
    found = 0
    for part in s.features.parts[0].values():
        for node, times in part.each():
            if isinstance(node.work, Collective) and node.work.role == "activations":
                found += times * pricer.price(node.work, False).ps
    return found / 1e12


@pytest.mark.parametrize("fn", ["overlapped_mlp", "ring_attention"])
def test_nothing_waits_for_it_but_what_reads_it(fn: str) -> None:
    """All but the first and the last of a ring come while a device computes; and links are no quicker for that."""
    quick, slow, free = (simulation(fn, speed) for speed in (100, 2, 10**6))
    seconds, waited = quick.seconds(ALONE), quick.run(ALONE).exposed_by_axis["tp"]
    assert 0 < waited < 0.5 * messages(quick)
    assert seconds < free.seconds(ALONE) + 0.5 * messages(quick)
    assert slow.seconds(ALONE) > messages(slow) > 3 * seconds


def test_in_pieces_that_overlap_less_is_waited_for() -> None:
    """Than where everything is gathered before; at any speed of links at which messages take their time."""
    for speed in (20, 50, 100):
        pieces, whole = (simulation(fn, speed) for fn in ("overlapped_mlp", "sequence_parallel_mlp"))
        assert pieces.run(ALONE).exposed_by_axis["tp"] < 0.8 * whole.run(ALONE).exposed_by_axis["tp"]
    assert messages(whole) == pytest.approx(whole.run(ALONE).exposed_by_axis["tp"], rel=0.05)
