"""Static allocations: no two buffers that exist at once share a byte, and little is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.memory.packing import ALIGNMENT, aligned, bound, pack
from compiler.memory.times import Times, length, union
from dsl.diagnostics import ParcError
from tests.matrix.cells import Cell, cells, expected, spread
from tests.memory.placed import placed, plan
from tests.memory.test_exact import EVERY, PIPELINE, SCHEDULES, SMALL, example, few, many
from tests.runtime.test_memory import LOOP, X
from tests.runtime.test_memory import program as hand_made
from tests.some import by_all_cores

SPAN = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda at: (at[0], at[0] + at[1]))
BLOCKS = st.lists(st.tuples(st.integers(0, 9000), st.lists(SPAN, min_size=1, max_size=3)), max_size=40)


Drawn = list[tuple[int, list[tuple[int, int]]]]


def as_blocks(drawn: Drawn) -> list[tuple[int, Times]]:
    return [(size, union(spans)) for size, spans in drawn]


def together(a: Times, b: Times) -> bool:
    return any(start < stop and other < end for start, end in a for other, stop in b)


@given(BLOCKS)
def test_blocks_alive_at_once_are_apart(drawn: Drawn) -> None:
    blocks = as_blocks(drawn)
    offsets, arena = pack(blocks)
    ends = [at + size for at, (size, _) in zip(offsets, blocks, strict=True)]
    assert all(at % ALIGNMENT == 0 for at in offsets) and max(ends, default=0) <= arena
    assert arena >= bound([(aligned(size), alive) for size, alive in blocks])
    for i, (_, alive) in enumerate(blocks):
        for j in range(i):
            apart = ends[i] <= offsets[j] or ends[j] <= offsets[i]
            assert apart or not together(alive, blocks[j][1]) or not blocks[i][0] or not blocks[j][0]


def plainly(blocks: list[tuple[int, Times]], order: list[int]) -> int:
    """The bytes that the rule takes, looked up block by block."""
    placed: list[tuple[int, int, Times]] = []
    for i in order:
        size, alive = aligned(blocks[i][0]), blocks[i][1]
        near = sorted((at, to) for at, to, times in placed if to > at and together(alive, times))
        ends = [0, *(max(to for _, to in near[: k + 1]) for k in range(len(near)))]
        gaps = [(at - end, end) for end, (at, _) in zip(ends, near) if at - end >= max(size, 1)]
        at = min(gaps)[1] if gaps else ends[-1]
        placed.append((at, at + size if alive else at, alive))
    return max((to for _, to, _ in placed), default=0)


@given(BLOCKS)
def test_the_smallest_gap_is_taken(drawn: Drawn) -> None:
    blocks = as_blocks(drawn)
    by_size = sorted(range(len(blocks)), key=lambda i: -aligned(blocks[i][0]))
    by_life = sorted(by_size, key=lambda i: -length(blocks[i][1]))
    assert pack(blocks)[1] == min(plainly(blocks, by_size), plainly(blocks, by_life))


def test_what_takes_turns_shares_and_gaps_are_filled() -> None:
    assert pack([(1024, ((0, 1),)), (512, ((1, 2),))]) == ([0, 0], 1024)
    assert pack([(512, ((1, 3),)), (1024, ((0, 2),)), (512, ((0, 1), (2, 3)))])[1] == 2048
    assert pack([(4096, ((0, 1),)), (1024, ((0, 3),)), (2048, ((1, 3),))])[1] == 5120
    assert pack([]) == ([], 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param(n, o, marks=() if dict(EVERY)[n] == o else pytest.mark.nightly) for n, o in EVERY],
    ids=lambda v: v.replace(" ", ","),
)
def test_every_example(name: str, options: str) -> None:
    placed(example(name, options).program)


@pytest.mark.parametrize("recompute", ["", "recompute block keep block.attention.out"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule: str, recompute: str) -> None:
    changes = {"one_f_one_b(": schedule, "  if pp > 1 {": f"  {recompute}\n  if pp > 1 {{"}
    placed(example("gpt", f"{SMALL} pp=2 microbatches=4", **changes).program)


def test_uneven_stages_with_chunks() -> None:
    schedule = PIPELINE.replace("one_f_one_b(", "interleaved(chunks = 2, ") + ", cuts [1, 2, 4]"
    placed(example("gpt", f"{SMALL} layers=5 pp=2 microbatches=4", **{PIPELINE: schedule}).program)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_loops(n: int) -> None:
    """Carries take turns in as many places as are alive at once."""
    placed(hand_made("", X + LOOP.format(n=n)))


def test_saved_elsewhere() -> None:
    forward = X + "%y: f32[b=4/mb] = exp %x\n%far: f32[b=4/mb] in host = move %y from hbm to host\nsave %far as s"
    backward = "%far: f32[b=4/mb] in host = load s last\n%s: f32[b=4/mb] = move %far from host to hbm\n"
    backward += "%t: f32[b=4/mb] = exp %s"
    found = placed(hand_made("saved s: f32[b=4/mb] in host", forward, backward, "F[0..4]\nB[0..4]"))
    assert found[0]["host"].size == 4 * ALIGNMENT and found[0]["host"].peak == 4 * 16


REAL = {
    "gpt": "layers=24 hidden=1024 heads=16 vocab=50304 seq=1024 batch=8",
    "pangu_200b": "",
    "llama": "layers=16 hidden=2048 heads=16 kv_heads=4 vocab=32000 seq=2048 batch=64 dp=4 zero=3 microbatches=4",
    "resnet": "batch=256 channels=64 size=32",
}


@pytest.mark.parametrize("name", REAL)
def test_little_is_lost(name: str) -> None:
    """In sizes in which rounding to 512 bytes does not count: at most 5% more than what is alive at the peak."""
    program = example(name, REAL[name]).program
    for group in {0, program.groups - 1}:
        assert 0 <= plan(program, group)["hbm"].fragmentation < 0.05


def test_neither_layers_nor_micro_batches_count() -> None:
    counts = [[p.count for p in plan(program, 1)["hbm"].pools.values()] for program in (few(), many())]
    assert counts == [[3], [3]]


def judge(cell: Cell) -> str:
    """ "placed", the refusal's codes, or what is wrong."""
    try:
        program = cell.compile(None).program
    except ParcError as e:
        return ", ".join(sorted({d.code for d in e.diagnostics}))
    try:
        placed(program)
    except AssertionError as e:
        return str(e)
    return "placed"


@pytest.mark.nightly
def test_all_tactics_and_some_pairs() -> None:
    chosen = [*cells(1), *spread(cells(2), 4)]
    outcomes = list(zip(chosen, by_all_cores(judge, chosen)))
    wrong = [f"{c}: {o}" for c, o in outcomes if o != expected(c).replace("proved", "placed")]
    assert not wrong, "\n".join(wrong)
