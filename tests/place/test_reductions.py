"""When gradients are summed over axes that do not split them: once in a step, or as they come if a rule says so."""

from __future__ import annotations

import pytest

from compiler.cost.price.kinds import Over
from compiler.cost.time.simulate import simulate
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.origin import Role
from compiler.program import FunctionPhase
from compiler.traffic import collectives
from compiler.verify import verify
from dsl.source import Source
from runtime.prove import prove
from tests.memory.measured import exact
from tests.place.test_effects import found

TEXT = """\
use std.devices (ascend910)
use std.layers (layer_norm, mlp)
use std.optimizers (adamw)
use std.tactics

model deep(layers = 4, hidden = 16) {
  dim b = 64, s = 4, d = hidden
  input x : f64[b,s,d]
  weight scale[d] ~ ones
  h = x * scale
  repeat layers as block {
    h = h + mlp(layer_norm(h), 2 * hidden)
  }
  loss mean(h * h) + mean(h * scale)
}

cluster pod(devices) {
  device npu = ascend910
  level server = devices npu over 30 GB/s, 1 us
}

strategy plan for deep {
  mesh (AXES)
  RULES
}

job fit {
  train deep on pod(DEVICES) using plan
  optimizer adamw(lr = 1e-3, clip = 1.0)
  precision f64, master f64
}
"""

REPLICAS = ("data_parallel(rep)", "data_parallel(dp)", "shard optimizer, gradients on dp")
AS_THEY_COME = "reduce gradients on rep per microbatch"


def compiled(axes: str, *rules: str) -> Compiled:
    sizes = [int(a.partition("=")[2]) for a in axes.split(",")]
    devices = 1
    for n in sizes:
        devices *= n
    text = TEXT.replace("AXES", axes).replace("RULES", "\n  ".join(rules)).replace("DEVICES", str(devices))
    return compile_job(evaluate(Source("t.par", text)))


def sent(of: Compiled, axis: str) -> dict[FunctionPhase, float]:
    """Bytes of gradients (all that is no scalar) that a device sends over the axis in a step, by function."""
    bytes: dict[FunctionPhase, float] = {}
    for c in collectives(of.program):
        if axis in c.axes and c.bytes / c.count > 2 * 8:  # a scalar sends less, on any number of devices
            bytes[c.phase] = bytes.get(c.phase, 0.0) + c.bytes
    return bytes


def proved(of: Compiled) -> None:
    assert verify(of.program) == ()
    proof = prove(of.training, of.program)
    assert proof.ok, proof.worst


def test_what_goes_over_replicas_does_not_depend_on_micro_batches() -> None:
    """The mesh of the issue: eight micro-batches send as much over `rep` as one, in the update; over `dp`, which splits
    the gradients, eight times as much."""
    once, many = (compiled("rep = 2, dp = 4", *REPLICAS, f"microbatches {n}") for n in (1, 8))
    assert sent(once, "rep") == sent(many, "rep") and set(sent(many, "rep")) == {FunctionPhase.UPDATE}
    assert sent(many, "dp")[FunctionPhase.BACKWARD] == 8 * sent(once, "dp")[FunctionPhase.BACKWARD] > 0
    come = [compiled("rep = 2, dp = 4", *REPLICAS, f"microbatches {n}", AS_THEY_COME) for n in (1, 8)]
    each = sent(once, "rep")[FunctionPhase.UPDATE]
    assert [sent(c, "rep") for c in come] == [{FunctionPhase.BACKWARD: n * each} for n in (1, 8)]


def test_all_gradients_go_over_replicas_once() -> None:
    """A ring's bytes of each stored piece, no more: 2 (n - 1) / n of them."""
    of = compiled("rep = 2, dp = 4", *REPLICAS, "microbatches 8")
    (cls,) = of.program.classes
    stored = [s for s in cls.states if s.role is Role.GRADIENT]
    assert all(s.layout.pending == (("rep", "sum"),) for s in stored)
    pieces = sum(s.type.bytes / (4 if "dp" in s.layout.split_axes else 1) for s in stored)
    assert sent(of, "rep") == {FunctionPhase.UPDATE: pieces}


