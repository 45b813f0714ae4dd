"""A caching allocator's rules by hand and at random, and what it makes of the steps of examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.memory.caching_allocator import Block, CachingAllocator, MiB, reserved
from compiler.memory.fullest import traced
from compiler.memory.peak import memory_use
from compiler.program import Program
from tests.memory.test_exact import EVERY, SCHEDULES, SMALL, example, many


def test_sizes_and_segments() -> None:
    a = CachingAllocator()
    assert [a.allocate(n).size for n in (0, 1, 512, 513)] == [512, 512, 512, 1024]
    assert a.reserved == 2 * MiB
    for _ in range(2):
        a.allocate(1 * MiB)  # one fits beside the others, the next needs a segment
    assert a.reserved == 4 * MiB
    a.allocate(1 * MiB + 1)
    assert a.reserved == 24 * MiB
    a.allocate(10 * MiB)  # not from the segment of 20: as large ones have their own, unless a free one fits
    assert a.reserved == 24 * MiB and a.allocated < 15 * MiB
    a.allocate(21 * MiB)
    assert a.reserved == 46 * MiB


def test_what_is_free_is_used_again_and_joined() -> None:
    a = CachingAllocator()
    three = [a.allocate(6 * MiB) for _ in range(3)]
    assert a.reserved == 20 * MiB
    a.release(three[0])
    a.release(three[2])
    a.allocate(9 * MiB)  # 6, and 6 with the 2 that were left: neither is enough
    assert a.reserved == 40 * MiB
    a.release(three[1])
    assert a.allocate(20 * MiB).size == 20 * MiB and a.reserved == 40 * MiB
    assert a.allocated == 29 * MiB


SIZES = st.one_of(st.integers(0, 2 * MiB), st.integers(0, 40 * MiB))


@given(st.lists(st.tuples(SIZES, st.integers(0, 5)), max_size=60))
def test_what_is_reserved_is_enough(drawn: list[tuple[int, int]]) -> None:
    a, held = CachingAllocator(), list[tuple[int, Block]]()
    for size, leave in drawn:
        held.append((size, a.allocate(size)))
        assert held[-1][1].size >= size
        assert a.allocated == sum(p.size for _, p in held) <= a.peak <= a.reserved
        for _, piece in held[leave:]:
            a.release(piece)
        del held[leave:]
    most = a.reserved
    for _, piece in held:
        a.release(piece)
    assert a.allocated == 0 and a.reserved == most
    assert sum(size for pool in a._free.values() for size, _, _ in pool) == most  # all of it joined again


def of(program: Program, group: int) -> int:
    return reserved(traced(program, group), group)


@pytest.mark.parametrize(("name", "options"), EVERY, ids=lambda v: v.replace(" ", ","))
def test_every_example(name: str, options: str) -> None:
    program = example(name, options).program
    for group, use in memory_use(program).items():
        found = of(program, group)
        assert found >= use["hbm"].bytes and found % (2 * MiB) == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule: str) -> None:
    """In sizes that count: between what is in use and a quarter more."""
    options = "layers=8 hidden=1024 heads=16 vocab=32000 seq=1024 batch=64 pp=2 microbatches=8"
    program = example("gpt", options, **{"one_f_one_b(": schedule}).program
    for group, use in memory_use(program).items():
        assert use["hbm"].bytes <= of(program, group) < 1.25 * use["hbm"].bytes


def test_micro_batches_that_are_left_out_count() -> None:
    """gpipe keeps what all of them save, though most are not played."""
    sizes = []
    for m in (8, 16, 128, 10**9):
        options = f"{SMALL} hidden=64 seq=256 batch={m} pp=2 microbatches={m}"
        others = {"one_f_one_b(": "gpipe(", "in 1..4097": "in 1..10 ** 10", "in 1..1048577": "in 1..10 ** 10"}
        program = example("gpt", options, **others).program
        sizes.append(of(program, 0))
    per_microbatch = (sizes[1] - sizes[0]) / 8
    assert sizes[2] - sizes[1] == pytest.approx(112 * per_microbatch, rel=0.1)
    assert sizes[3] == pytest.approx(memory_use(program)[0]["hbm"].bytes, rel=0.01)  # made and let go of in a few


def test_layers_and_micro_batches_are_not_played_one_by_one() -> None:
    program = many()
    use = memory_use(program)[1]["hbm"].bytes
    assert use <= of(program, 1) < 1.25 * use
