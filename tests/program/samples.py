"""Small legal programs as text. Tests break them by editing lines."""

from __future__ import annotations

import re

PIPELINE = """\
program two_stages
mesh (mb=4 time, pp=2 place, dp=2, tp=2)
stages 2
input x: f32[b=16, d=4]

stage 0: devices 0..3 {
  weight w1: f32[d=4, f=4/tp] = normal(0.5)
  weight w2: f32[f=4/tp, d=4] = normal(0.5)
  gradient w1.grad: f32[d=4, f=4/tp] pending(dp sum) of w1
  gradient w2.grad: f32[f=4/tp, d=4] pending(dp sum) of w2
  saved x.saved: f32[b=2/mb/dp, d=4]
  saved u.saved: f32[b=2/mb/dp, f=4/tp]
  report norm: f32[]
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w1: f32[d=4, f=4/tp] = read w1
    %w2: f32[f=4/tp, d=4] = read w2
    %u: f32[b=2/mb/dp, f=4/tp] = contract %x, %w1
    %h: f32[b=2/mb/dp, f=4/tp] = relu %u
    %p: f32[b=2/mb/dp, d=4] pending(tp sum) = contract %h, %w2
    %y: f32[b=2/mb/dp, d=4] = all_reduce %p sum over tp
    send %y as y to 1
    save %x as x.saved
    save %u as u.saved
  }
  fn B {
    %dy: f32[b=2/mb/dp, d=4] = recv y.grad from 1
    %x: f32[b=2/mb/dp, d=4] = load x.saved last
    %u: f32[b=2/mb/dp, f=4/tp] = load u.saved last
    %w2: f32[f=4/tp, d=4] = read w2
    %h: f32[b=2/mb/dp, f=4/tp] = relu %u
    %dw2: f32[f=4/tp, d=4] pending(mb sum, dp sum) = contract %h, %dy
    accumulate %dw2 into w2.grad
    %dh: f32[b=2/mb/dp, f=4/tp] = contract %dy, %w2
    %on: bool[b=2/mb/dp, f=4/tp] = gt %u, 0.0
    %du: f32[b=2/mb/dp, f=4/tp] = where %on, %dh, 0.0
    %dw1: f32[d=4, f=4/tp] pending(mb sum, dp sum) = contract %x, %du
    accumulate %dw1 into w1.grad
  }
  fn U {
    %w1: f32[d=4, f=4/tp] = read w1
    %g1: f32[d=4, f=4/tp] pending(dp sum) = read w1.grad
    %g1.sum: f32[d=2/dp, f=4/tp] = reduce_scatter %g1 sum into d over dp
    %w1.part: f32[d=2/dp, f=4/tp] = shard %w1 d over dp
    %step1: f32[d=2/dp, f=4/tp] = mul 0.1, %g1.sum
    %w1.new.part: f32[d=2/dp, f=4/tp] = sub %w1.part, %step1
    %w1.new: f32[d=4, f=4/tp] = all_gather %w1.new.part d over dp
    %w2: f32[f=4/tp, d=4] = read w2
    %g2: f32[f=4/tp, d=4] pending(dp sum) = read w2.grad
    %g2.sum: f32[f=4/tp, d=4] = all_reduce %g2 sum over dp
    %step2: f32[f=4/tp, d=4] = mul 0.1, %g2.sum
    %w2.new: f32[f=4/tp, d=4] = sub %w2, %step2
    %square: f32[f=4/tp, d=4] = mul %g2.sum, %g2.sum
    %total: f32[] pending(tp sum) = reduce %square sum over (f, d)
    %whole: f32[] = all_reduce %total sum over tp
    %norm: f32[] = stage_reduce %whole sum as norm among (0, 1)
    write %w1.new to w1
    write %w2.new to w2
    write %norm to norm
  }
  schedule {
    F[0]
    for i in 0..3 { F[i + 1] B[i] }
    B[3]
    U
  }
}

stage 1: devices 4..7 {
  weight w3: f32[d=4] = ones
  gradient w3.grad: f32[d=4] pending(dp sum) of w3
  loss loss: f32[]
  report norm: f32[]
  saved y.saved: f32[b=2/mb/dp, d=4]
  fn F {
    %y: f32[b=2/mb/dp, d=4] = recv y from -1
    %w3: f32[d=4] = read w3
    %o: f32[b=2/mb/dp] = contract %y, %w3
    %s: f32[] pending(mb sum, dp sum) = reduce %o sum over b
    %mean: f32[] pending(mb sum, dp sum) = mul %s, 0.0625
    %l: f32[] pending(mb sum) = all_reduce %mean sum over dp
    accumulate %l into loss
    save %y as y.saved
  }
  fn B {
    %y: f32[b=2/mb/dp, d=4] = load y.saved last
    %w3: f32[d=4] = read w3
    %do: f32[b=2/mb/dp] = full 0.0625
    %dw3: f32[d=4] pending(mb sum, dp sum) = contract %do, %y
    accumulate %dw3 into w3.grad
    %dy: f32[b=2/mb/dp, d=4] = mul %do, %w3
    send %dy as y.grad to -1
  }
  fn U {
    %w3: f32[d=4] = read w3
    %g3: f32[d=4] pending(dp sum) = read w3.grad
    %g3.sum: f32[d=4] = all_reduce %g3 sum over dp
    %step3: f32[d=4] = mul 0.1, %g3.sum
    %w3.new: f32[d=4] = sub %w3, %step3
    %square: f32[d=4] = mul %g3.sum, %g3.sum
    %whole: f32[] = reduce %square sum over d
    %norm: f32[] = stage_reduce %whole sum as norm among (0, 1)
    write %w3.new to w3
    write %norm to norm
  }
  schedule {
    for i in 0..4 { F[i] B[i] }
    U
  }
}
"""

