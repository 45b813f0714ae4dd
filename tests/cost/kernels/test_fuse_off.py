"""`fuse off`: each instruction is a kernel that reads and writes all that it has, in time and in memory."""

from __future__ import annotations

import pytest

import parc
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import of_cluster
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled
from dsl.source import Source
from parc import api

FILE = """\
device card {
  compute f32 10 TFLOP/s
  memory 16 GiB, 1 TB/s
  launch 10 us
  efficiency vector 1
  efficiency host 0 us
  efficiency fixed 0 us
  efficiency fusion FUSION
  efficiency fused_attention FUSION
}

cluster pod(devices = 1) {
  device gpu = card
  level server = devices gpu over 300 GB/s, 2 us
}

model net {
  MODEL
}

strategy one for net {
  mesh (dp = 1)
  RULE
}

job run {
  infer net on pod using one
}
"""

CHAIN = """dim b = 1024, d = 1024
  input x : f32[b,d]
  y = exp(sigmoid(tanh(x)))
  output y"""

ATTENTION = """dim b = 2, s = 512, d = 512
  input x : f32[b,s,d]
  y = attention(x, 8)
  output y"""

MIB = 2**20


def compiled(rule: str, fusion: int, model: str = CHAIN) -> Compiled:
    text = FILE.replace("RULE", rule).replace("FUSION", str(fusion)).replace("MODEL", model)
    head = "use std.layers (attention)\n" if "attention" in model else ""
    return parc.compile(Source("main.par", head + text))


@pytest.mark.parametrize(
    ("rule", "fusion", "moved", "kernels", "stands"),
    [
        ("", 1, 8, 1, 8),  # x and y
        ("fuse off", 1, 24, 3, 12),  # three times one that is read and one that is written; x and two others at once
        ("", 0, 24, 3, 8),  # a stack that fuses nothing: of time alone, as its memory is not known to be more
        ("fuse off", 0, 24, 3, 12),
    ],
)
def test_each_instruction_is_a_kernel(rule: str, fusion: int, moved: int, kernels: int, stands: int) -> None:
    """Counted by hand, of three instructions on 4 MiB."""
    found = api.estimate(compiled(rule, fusion))
    assert found.timeline.step_seconds == pytest.approx(moved * MIB / 1e12 + kernels * 10e-6)
    assert found.systems.fullest.peak.bytes == stands * MIB
    assert ("the strategy without `fuse off`" in {h.what for h in found.helps}) == (moved > 8 and fusion == 1)


def test_attention_is_no_kernel_either() -> None:
    """Scores, and what the softmax makes of them, are written and read, as on a stack without fused attention."""
    on, off, bare = compiled("", 1, ATTENTION), compiled("fuse off", 1, ATTENTION), compiled("fuse off", 0, ATTENTION)
    scores = 2 * 8 * 512 * 512 * 4
    seconds = [Simulation.of(c).seconds() for c in (on, off, bare)]
    assert seconds[1] == seconds[2] > seconds[0] + 4 * scores / 1e12
    peaks = [Systems(c).fullest.peak.bytes for c in (on, off, bare)]
    assert peaks[1] == peaks[2] >= peaks[0] + scores
    assert on.job.cluster is not None and of_cluster(on.job.cluster).fusion == 1
