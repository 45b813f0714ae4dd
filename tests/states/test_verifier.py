"""Programs whose states are handled wrongly are refused."""

from __future__ import annotations

import pytest

from compiler.text import parse_program
from compiler.verify import verify

PROGRAM = """\
program fit
mesh (mb=2 time, dp=2)
input x: f32[b=8, d=4]

stage 0: devices 0..1 {
  weight w: f32[d=4] = ones
  gradient w.grad: f32[d=4] pending(dp sum) of w
  counter step: int32[] = zeros
  loss loss: f32[]
  state kept: f32[b=2/mb/dp, d=4] = zeros
  state at: int32[] = zeros
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %kept: f32[b=2/mb/dp, d=4] = read kept
    %at: int32[] = read at
    %w: f32[d=4] = read w
    %y: f32[b=2/mb/dp, d=4] = mul %x, %w
    %z: f32[b=2/mb/dp, d=4] = add %y, %kept
    %next: int32[] = add %at, 1
    %sum: f32[] pending(mb sum, dp sum) = reduce %z sum over (b, d)
    %loss: f32[] pending(mb sum) = all_reduce %sum sum over dp
    accumulate %loss into loss
    write %z to kept
    write %next to at
  }
  fn B {
    %x: f32[b=2/mb/dp, d=4] = input x
    %g: f32[d=4] pending(mb sum, dp sum) = reduce %x sum over b
    accumulate %g into w.grad
  }
  fn U {
    %g: f32[d=4] pending(dp sum) = read w.grad
    %w: f32[d=4] = read w
    %step: int32[] = read step
    %next: int32[] = add %step, 1
    %all: f32[d=4] = all_reduce %g sum over dp
    %new: f32[d=4] = sub %w, %all
    write %new to w
    write %next to step
  }
  schedule {
    for i in 0..2 { F[i] B[i] }
    U
  }
}
"""

WRONG = [
    # a backward pass reads what the next micro-batch's forward pass may have renewed
    ("E0620", "  fn B {\n", "  fn B {\n    %at: int32[] = read at\n"),
    # an update renews it
    ("E0620", "    write %new to w\n", "    write %new to w\n    write %next to at\n"),
    # it is renewed twice
    ("E0623", "    write %next to at\n  }\n  fn B", "    write %next to at\n    write %next to at\n  }\n  fn B"),
    # it is read behind that
    (
        "E0624",
        "    write %next to at\n  }\n  fn B",
        "    write %next to at\n    %again: int32[] = read at\n  }\n  fn B",
    ),
    # with sums that nobody has added up
    ("E0615", "state at: int32[]", "state at: int32[] pending(dp sum)"),
    # in another layout
    ("E0621", "state kept: f32[b=2/mb/dp, d=4]", "state kept: f32[b=4/dp, d=4]"),
    # micro-batches out of order
    ("E0641", "for i in 0..2 { F[i] B[i] }", "F[1..2]\n    F[0..1]\n    B[0..2]"),
]


def test_the_program_is_legal() -> None:
    assert not verify(parse_program(PROGRAM))


@pytest.mark.parametrize(("code", "old", "new"), WRONG)
def test_it_is_refused(code: str, old: str, new: str) -> None:
    assert PROGRAM.count(old) == 1
    assert code in {d.code for d in verify(parse_program(PROGRAM.replace(old, new)))}