BATCH = """\
program counted
mesh (mb=2 time, dp=2)
input x: f32[b=8, d=4]
input m: f32[b=8]

stage 0: devices 0..1 {
  weight w: f32[d=4] = ones
  gradient w.grad: f32[d=4] pending(dp sum) of w
  statistic mean.parts: f32[] pending(dp sum)
  statistic mean: f32[]
  statistic far.parts: f32[] pending(dp max)
  statistic far: f32[]
  statistic most: f32[] pending(dp max)
  loss loss: f32[]
  metric ratio: f32[]
  fn P {
    %m: f32[b=2/mb/dp] = input m
    %sum: f32[] pending(mb sum, dp sum) = reduce %m sum over b
    accumulate %sum into mean.parts
  }
  fn S {
    %parts: f32[] pending(dp sum) = read mean.parts
    %whole: f32[] = all_reduce %parts sum over dp
    %mean: f32[] = div %whole, 8.0
    accumulate %mean into mean
  }
  fn P.1 {
    %m: f32[b=2/mb/dp] = input m
    %mean: f32[] = read mean
    %all: f32[b=2/mb/dp] = broadcast %mean
    %off: f32[b=2/mb/dp] = sub %m, %all
    %max: f32[] pending(mb max, dp max) = reduce %off max over b
    accumulate %max into far.parts
  }
  fn S.1 {
    %parts: f32[] pending(dp max) = read far.parts
    %far: f32[] = all_reduce %parts max over dp
    accumulate %far into far
  }
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w: f32[d=4] = read w
    %far: f32[] = read far
    %y: f32[b=2/mb/dp] = contract %x, %w
    %most: f32[] pending(mb max, dp max) = reduce %y max over b
    %sum: f32[] pending(mb sum, dp sum) = reduce %y sum over b
    %l: f32[] pending(mb sum, dp sum) = div %sum, %far
    %loss: f32[] pending(mb sum) = all_reduce %l sum over dp
    accumulate %loss into loss
    accumulate %most into most
  }
  fn B {
    %x: f32[b=2/mb/dp, d=4] = input x
    %far: f32[] = read far
    %one: f32[] = full 1.0
    %part: f32[] = div %one, %far
    %rows: f32[b=2/mb/dp] = broadcast %part
    %dw: f32[d=4] pending(mb sum, dp sum) = contract %rows, %x
    accumulate %dw into w.grad
  }
  fn E {
    %parts: f32[] pending(dp max) = read most
    %most: f32[] = all_reduce %parts max over dp
    %mean: f32[] = read mean
    %ratio: f32[] = div %most, %mean
    accumulate %ratio into ratio
  }
  fn U {
    %w: f32[d=4] = read w
    %g: f32[d=4] pending(dp sum) = read w.grad
    %sum: f32[d=4] = all_reduce %g sum over dp
    %new: f32[d=4] = sub %w, %sum
    write %new to w
  }
  schedule {
    P[0..2]
    S[0]
    P.1[0..2]
    S.1[0]
    for i in 0..2 { F[i] B[i] }
    E[0]
    U
  }
}
"""
"""Statistics of data in two rounds, and a metric that is made at the end of the step."""

