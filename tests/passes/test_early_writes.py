"""The update writes a weight and its states as soon as nobody needs the old ones."""

from __future__ import annotations

from pathlib import Path

import pytest

import parc
from compiler.memory.peak import memory_use
from compiler.ops.effects import Read, Write
from compiler.program import Program
from compiler.verify import verify
from dsl.source import Source

EXAMPLES = Path(__file__).parents[2] / "examples"

MANY = """\
use std.optimizers (adamw)

model many(count = 8) {
  dim b = 2, d = 64, e = 64
  input x : f32[b,d]
  loss mean(LOSS)
}

job fit {
  train many
  optimizer adamw(lr = 0.1, clip = 1.0)
}
"""


def many(count: int) -> Program:
    """A sum of products with `count` equal weights."""
    names = [f"w{i}" for i in range(count)]
    declared = f"  weight {', '.join(f'{n}[d,e]' for n in names)}\n  loss"
    text = MANY.replace("  loss", declared).replace("LOSS", " + ".join(f"x @ {n}" for n in names))
    return parc.compile(Source("many.par", text)).program


@pytest.mark.parametrize("count", [2, 4, 8])
def test_new_values_are_there_for_one_weight_at_a_time(count: int) -> None:
    """Besides the clipped gradient: a weight, its two states and two values in between; not those of all weights."""
    peak = memory_use(many(count))[0]["hbm"]
    weight = 64 * 64 * 4
    assert peak.roles["weight"] == count * weight and peak.roles["optimizer"] == 2 * count * weight
    assert peak.roles["activation"] <= 6 * weight


@pytest.mark.parametrize(
    "example, options",
    [("gpt", "dp=2 tp=2 pp=2 microbatches=2 zero=1"), ("llama", "dp=2 zero=3"), ("towers", ""), ("pangu_200b", "")],
)
def test_writes_follow_what_they_need(example: str, options: str) -> None:
    params = dict(o.split("=") for o in options.split())
    program = parc.compile(EXAMPLES / f"{example}.par", params=params).program
    assert not verify(program)
    for cls in program.classes:
        owner = {s.name: s.logical.rpartition(".")[0] if s.role == "optimizer" else s.logical for s in cls.states}
        instrs = next(f.body.nodes for f in cls.functions if f.phase == "U")
        roles = {s.name: s.role for s in cls.states}
        needed: dict[str, int] = {}
        alias = {i.outputs[0]: owner[i.op.name] for i in instrs if isinstance(i.op, Read)}
        made = {v: at for at, i in enumerate(instrs) for v in i.outputs}
        writes: dict[str, list[int]] = {}
        for at, i in enumerate(instrs):
            if isinstance(i.op, Write):
                if roles[i.op.name] in ("weight", "optimizer"):
                    writes.setdefault(owner[i.op.name], []).append(at)
                    needed[owner[i.op.name]] = max(needed.get(owner[i.op.name], 0), made[i.inputs[0]])
                continue
            for v in i.inputs:
                if v in alias:
                    needed[alias[v]] = max(needed.get(alias[v], 0), at)
        assert writes
        for weight, places in writes.items():
            between = instrs[needed[weight] + 1 : max(places) + 1]
            assert min(places) > needed[weight] and all(isinstance(i.op, Write) for i in between)
