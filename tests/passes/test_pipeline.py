"""Every pass leaves legal graphs, by rules that get stricter from stage to stage."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.graph import Value
from compiler.model import ENTRIES
from compiler.passes.pipeline import NAMES, PASSES, Pass, Work
from compiler.program import Program
from compiler.verify import UNPLACED, laws, verify, verify_graphs
from compiler.walk import graph_values
from tests.entries.asked import asked
from tests.golden.cases import CASES, compiled

OPEN = ("transpose", "merge_equal", "sum_in_own_type", "prune")
"""Passes that leave a graph which refers to another one's values."""


def legal(step: Pass, work: Work) -> None:
    made = step.made(work)
    if isinstance(made, Program):
        assert verify(made) == (), step.name
        return
    known: list[Value] = []
    if step.name in OPEN:
        made = made[-1:]
        known = [*graph_values(work.forward), *([work.counters.factor] if work.counters.factor is not None else [])]
    placed = NAMES.index(step.name) >= NAMES.index("place")
    of = {"split": lambda: work.split.placed, "across": lambda: work.pieces[0]}.get(step.name, lambda: work.placed)
    assert verify_graphs(made, laws(of()) if placed else UNPLACED, known) == (), step.name
    assert all((v.layout is not None) == placed for graph in made for v in graph_values(graph)), step.name


AGAIN = ("example_gpt", "example_llama", "example_lora", "example_streaming", "example_schedules", "megatron")
"""Of passes that other cases go through alike: with `-m nightly`."""


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "name", [pytest.param(c.name, marks=pytest.mark.nightly if c.name in AGAIN else ()) for c in CASES]
)
def test_every_pass_leaves_what_is_legal(name: str, entry: str) -> None:
    seen: list[str] = []

    def watch(step: Pass, work: Work) -> None:
        seen.append(step.name)
        legal(step, work)

    compile_job(asked(compiled(name).job, entry), entry, watch)
    assert list(dict.fromkeys(seen)) == [p.name for p in PASSES if entry == "train_step" or not p.trains]