LAYERS = """\
program layers
mesh (dp=2, tp=2)
input x: f32[b=4, s=6, v=7]

stage 0: devices 0..3 {
  weight w: f32[block=3, v=7, k=2] = normal(0.1)
  loss loss: f32[]
  counter n: int32[] = constant(1)
  fn F {
    %x: f32[b=2/dp, s=3/tp, v=7] = input x
    %w: f32[block=3, v=7, k=2] = read w
    %x.moved: f32[b=2/dp, s=6, v=4/tp of 7] = all_to_all %x from s to v over tp
    %x.back: f32[b=2/dp, s=3/tp, v=7] = all_to_all %x.moved from v to s over tp
    %i: int32[block=3] = iota
    %y: f32[b=2/dp, s=3/tp, v=7], %rows: f32[block=3, b=2/dp] pending(tp sum) = repeat block 3 (
      %c: f32[b=2/dp, s=3/tp, v=7] = %x.back,
      %w.slice: f32[v=7, k=2] each %w,
      %at: int32[] each %i,
      %keep: f32[b=2/dp, s=3/tp, v=7] with %x,
    ) {
      %t: f32[b=2/dp, s=3/tp, k=2] = contract %c, %w.slice
      %inner: f32[b=2/dp, s=3/tp, k=2] = repeat again 2 reverse (
        %e: f32[b=2/dp, s=3/tp, k=2] = %t,
      ) {
        %e.next: f32[b=2/dp, s=3/tp, k=2] = tanh %e
        yield %e.next
      }
      %z: f32[b=2/dp, s=3/tp, v=7] = contract %inner, %w.slice
      %c.next: f32[b=2/dp, s=3/tp, v=7] = add %z, %keep
      %row: f32[b=2/dp] pending(tp sum) = reduce %t sum over (s, k)
      yield %c.next, %row
    }
    %part: f32[b=2/dp, s=6, v=4/tp of 7] = all_to_all %y from s to v over tp
    %power: f32[b=2/dp, s=6, v=4/tp of 7] = exp %part
    %masked: f32[b=2/dp, s=6, v=4/tp of 7] = mask_pad %power v with 0.0
    %sum: f32[] pending(dp sum, tp sum) = reduce %masked sum over (b, s, v)
    %low: f32[b=2/dp, s=6, v=4/tp of 7] = mask_pad %power v with -inf
    %max: f32[b=2/dp, s=6] pending(tp max) = reduce %low max over v
    %top: f32[b=2/dp, s=6] = all_reduce %max max over tp
    %top.sum: f32[] pending(dp sum) = reduce %top sum over (b, s)
    %once: f32[] pending(dp sum, tp sum) = only_first %top.sum over tp
    %both: f32[] pending(dp sum, tp sum) = add %sum, %once
    %rows.sum: f32[] pending(dp sum, tp sum) = reduce %rows sum over (block, b)
    %wide: f32[b=2/dp, s=5/tp halo(1, 1), v=7] = halo %y s over tp left 1 right 1 with 0.0
    %win: f32[b=2/dp, o=3/tp, k=3, v=7] = window %wide dim s out o=6 kernel k=3 stride 1 pad 1 fill 0.0
    %fold: f32[b=2/dp, s=5/tp halo(1, 1), v=7] = fold %win out o kernel k dim s=6 stride 1 pad 1
    %joined: f32[b=2/dp, s=3/tp, v=7] = halo_add %fold s over tp left 1 right 1
    %joined.sum: f32[] pending(dp sum, tp sum) = reduce %joined sum over (b, s, v)
    %more: f32[] pending(dp sum, tp sum) = add %both, %joined.sum
    %all: f32[] pending(dp sum, tp sum) = add %more, %rows.sum
    %loss: f32[] = all_reduce %all sum over (dp, tp)
    accumulate %loss into loss
  }
  fn U {
    %w: f32[block=3, v=7, k=2] = read w
    %n: int32[] = read n
    %n.next: int32[] = add %n, 1
    write %w to w
    write %n.next to n
  }
  schedule {
    F[0]
    U
  }
}
"""

