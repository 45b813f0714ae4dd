"""Every way from one layout to another: each step is legal where it is taken, and the last one ends there."""

from __future__ import annotations

from itertools import permutations

import pytest

from compiler.graph import Dim, Type
from compiler.layout import Layout
from compiler.ops.comm import AllGather, AllReduce, AllToAll, Operand, ReduceScatter, Shard
from compiler.relayout import plan_relayout, relayout_bytes

SIZES = {"a": 2, "b": 3}
TYPE = Type("f32", (Dim("x", 12), Dim("y", 24)))


def layouts() -> list[Layout]:
    """Of two dims and two axes: each axis splits a dim, after the other or before it, is pending, or nothing."""
    found = []
    for order in permutations(SIZES):
        for at in [(i, j) for i in range(4) for j in range(4)]:
            dims: list[list[str]] = [[], []]
            pending = []
            for axis, where in zip(order, at):
                if where < 2:
                    dims[where].append(axis)
                elif where == 2:
                    pending.append((axis, "sum"))
            found.append(Layout(tuple(map(tuple, dims)), tuple(sorted(pending))))
    return list(dict.fromkeys(found))


LAYOUTS = layouts()


def test_there_are_all_layouts() -> None:
    """16 choices, and two orders where both axes split one dim."""
    assert len(LAYOUTS) == 18


@pytest.mark.parametrize("source", LAYOUTS, ids=str)
def test_each_step_is_legal_and_the_last_one_ends_there(source: Layout) -> None:
    for target in LAYOUTS:
        layout = source
        for step in plan_relayout(TYPE, source, target, SIZES):
            assert step.op.after(Operand("v", TYPE, layout), SIZES) == step.layout
            layout = step.layout
        assert layout == target
        assert (source == target) == (not plan_relayout(TYPE, source, target, SIZES))


def gathers_first(source: Layout, target: Layout) -> bool:
    """A pending sum is to split a dim that another axis splits: the pieces are gathered, and then added up. To add them
    up first would send a seventh less here."""
    pending = dict(source.pending)
    return any(held and want and want[0] in pending for held, want in zip(source.dims, target.dims))


def test_no_way_but_a_few_sends_more_than_over_the_whole() -> None:
    """Adding up and gathering everything, then cutting it, is a way to each layout."""
    whole, found = Layout(((), ())), set[tuple[Layout, Layout]]()
    for source in LAYOUTS:
        there = relayout_bytes(TYPE, source, whole, SIZES)
        for target in LAYOUTS:
            if relayout_bytes(TYPE, source, target, SIZES) > there + relayout_bytes(TYPE, whole, target, SIZES):
                found.add((source, target))
    assert found and all(gathers_first(*pair) for pair in found) and len(found) <= 6


def ops(source: Layout, target: Layout) -> list[type]:
    return [type(step.op) for step in plan_relayout(TYPE, source, target, SIZES)]


def test_what_collectives_are_changes_of_layout() -> None:
    whole, split, other = Layout(((), ())), Layout((("a",), ())), Layout(((), ("a",)))
    pending = Layout(((), ()), (("a", "sum"),))
    assert ops(pending, whole) == [AllReduce] and ops(pending, split) == [ReduceScatter]
    assert ops(split, whole) == [AllGather] and ops(split, other) == [AllToAll] and ops(whole, split) == [Shard]


def test_neighbouring_steps_of_one_kind_are_one() -> None:
    both, whole = Layout((("a", "b"), ())), Layout(((), ()))
    (step,) = plan_relayout(TYPE, both, whole, SIZES)
    assert step.op == AllGather("x", ("a", "b"))
    assert relayout_bytes(TYPE, both, whole, SIZES) == TYPE.bytes * 5 / 6


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Layout(((), ()), (("a", "sum"),)), Layout(((), ()), (("a", "max"),))),
        (Layout(((), ())), Layout(((), ()), (("a", "max"),))),
        (Layout((("a",), ()), (), ((0, 1, 1),)), Layout(((), ()))),
    ],
    ids=["another reduction", "a maximum out of nothing", "borders"],
)
def test_what_has_no_meaning_is_refused(source: Layout, target: Layout) -> None:
    with pytest.raises(ValueError):
        plan_relayout(TYPE, source, target, SIZES)