PIPELINE = "pipeline block on pp, schedule {}(microbatches = 4)"


@pytest.mark.parametrize("come", [False, True], ids=["once", "as they come"])
@pytest.mark.parametrize(
    ("axes", "rules"),
    [
        ("rep = 2, dp = 2", (*REPLICAS, "microbatches 4")),
        ("rep = 2, dp = 2", ("data_parallel(rep)", "fsdp(dp)", "microbatches 2", "recompute block")),
        ("dp = 2, rep = 2", ("data_parallel(rep)", "fsdp(dp)")),
        ("rep = 2", ("data_parallel(rep)", "microbatches 4")),
        ("rep = 2, dp = 3", ("data_parallel(rep)", "shard optimizer, gradients on dp pad", "microbatches 2")),
        ("rep = 2, dp = 2, tp = 2", (*REPLICAS, "megatron(tp)", "microbatches 2")),
        ("rep = 2, tp = 2", ("data_parallel(rep)", "tensor_parallel(tp)", "shard gradients on tp", "microbatches 2")),
        ("pp = 2, rep = 2, dp = 2", (*REPLICAS, PIPELINE.format("one_f_one_b"))),
        ("pp = 2, rep = 2, dp = 2", ("data_parallel(rep)", "fsdp(dp)", PIPELINE.format("zero_bubble"))),
        ("rep = 2, dp = 2, pp = 2", (*REPLICAS, PIPELINE.format("gpipe"), "recompute block")),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else x,
)
def test_proved(axes: str, rules: tuple[str, ...], come: bool) -> None:
    of = compiled(axes, *rules, *([AS_THEY_COME] if come else []))
    assert set(sent(of, "rep")) <= ({FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS} if come else {FunctionPhase.UPDATE})
    assert sent(of, "rep")
    proved(of)


@pytest.mark.parametrize("more", [(), (AS_THEY_COME,)], ids=["once", "as they come"])
def test_memory_is_what_devices_measure(more: tuple[str, ...]) -> None:
    """A sum that waits takes no more room in its buffer than one that does not."""
    exact(compiled("rep = 2, dp = 2", *REPLICAS, "microbatches 2", *more).program)


def test_a_rule_may_be_of_some_weights() -> None:
    """The first rule that speaks of a weight counts."""
    rules = ("reduce gradients on rep per step in block.mlp.w1", "reduce gradients on rep per microbatch in block")
    of = compiled("rep = 2, dp = 2", *REPLICAS, "microbatches 2", *rules)
    (cls,) = of.program.classes
    waiting = {s.logical: s.layout.pending_on("rep") for s in cls.states if s.role is Role.GRADIENT}
    assert waiting["block.mlp.w1"] == waiting["scale"] == "sum"
    assert {waiting[w] for w in waiting if w not in ("block.mlp.w1", "scale")} == {None}
    proved(of)


def test_the_price_follows() -> None:
    """What goes over `rep` is priced once, not for each micro-batch; the step is the shorter for it."""
    once, come = (
        simulate(compiled("rep = 2, dp = 4", *REPLICAS, "microbatches 8", *more)) for more in ((), (AS_THEY_COME,))
    )
    assert come.traffic[Over(("rep",))] == pytest.approx(8 * once.traffic[Over(("rep",))], rel=1e-6)
    assert once.step_seconds < come.step_seconds


IDLE = {
    "shard gradients on dp\nreduce gradients on dp per microbatch": "all gradients are split on it",
    "split b on dp\nreduce gradients on tp per step": "no gradient is a sum over it",
    "split b on dp\nreduce gradients on dp per step\nreduce gradients on dp per microbatch in first": "earlier rules",
    "split b on dp\nreduce gradients on dp per step in x": "no gradient in `x` is a sum over it",
}


@pytest.mark.parametrize("rules", IDLE)
def test_rules_that_change_nothing(rules: str) -> None:
    (one,) = found(rules, 2, 2)
    assert one.code == "E0542" and IDLE[rules] in one.message, one
