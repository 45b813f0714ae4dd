"""The fullest moment: everything that is alive, and nothing else, with the types of what devices hold."""

from __future__ import annotations

import re
from math import prod

import pytest

from compiler.graph import ITEMSIZE
from compiler.memory.capacity import out_of_memory, show_bytes, shown, when
from compiler.memory.fullest import Fullest, fullest, traced
from compiler.memory.peak import memory_use
from compiler.program import FunctionPhase, Program
from dsl.source import Source
from parc import api
from tests.memory.test_exact import EVERY, SCHEDULES, SMALL, example


def complete(program: Program) -> dict[int, Fullest]:
    """The bytes of what is alive are the peak, by role too; a type says how many bytes there are."""
    found = {}
    for group, use in memory_use(program).items():
        found[group] = f = fullest(traced(program, group), group, "hbm")
        assert f.peak == use["hbm"].bytes == sum(a.bytes for a in f.alive)
        roles: dict[str, int] = {}
        for a in f.alive:
            roles[a.role] = roles.get(a.role, 0) + a.bytes
            if a.type:
                dtype, sizes = re.fullmatch(r"(\w+)\[(.*?)\](?: pending.*)?", a.type).groups()  # type: ignore[union-attr]
                elements = prod(int(n) for n in re.findall(r"=(\d+)", sizes))
                assert a.count * elements * ITEMSIZE[dtype] == a.bytes, shown(a)
        assert {r: n for r, n in roles.items() if n} == dict(f.roles)
        assert [a.bytes for a in f.alive] == sorted((a.bytes for a in f.alive), reverse=True)
        assert all(a.type for a in f.alive[:5] if a.role != "input")
    return found


@pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: v.replace(" ", ","))
def test_every_example(name: str, options: str) -> None:
    complete(example(name, options).program)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule: str) -> None:
    options = f"{SMALL} batch=16 pp=2 microbatches=8"
    found = complete(example("gpt", options, **{"one_f_one_b(": schedule}).program)
    saved = [a for a in found[0].alive if a.role == "saved" and a.count > 1]
    flying = {"gpipe(": 7, "one_f_one_b(": 1, "interleaved(chunks = 2, ": 2, "zero_bubble(": 1}
    assert bool(saved) == (flying[schedule] > 1)
    assert all(a.count <= 8 for a in saved)


def test_what_is_told_of_it() -> None:
    options = f"{SMALL} seq=64 batch=32 dp=2 tp=2 pp=2 microbatches=8"
    found = complete(example("gpt", options, **{"one_f_one_b(": "gpipe("}).program)[0]
    assert found.action == ("F", 0, 7) and when(found).startswith("F[7] of stage 0, block at ")
    diagnostic = out_of_memory(found, 1000.0)
    assert show_bytes(found.peak) in diagnostic.message and when(found) in diagnostic.message
    first = diagnostic.notes[1][0]
    assert "block." in first and "f32[block=2, " in first and "(saved, 7 micro-batches)" in first


TWICE = """
use std.optimizers
model m {
  dim b = 512, d = 8, e = 8
  input x : f32[b,d]
  weight w[d,e]
  loss abs(mean(tanh(x @ w)))
}
strategy st for m {
  microbatches 2 over b, two passes
}
job fit {
  train m using st
  optimizer sgd(lr = 0.1)
}
"""


def test_a_sum_that_is_saved_as_well_is_listed_once() -> None:
    """The loss of all micro-batches, which each of them saves for its backward pass."""
    (found,) = complete(api.compile(Source("twice.par", TWICE)).program).values()
    assert found.action is not None and found.action.kind is FunctionPhase.BACKWARD
    assert [(a.role, a.count) for a in found.alive if a.name == "mean.whole"] == [("statistic", 1)]
