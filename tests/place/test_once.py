"""What stands before a pipelined loop and is read by its stages is made once and handed on, unless the strategy says
that each stage makes it."""

from __future__ import annotations

import pytest

from compiler.ops.effects import Recv, Send
from compiler.program import FunctionPhase, Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from tests.matrix.cells import Cell, Tactic, cells, expected
from tests.memory.measured import exact
from tests.some import one_in

MEMORY = "encoder.layer_norm.out"


def pipelined(schedule: str, stages: int, *rules: str) -> Program:
    """Encoder and decoder, the decoder cut into stages."""
    pipeline = f"pipeline block on pp, schedule {schedule.replace(')', ', over = b)')}"
    tactic = Tactic("t", (("pp", stages),), (pipeline, *rules), frozenset(), True)
    return Cell("translation", (tactic,)).compile().program


def weights(program: Program, scope: str) -> set[int]:
    """Groups that hold weights of the scope."""
    found = {g for c in program.classes for s in c.states if s.role == "weight" for g in c.groups if scope in s.name}
    assert found
    return found


def ways(program: Program, name: str) -> list[tuple[int, int]]:
    """From which stage to which a value is sent in the forward pass."""
    return [
        (stage, stage + n.op.to)
        for c in program.classes
        for f in c.functions
        if f.phase is FunctionPhase.FORWARD
        for n in f.body.nodes
        if isinstance(n.op, Send) and n.op.name == name
        for stage in (program.homes.stage(g, f.chunk) for g in c.groups)
    ]


@pytest.mark.parametrize(
    ("schedule", "stages", "expected"),
    [
        ("gpipe(microbatches = 2)", 4, [(0, 1), (1, 2), (2, 3)]),
        ("one_f_one_b(microbatches = 4)", 4, [(0, 1), (1, 2), (2, 3)]),
        ("zero_bubble(microbatches = 4)", 2, [(0, 1)]),
        ("interleaved(microbatches = 2, chunks = 2)", 2, [(0, 1), (0, 2), (1, 3)]),  # but one goes to other devices
    ],
)
def test_it_goes_from_stage_to_stage(schedule: str, stages: int, expected: list[tuple[int, int]]) -> None:
    program = pipelined(schedule, stages)
    assert sorted(ways(program, MEMORY)) == expected
    assert weights(program, "encoder.") == {0}
    assert len(program.classes) == min(stages, 3)  # those in the middle do alike
    text = show(program)
    assert parse_program(text) == program and verify(program) == () and exact(program)


def test_the_strategy_may_say_that_each_makes_it() -> None:
    program = pipelined("gpipe(microbatches = 2)", 2, "place encoder on pp")
    assert ways(program, MEMORY) == [] and weights(program, "encoder.") == {0, 1}
    assert verify(program) == () and exact(program)


def test_it_is_not_computed_again() -> None:
    """Whatever is recomputed: a stage has no weights of it."""
    program = pipelined("gpipe(microbatches = 2)", 2, "recompute")
    received = {n.op.name for f in program.classes[1].functions for n in f.body.nodes if isinstance(n.op, Recv)}
    assert weights(program, "encoder.") == {0} and MEMORY in received


@pytest.mark.parametrize("scope", ["encoder", "encoder.inner", "encoder.layer_norm", "embedding"])
def test_any_scope_before_the_loop_may_be_made_by_each(scope: str) -> None:
    rules = ("pipeline block on pp, schedule gpipe(microbatches = 2, over = b)", f"place {scope} on pp")
    compiled = Cell("translation", (Tactic("t", (("pp", 2),), rules, frozenset(), True),)).compile()
    assert verify(compiled.program) == () and prove(compiled.training, compiled.program, 1).ok


@pytest.mark.parametrize("scope", ["linear", "layer_norm"])
def test_what_reads_the_loop_cannot_be_made_by_each(scope: str) -> None:
    with pytest.raises(ParcError) as caught:
        pipelined("gpipe(microbatches = 2)", 2, f"place {scope} on pp")
    (found,) = caught.value.diagnostics
    assert found.code == "E0410" and f"place {scope} on pp[…]" in (found.help or "") and found.span is not None


CELLS = [
    c
    for k in (1, 2)
    for c in cells(k)
    if c.example == "translation" and any(t.order for t in c.tactics) and expected(c) == "proved"
]


@pytest.mark.parametrize("cell", one_in(11, CELLS[::3]), ids=str)
def test_with_other_tactics_each_device_by_itself(cell: Cell) -> None:
    compiled = cell.compile()
    assert verify(compiled.program) == () and exact(compiled.program)
    assert prove(compiled.training, compiled.program, 1, executor=RankExecutor).ok
