"""What loops save for loops, slice by slice, and what is made again of it: the same as stacks, in less memory."""

from __future__ import annotations

import numpy as np
import pytest

import runtime.stacked.again as again
import runtime.stacked.emulator as emulator
from compiler.ops.effects import Load
from compiler.origin import Role
from compiler.program import Program
from compiler.text import parse_located
from runtime.data.synthetic import synthetic
from runtime.stacked import Emulator
from runtime.stacked.again import made_again
from runtime.stacked.early import added_early
from runtime.stacked.slices import saved_in_slices, slice_of
from tests.runtime import models
from tests.runtime.test_convolutions import resnet
from tests.runtime.test_executors import agree

CASES = [
    ("gpt", "dp=2 tp=2 zero=3 microbatches=2"),
    ("gpt", "pp=2 microbatches=4 cp=2 zero=1"),
    ("resnet", "layers=2 dp=2 sp=2 sx=2"),
]


def results(program: Program) -> dict[str, np.ndarray]:
    run = Emulator(program)
    found = run.step(synthetic(program.inputs, 0, 0), gradients=True)
    return {"": found.loss, **found.gradients, **{f"{n} then": w for n, w in run.weights().items()}}


@pytest.mark.parametrize(("job", "options"), CASES)
def test_the_same_as_stacks(job: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the order in which products add up, which goes by how their operands lie."""
    program = (models.double_gpt if job == "gpt" else resnet)(*options.split()).program
    left = 0
    for cls in added_early(program).classes:
        bodies = [f.body for f in cls.functions]
        sliced = saved_in_slices(bodies, cls.states)
        monkeypatch.setattr(again, "LARGE", 1)
        fewer = [n.op.name for b in made_again(bodies, sliced) for n in b.nodes if isinstance(n.op, Load)]
        every = [n.op.name for b in bodies for n in b.nodes if isinstance(n.op, Load)]
        left += len(every) - len(fewer)
        assert sliced and set(every) - set(fewer) <= sliced
    assert left
    found = results(program)
    monkeypatch.setattr(again, "LARGE", 1 << 60)
    kept = results(program)
    monkeypatch.setattr(emulator, "saved_in_slices", lambda *_: frozenset())
    stacks = results(program)
    for name, x in stacks.items():
        np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(kept[name], x, rtol=0, atol=1e-12)


def test_what_somebody_reads_as_a_whole_is_a_stack() -> None:
    """Weights, gradients, what the loss reads; of what is saved, all that loops make here is read by loops."""
    cls = models.gpt("dp=2").program.classes[0]
    sliced = saved_in_slices([f.body for f in cls.functions], cls.states)
    saved = {s.name: s for s in cls.states if s.role is Role.SAVED}
    assert sliced == {name for name, s in saved.items() if s.type.dims[0].name == "block"}


def test_a_small_part_is_copied_and_a_large_one_kept() -> None:
    whole = np.zeros((4, 1 << 15), np.float32)
    part = slice_of(whole[0])
    assert part.base is None and not np.shares_memory(part, whole)
    assert slice_of(whole[:3]).base is whole
    windows = np.lib.stride_tricks.sliding_window_view(whole, 3, 1)
    assert np.shares_memory(slice_of(windows), whole)


def test_slices_are_let_go_as_they_are_read() -> None:
    """The text of the backward pass forgets each as soon as it has it."""
    program = models.gpt("dp=2").program
    run = Emulator(program)
    stage = next(iter(run.groups.values())).stage
    texts = {name: f.text for (name, _), f in stage.functions.items()}
    assert "[None] * 2" in next(t for n, t in texts.items() if n == "F")
    backward = next(t for n, t in texts.items() if n == "B")
    loads = backward.count("g.saved.pop")
    assert 10 < backward.count("] = None") <= loads + 5


TWICE = """\
program twice
mesh (dp=2)
input x: f32[b=4]

stage 0: devices 0..1 {
  weight w: f32[block=3] = normal(1)
  loss loss: f32[]
  saved a: f32[block=3, b=2/dp]
  saved c: f32[block=3, b=2/dp]
  fn F {
    %x: f32[b=2/dp] = input x
    %w: f32[block=3] = read w
    %y: f32[b=2/dp], %all: f32[block=3, b=2/dp] = repeat block 3 (
      %x.in: f32[b=2/dp] = %x,
      %w.slice: f32[] each %w,
    ) {
      %z: f32[b=2/dp] = mul %x.in, %w.slice
      yield %z, %z
    }
    save %all as a
    save %all as c
  }
  fn B {
    %first: f32[block=3, b=2/dp] = load a
    %then: f32[block=3, b=2/dp] = load a last
    %other: f32[block=3, b=2/dp] = load c last
    %zero: f32[b=2/dp] = full 0.0
LOOPS    %loss.dp: f32[] pending(dp sum) = reduce %sum.other sum over b
    %loss: f32[] = all_reduce %loss.dp sum over dp
    accumulate %loss into loss
  }
  schedule {
    F[0]
    B[0]
  }
}
"""
LOOP = """\
    %sum.NAME: f32[b=2/dp] = repeat block 3 reverse (
      %c.NAME: f32[b=2/dp] = %START,
      %s.NAME: f32[b=2/dp] each %NAME,
    ) {
      %n.NAME: f32[b=2/dp] = add %c.NAME, %s.NAME
      yield %n.NAME
    }
"""


def test_each_who_has_a_list_has_one_of_its_own() -> None:
    """One value saved twice, one buffer loaded twice, in whatever order their loops let go of the slices."""
    starts = {"then": "zero", "first": "sum.then", "other": "sum.first"}
    loops = "".join(LOOP.replace("NAME", name).replace("START", start) for name, start in starts.items())
    program = parse_located(TWICE.replace("LOOPS", loops))[0]
    (cls,) = program.classes
    assert saved_in_slices([f.body for f in cls.functions], cls.states) == {"a", "c"}
    agree(program, 1e-6, steps=1)