PAGED = """\
program paged
mesh (mb=2 time, dp=2)
input x: f32[b=8, d=4]

stage 0: devices 0..1 {
  weight w: f32[block=3, d=4, e=4] = normal(0.5) in host
  gradient w.grad: f32[block=3, d=4, e=4] pending(dp sum) of w
  optimizer m: f32[block=3, d=4, e=4] = zeros in nvme
  loss loss: f32[]
  saved h: f32[block=3, b=2/mb/dp, d=4] in host
  fn F {
    %x: f32[b=2/mb/dp, d=4] = input x
    %w: f32[block=3, d=4, e=4] in host = read w
    %y: f32[b=2/mb/dp, d=4], %hs: f32[block=3, b=2/mb/dp, d=4] in host = repeat block 3 (
      %h: f32[b=2/mb/dp, d=4] = %x,
      %w.slice: f32[d=4, e=4] in host each %w,
    ) {
      %w.here: f32[d=4, e=4] = move %w.slice from host to hbm ahead 1
      %h.away: f32[b=2/mb/dp, d=4] in host = move %h from hbm to host
      %u: f32[b=2/mb/dp, e=4] = contract %h, %w.here
      %t: f32[b=2/mb/dp, e=4] = tanh %u
      %next: f32[b=2/mb/dp, d=4] = rename %t e -> d
      yield %next, %h.away
    }
    %sum: f32[] pending(mb sum, dp sum) = reduce %y sum over (b, d)
    %loss: f32[] pending(mb sum) = all_reduce %sum sum over dp
    accumulate %loss into loss
    save %hs as h
  }
  fn B {
    %hs: f32[block=3, b=2/mb/dp, d=4] in host = load h last
    %w: f32[block=3, d=4, e=4] in host = read w
    %dy: f32[b=2/mb/dp, d=4] = full 1.0
    %dx: f32[b=2/mb/dp, d=4], %dw: f32[block=3, d=4, e=4] pending(mb sum, dp sum) = repeat block 3 reverse (
      %g: f32[b=2/mb/dp, d=4] = %dy,
      %w.slice: f32[d=4, e=4] in host each %w,
      %h.slice: f32[b=2/mb/dp, d=4] in host each %hs,
    ) {
      %w.here: f32[d=4, e=4] = move %w.slice from host to hbm ahead 1
      %h: f32[b=2/mb/dp, d=4] = move %h.slice from host to hbm ahead 1
      %u: f32[b=2/mb/dp, e=4] again = contract %h, %w.here
      %t: f32[b=2/mb/dp, e=4] again = tanh %u
      %square: f32[b=2/mb/dp, e=4] = mul %t, %t
      %slope: f32[b=2/mb/dp, e=4] = sub 1.0, %square
      %g.e: f32[b=2/mb/dp, e=4] = rename %g d -> e
      %du: f32[b=2/mb/dp, e=4] = mul %g.e, %slope
      %dw.slice: f32[d=4, e=4] pending(mb sum, dp sum) = contract %h, %du
      %g.next: f32[b=2/mb/dp, d=4] = contract %du, %w.here
      yield %g.next, %dw.slice
    }
    accumulate %dw into w.grad
  }
  fn U {
    %g: f32[block=3, d=4, e=4] pending(dp sum) = read w.grad
    %g.sum: f32[block=3, d=4, e=4] = all_reduce %g sum over dp
    %w: f32[block=3, d=4, e=4] in host = read w
    %m: f32[block=3, d=4, e=4] in nvme = read m
    %w.new: f32[block=3, d=4, e=4] in host, %m.new: f32[block=3, d=4, e=4] in nvme = repeat block 3 (
      %w.slice: f32[d=4, e=4] in host each %w,
      %m.slice: f32[d=4, e=4] in nvme each %m,
      %g.slice: f32[d=4, e=4] each %g.sum,
    ) {
      %w.here: f32[d=4, e=4] = move %w.slice from host to hbm ahead 1
      %m.here: f32[d=4, e=4] = move %m.slice from nvme to hbm ahead 1
      %decayed: f32[d=4, e=4] = mul 0.9, %m.here
      %m.next: f32[d=4, e=4] = add %decayed, %g.slice
      %step: f32[d=4, e=4] = mul 0.1, %m.next
      %w.next: f32[d=4, e=4] = sub %w.here, %step
      %w.away: f32[d=4, e=4] in host = move %w.next from hbm to host
      %m.away: f32[d=4, e=4] in nvme = move %m.next from hbm to nvme
      yield %w.away, %m.away
    }
    write %w.new to w
    write %m.new to m
  }
  schedule {
    for i in 0..2 { F[i] B[i] }
    U
  }
}
"""
"""Weights and what is saved stay in the host's memory, momenta on NVMe: loops bring a layer at a time."""


def in_one_memory(text: str) -> str:
    """The same program with everything in the devices' own memory."""
    return re.sub(
        r"= move (%\S+) from \w+ to \w+( ahead \d+)?", r"= stop_gradient \1", re.sub(r" in (host|nvme)\b", "", text)
    )


def pair(name: str, *instructions: str) -> str:
    """The program of one forward pass on two devices, which adds up the loss `%total` of an input `x` of f32."""
    lines = "\n".join(f"    {line}" for line in instructions)
    return f"""\
program {name}
mesh (dp=2)
input x: f32[b=4]

stage 0: devices 0..1 {{
  loss loss: f32[]
  fn F {{
    %x: f32[b=2/dp] = input x
{lines}
    accumulate %total into loss
  }}
  schedule {{
    F[0]
  }}
}}
"""
