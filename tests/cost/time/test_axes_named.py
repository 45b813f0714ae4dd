"""A group of devices has one name, in all that is told of messages: its axes in the order of the mesh."""

from __future__ import annotations

import parc
from compiler.cost.time.simulate import Simulation
from compiler.traffic import collectives, messages
from dsl.source import Source

TEXT = """use std.devices (a100_80)
use std.layers (layer_norm, mlp)
use std.optimizers (adamw)

model m {
  dim b = 12, s = 6, d = 12
  input x : f32[b,s,d]
  repeat 2 as block {
    x = x + mlp(layer_norm(x), 24)
  }
  loss mean(x * x)
}

cluster pod {
  device gpu = a100_80
  level server = 12 gpu over 300 GB/s, 1 us
}

strategy plan for m {
  mesh (a = 2, c = 3, e = 2)
  split b on a
  split b on c
  split b on e
  shard optimizer on c
  shard optimizer, gradients on a
  shard optimizer, gradients, weights on e pad
}

job fit {
  train m on pod using plan
  optimizer adamw(lr = 1e-3, clip = 1.0)
  precision f32
}
"""
AXES = ("a", "c", "e")


def test_one_name_per_group_of_devices() -> None:
    compiled = parc.compile(Source("axes.par", TEXT))
    program = compiled.program
    ops = [i.op for c in program.classes for f in c.functions for i in f.body.nodes]
    written = {getattr(op, "axes", ()) for op in ops}
    assert any(list(axes) != sorted(axes) for axes in written), "else this test cannot fail"

    sent = {m.axes for c in program.classes for f in c.functions for m in messages(f.body, program.sizes)}
    ran = parc.run(Source("axes.par", TEXT), steps=1)
    simulation = Simulation.of(compiled)
    timeline = simulation.run()
    told = [
        {"+".join(axes) for axes in sent},
        {"+".join(c.axes) for c in collectives(program)},
        {"+".join(t.axes) for t in ran.traffic},
        set(timeline.traffic),
        set(timeline.exposed_by_axis),
        {link.axes for spent in timeline.spent for link in spent.links},
        {axes for axes in {p.axes for pieces in simulation.record().values() for p in pieces} if axes},
    ]
    for found in told:
        assert all([a for a in AXES if a in name.split("+")] == name.split("+") for name in found - {"", "copy"}), found
    assert told[0] == told[1] == told[2] == told[3]
