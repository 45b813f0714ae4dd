"""Ring attention on 8 devices at 16,384 positions, held against the serial program in blocks of rows.

Both take one step of one attention of one head in f32, of the same weights and data: the ring with pieces in order and
in zig-zag order, the serial program with 512 queries at a time, so that no 16,384 x 16,384 scores stand anywhere. What
is compared is the loss and every weight behind the step; what a device's memory is, at its fullest, is held against
inputs, weights, gradients, what is saved for the backward pass, and one block of scores.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import parc
from compiler.layout import local_type
from compiler.memory.peak import most
from compiler.origin import Role
from compiler.program import Program
from dsl.source import Source
from runtime.data.synthetic import synthetic
from runtime.stacked import Emulator

DEVICES, BOUND = 8, 1.15
KEPT = (Role.WEIGHT, Role.GRADIENT, Role.SAVED)

FILE = """
use std.implementations (blocked_attention, ring_attention)
use std.layers (attention)
use std.optimizers (sgd)

model net {{
  dim b = 1, s = {positions}, d = {width}
  input x0 : f32[b,s,d]
  weight first[d] ~ ones
  x = x0 * first
  y = x + attention(x, {heads}, causal = true)
  loss mean(y * y)
}}

strategy plan for net {{
  {rules}
}}

job fit {{
  train net using plan
  optimizer sgd(lr = 10.0)
}}
"""
RING = """mesh (cp = 8)
  split s on cp{order} for activations
  implement attention by ring_attention(cp)"""
SERIAL = """mesh (one = 1)
  recompute attention
  implement attention by blocked_attention({rows})"""


def program(positions: int, rules: str, width: int = 32, heads: int = 1) -> Program:
    """The step of one attention under these rules."""
    text = FILE.format(positions=positions, width=width, heads=heads, rules=rules)
    return parc.compile(Source("ring.par", text)).program


def ratio(p: Program, positions: int, width: int = 32, heads: int = 1, halves: bool = False) -> float:
    """A device's memory at its fullest, over that of what has to be there and one block of scores."""
    (cls,) = p.entries[0].classes
    there = sum(local_type(s.type, s.layout, p.sizes).bytes for s in cls.states if s.role in KEPT)
    piece = positions // DEVICES
    block = heads * (piece // 2 if halves else piece) ** 2
    return most(p)["hbm"] / (there + 4 * (piece * width + block))


def main() -> None:
    """Both orders, at the size that is asked for."""
    positions = int(sys.argv[1]) if len(sys.argv) > 1 else 16_384
    wanted = program(positions, SERIAL.format(rows=min(512, positions)))
    batch = synthetic(wanted.inputs, 0, 0)
    serial = Emulator(wanted)
    loss = float(np.asarray(serial.step(batch).loss))
    bad = False
    for order in ("", " zigzag"):
        p = program(positions, RING.format(order=order))
        start = time.process_time()
        ring = Emulator(p)
        found = float(np.asarray(ring.step(batch).loss))
        seconds = time.process_time() - start
        before = Emulator(p).weights()
        moved = {n: np.abs(w - before[n]).max() for n, w in serial.weights().items()}
        far = max(np.abs(w - ring.weights()[n]).max() / max(moved[n], 1e-30) for n, w in serial.weights().items())
        of = ratio(p, positions, halves=bool(order))
        bad |= not (abs(found / loss - 1) < 1e-5 and far < 1e-3 and of <= BOUND)
        print(
            f"{order or 'in order':>9}: loss {found:.7g} ({loss:.7g}), steps of weights differ by {far:.1e}, ", end=""
        )
        print(f"memory {of:.3f} (at most {BOUND}), {seconds:.1f} s")
    sys.exit(bad)


if __name__ == "__main__":
    main()
