"""Places between the parts of a pipeline: chains that go to a place, elsewhere and back to it, before the pipeline and
in its midst. Each goes as its strategy says, and computes what the serial program computes."""

from __future__ import annotations

import pytest

import parc
from compiler.driver import compile_job
from compiler.model import EVALUATE
from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.source import Source
from runtime.prove import prove, prove_evaluation
from runtime.rank.executor import RankExecutor
from tests.memory.measured import exact

FILE = """
use std.optimizers (adamw)

fn bent(x[..., d]) {
  weight v[d] ~ normal(0.5)
  return x + tanh(x * v)
}

fn three(x[..., d]) {
  x = bent(x) as first
  x = bent(x) as second
  return bent(x) as third
}

model m {
  dim b = 8, d = 4
  input x : f32[b,d]
  weight shared[d] ~ normal(0.5)
  y = x * shared
BODY
  loss mean(y * y)
}

strategy plan for m {
RULES
}

job j {
  train m using plan
  optimizer adamw(lr = 0.1, clip = 0.5)
}
"""


def part(name: str) -> str:
    """A scope, or with a number behind its name a loop of so many iterations."""
    label, _, count = name.partition(" ")
    if count:
        body = "    weight w[d] ~ normal(0.5)\n    y = y + tanh(y * w) * shared\n"
        return f"  repeat {count} as {label} {{\n{body}  }}\n"
    return f"  y = {'three' if label.startswith('three') else 'bent'}(y) as {label}\n"


def text(parts: str, *rules: str) -> str:
    body = "".join(map(part, parts.split(", ")))
    return FILE.replace("BODY\n", body).replace("RULES", "\n".join(f"  {rule}" for rule in rules))


def places(program: Program) -> dict[str, set[int]]:
    """Of each scope the groups that hold its weights."""
    found: dict[str, set[int]] = {}
    for c in program.classes:
        for s in c.states:
            if s.role == "weight":
                found.setdefault(s.name.rpartition(".")[0], set()).update(c.groups)
    return found


ROW = "pipeline left, right on at, schedule one_f_one_b(2), cuts [1]"
SPLIT = "left 2, between, right 2, behind"


@pytest.mark.parametrize(
    ("parts", "rules", "at", "homes"),
    [
        # Before a pipeline: what the first stage would make, another place reads before that stage begins.
        (
            "first, mid, left 2",
            ("mesh (at = 2)", "pipeline left on at, schedule one_f_one_b(2)"),
            {"first": 0, "mid": 1},
            (0, 1, 0, 1),
        ),
        (
            "first, mid, near, left 2",
            ("mesh (at = 2)", "pipeline left on at, schedule gpipe(1)"),
            {"first": 0, "mid": 1, "near": 0},
            (0, 1, 0, 1),
        ),
        (
            "first, mid, near, left 3",
            ("mesh (at = 3)", "pipeline left on at, schedule zero_bubble(4)"),
            {"first": 0, "mid": 1, "near": 2},
            (0, 1, 2, 0, 1, 2),
        ),
        # Between two parts of one stage.
        (SPLIT, ("mesh (at = 2)", ROW), {"between": 0}, (0, 1, 0, 1)),
        (SPLIT, ("mesh (at = 2)", ROW, "recompute"), {"between": 0, "behind": 0}, (0, 1, 0, 1, 0)),
        (
            SPLIT,
            ("mesh (at = 2, dp = 2)", ROW, "split b on dp", "shard optimizer on dp"),
            {"between": 0},
            (0, 1, 0, 1),
        ),
        (
            "left 2, between, right 2, mid, last 2",
            ("mesh (at = 2)", ROW.replace("right", "right, last")),
            {"between": 0, "mid": 0},
            (0, 1, 0, 1, 0, 1),
        ),
        (
            "left 3, between, right 3",
            ("mesh (at = 2)", "pipeline left, right on at, schedule interleaved(4, chunks = 2), cuts [1, 2, 4]"),
            {"between": 1},
            (0, 1, 0, 1, 0, 1),
        ),
        # In the midst of a part.
        (
            "three_a, three_b",
            ("mesh (at = 2)", "pipeline three_a, three_b on at, schedule one_f_one_b(2)"),
            {"three_a.second": 1},
            (0, 1, 0, 1),
        ),
    ],
)
def test_it_goes_there_and_back(parts: str, rules: tuple[str, ...], at: dict[str, int], homes: tuple[int, ...]) -> None:
    chosen = [f"place {scope} on at[{place}]" for scope, place in at.items()]
    compiled = parc.compile(Source("main.par", text(parts, *rules, *chosen)), double=True)
    program = compiled.program
    assert verify(program) == () and parse_program(show(program)) == program and exact(program, 1)
    assert program.homes.groups == homes
    has = places(program)
    assert all(has[scope] == {place} for scope, place in at.items())
    assert prove(compiled.training, program).ok
    assert prove(compiled.training, program, 1, executor=RankExecutor).ok
    alone = compile_job(compiled.job, EVALUATE)
    assert verify(alone.program) == () and prove_evaluation(alone.training, alone.program, 1).ok
