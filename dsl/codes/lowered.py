"""Lowered programs that the codes E06xx are shown in."""

from __future__ import annotations

ONE = """\
program fit
mesh (mb=2 time, dp=2, tp=2)
input x: f32[b=8, d=4]

stage 0: devices 0..3 {
  weight w: f32[d=4, f=3/tp of 5] = ones
  gradient w.grad: f32[d=4, f=3/tp of 5] pending(dp sum) of w
  loss loss: f32[]
  saved x: f32[b=2/mb/dp, d=4]
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w: f32[d=4, f=3/tp of 5] = read w
    %y: f32[b=2/mb/dp, f=3/tp of 5] = contract %x, %w
    %z: f32[b=2/mb/dp, f=3/tp of 5] = mask_pad %y f with 0.0
    %sum: f32[] pending(mb sum, dp sum, tp sum) = reduce %z sum over (b, f)
    %loss: f32[] pending(mb sum) = all_reduce %sum sum over (dp, tp)
    accumulate %loss into loss
    save %x as x
  }
  fn B {
    %x: f32[b=2/mb/dp, d=4] = load x last
    %dy: f32[b=2/mb/dp, f=3/tp of 5] = full 1.0
    %dw: f32[d=4, f=3/tp of 5] pending(mb sum, dp sum) = contract %x, %dy
    accumulate %dw into w.grad
  }
  fn U {
    %w: f32[d=4, f=3/tp of 5] = read w
    %g: f32[d=4, f=3/tp of 5] pending(dp sum) = read w.grad
    %g.sum: f32[d=4, f=3/tp of 5] = all_reduce %g sum over dp
    %step: f32[d=4, f=3/tp of 5] = mul 0.1, %g.sum
    %w.new: f32[d=4, f=3/tp of 5] = sub %w, %step
    write %w.new to w
  }
  schedule {
    for i in 0..2 { F[i] B[i] }
    U
  }
}
"""

_UPDATE = """\
    %step: f32[d=4, f=3/tp of 5] = mul 0.1, %g.sum
    %w.new: f32[d=4, f=3/tp of 5] = sub %w, %step
"""

FUSED = ONE.replace(_UPDATE, "    fuse {\n  " + _UPDATE.replace("\n    ", "\n      ") + "    }\n")

ENTRIES = (
    ONE.replace("\nstage 0:", "\nentry train_step(x) -> loss\n\nstage 0:")
    + """
entry evaluate(x) -> loss

stage 0: devices 0..3 {
  weight w: f32[d=4, f=3/tp of 5] = ones
  loss loss: f32[]
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w: f32[d=4, f=3/tp of 5] = read w
    %y: f32[b=2/mb/dp, f=3/tp of 5] = contract %x, %w
    %z: f32[b=2/mb/dp, f=3/tp of 5] = mask_pad %y f with 0.0
    %sum: f32[] pending(mb sum, dp sum, tp sum) = reduce %z sum over (b, f)
    %loss: f32[] pending(mb sum) = all_reduce %sum sum over (dp, tp)
    accumulate %loss into loss
  }
  schedule {
    F[0..2]
  }
}
"""
)

TWO = """\
program chain
mesh (mb=4 time, pp=2 place)
stages 2
input x: f32[b=4]

stage 0: devices 0 {
  report norm: f32[]
  fn F {
    %x: f32[b=1/mb] = input x
    send %x as y to 1
  }
  fn B {
    %g: f32[b=1/mb] = recv y.grad from 1
  }
  fn U {
    %one: f32[] = full 1.0
    %norm: f32[] = stage_reduce %one sum as norm among (0, 1)
    write %norm to norm
  }
  schedule {
    F[0]
    for i in 0..3 { F[i + 1] B[i] }
    B[3]
    U
  }
}

stage 1: devices 1 {
  report norm: f32[]
  fn F {
    %y: f32[b=1/mb] = recv y from -1
  }
  fn B {
    %g: f32[b=1/mb] = full 1.0
    send %g as y.grad to -1
  }
  fn U {
    %two: f32[] = full 2.0
    %norm: f32[] = stage_reduce %two sum as norm among (0, 1)
    write %norm to norm
  }
  schedule {
    for i in 0..4 { F[i] B[i] }
    U
  }
}
"""
