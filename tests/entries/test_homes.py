"""Where the stages are is data: any list of groups, each with as many stages, lowers, runs and is proved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.driver import run_passes
from compiler.evaluate import evaluate
from compiler.homes import Homes
from compiler.model import ENTRIES, EVALUATE, TRAIN_STEP, Job, Training
from compiler.passes.across import across
from compiler.passes.lower import lower
from compiler.passes.stage import stage
from compiler.program import ALL_CHUNKS, Affine, FunctionPhase, Program, Run, Schedule, Update
from compiler.schedules import Edge, Turn, find_hang, unroll
from compiler.text import parse_program, show
from compiler.verify import verify
from runtime.prove import prove, prove_evaluation
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.entries.test_evaluate import COUNTED, source
from tests.memory.measured import exact

LISTS = [(0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 1, 0)]


def lowered(job: Job, entry: str, groups: tuple[int, ...]) -> tuple[Training, Program]:
    """The serial graphs, and the program whose stages are on these groups."""
    work = run_passes(job, "place", entry)
    staged = stage(work.placed, Homes(groups))
    placed, over = across(work.placed, staged)
    return work.serial, lower(placed, staged, over)


def one_after_the_other(program: Program) -> Program:
    """All forward passes, then all backward ones: no other order goes with every list."""
    n = program.microbatches * program.homes.chunks
    forward, backward = (
        Run(phase, ALL_CHUNKS, Affine(0), Affine(n)) for phase in (FunctionPhase.FORWARD, FunctionPhase.BACKWARD)
    )

    def order(schedule: Schedule) -> Schedule:
        once = [e for e in schedule if isinstance(e, Run) and not e.action.of_chunk]
        before, after = ([e for e in once if e.action.of_round == first] for first in (True, False))
        return (*before, forward, backward, *after, Update())

    return program.with_classes(replace(c, schedule=order(c.schedule)) for c in program.classes)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("groups", LISTS, ids=str)
def test_any_list_is_proved(groups: tuple[int, ...], entry: str) -> None:
    job = evaluate(source("interleaved", loss=COUNTED))
    graphs, program = lowered(job, entry, groups)
    if entry == TRAIN_STEP:
        program = one_after_the_other(program)
    assert parse_program(show(program)) == program and verify(program) == ()
    assert ("stages 4\n" in show(program)) == (groups == (0, 1, 0, 1))
    for executor in (Emulator, RankExecutor):
        assert (prove if entry == TRAIN_STEP else prove_evaluation)(graphs, program, 1, executor=executor).equal
    assert exact(program)


def test_an_order_that_does_not_go_with_the_list_is_told() -> None:
    """The interleaved order begins with all of a group's first chunk: in a V the last stage would wait for itself."""
    job = evaluate(source("interleaved"))
    found = verify(lowered(job, TRAIN_STEP, (0, 1, 1, 0))[1])
    assert [d.code for d in found] == ["E0642"]


def test_groups_that_lie_alike_share_code() -> None:
    """Also where the stages of a second chunk go the other way."""
    given = source("interleaved")
    text = given.text.replace("mesh (pp = 2)", "mesh (pp = 4)").replace("repeat 4", "repeat 16")
    program = lowered(evaluate(replace(given, text=text)), EVALUATE, (0, 1, 2, 3, 3, 2, 1, 0))[1]
    assert [c.groups for c in program.classes] == [(0,), (1, 2, 3)]
    first, second = program.classes[1].ranges
    assert [[r.first.at(g) for g in (1, 2, 3)] for r in (first, second)] == [[2, 4, 6], [12, 10, 8]]
    assert verify(program) == ()


def test_homes() -> None:
    homes = Homes((0, 1, 1, 0))
    assert (len(homes), homes.chunks) == (4, 2)
    assert [homes.of(g) for g in (0, 1, 2)] == [[0, 3], [1, 2], ()]
    assert [(homes.group(v), homes.chunk(v)) for v in range(4)] == [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert all(homes.stage(homes.group(v), homes.chunk(v)) == v for v in range(4))
    assert Homes.dealt(2, 4) == Homes((0, 1, 0, 1))
    with pytest.raises(IndexError):
        homes.group(-1)


def test_hangs_are_found_where_the_stages_are() -> None:
    forward = FunctionPhase.FORWARD
    edges = [Edge(v, forward, v + 1, forward) for v in range(3)]
    schedule = (Run(forward, ALL_CHUNKS, Affine(0), Affine(4)),)
    lists = [unroll(schedule, g, Turn(2, 2, 2)) for g in (0, 1)]
    assert find_hang(lists, edges, homes=Homes((0, 1, 1, 0))) is None
    backwards = [list(reversed(lists[0])), lists[1]]
    assert find_hang(backwards, edges, homes=Homes((0, 1, 1, 0))) is not None
