"""What loops save for loops, slice by slice, and what is made again of it: the same as stacks, in less memory."""

from __future__ import annotations

import numpy as np
import pytest

import runtime.stacked.again as again
import runtime.stacked.emulator as emulator
from compiler.ops.effects import Load
from compiler.origin import Role
from compiler.program import Program
from runtime.data.synthetic import synthetic
from runtime.stacked import Emulator
from runtime.stacked.again import made_again
from runtime.stacked.early import added_early
from runtime.stacked.slices import saved_in_slices, slice_of
from tests.runtime import models
from tests.runtime.test_convolutions import resnet

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
