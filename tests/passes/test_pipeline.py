"""Every pass leaves legal graphs, by rules that get stricter from stage to stage."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job
from compiler.model import ENTRIES
from compiler.passes.pipeline import NAMES, PASSES, Pass, Work
from compiler.passes.verify_graph import verify_graph, verify_names
from compiler.program import Program
from compiler.verify import verify
from compiler.walk import graph_values
from tests.golden.cases import CASES, compiled

OPEN = ("transpose", "merge_equal", "sum_in_own_type", "prune")
"""Passes that leave a graph which refers to another one's values."""


def legal(step: Pass, work: Work) -> None:
    made = step.made(work)
    if isinstance(made, Program):
        assert verify(made) == (), step.name
        return
    for graph in made:
        if step.name not in OPEN:
            verify_graph(graph)
    if step.name in OPEN:
        known = {*graph_values(work.forward), work.counters.factor}
        for node in made[-1].nodes:
            assert known.issuperset(node.inputs), (step.name, node.outputs[0].name)
            known.update(node.outputs)
        assert known.issuperset(made[-1].outputs)
        return
    verify_names(*made)
    placed = NAMES.index(step.name) >= NAMES.index("place")
    for graph in made:
        for v in graph_values(graph):
            assert (v.layout is not None) == placed, (step.name, v.name)
            assert not placed or len(v.layout.dims) == len(v.type.dims), (step.name, v.name)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", [c.name for c in CASES])
def test_every_pass_leaves_what_is_legal(name: str, entry: str) -> None:
    seen: list[str] = []

    def watch(step: Pass, work: Work) -> None:
        seen.append(step.name)
        legal(step, work)

    compile_job(compiled(name).job, entry, watch)
    assert list(dict.fromkeys(seen)) == [p.name for p in PASSES if entry == "train_step" or not p.trains]
