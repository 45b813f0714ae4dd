"""Schedules: the closed forms are the generators, all micro-batches run once and in order, nothing hangs."""

from __future__ import annotations

from itertools import product

import pytest

from compiler.homes import Homes
from compiler.program import Affine, For, FunctionPhase, Run, Update
from compiler.schedules import (
    NAMES,
    Action,
    ActionLoop,
    Edge,
    Turn,
    actions,
    check_schedule,
    families,
    find_hang,
    kinds,
    loops,
    rolled,
    unify,
    unroll,
)
from compiler.schedules.moments import in_time

KINDS = (FunctionPhase.FORWARD, FunctionPhase.BACKWARD)
LEGAL = [
    (name, p, v, m)
    for name, p, v, m in product(NAMES, (1, 2, 3, 4, 7), (1, 2, 3), (1, 2, 3, 4, 5, 6, 8, 14, 21))
    if (v == 1 or name in ("interleaved", "forward")) and (name != "sequential" or p == 1)
]


def chain_edges(p: int, v: int, backward: bool = True) -> list[Edge]:
    """Activations go up the virtual stages, gradients down; the loss turns around at the last."""
    n = p * v
    edges = [Edge(s, FunctionPhase.FORWARD, s + 1, FunctionPhase.FORWARD) for s in range(n - 1)]
    return (
        edges + [Edge(s + 1, FunctionPhase.BACKWARD, s, FunctionPhase.BACKWARD) for s in range(n - 1)]
        if backward
        else edges
    )


@pytest.mark.parametrize(("name", "p", "v", "m"), LEGAL)
def test_rolled_is_the_generator(name: str, p: int, v: int, m: int) -> None:
    schedules = rolled(name, p, v, m)
    for g in range(p):
        assert unroll(schedules[g], g, Turn(p, v, m)) == list(actions(name, p, v, m, g))


@pytest.mark.parametrize(("name", "p", "v", "m"), LEGAL)
def test_every_action_once_and_in_order(name: str, p: int, v: int, m: int) -> None:
    for g in range(p):
        mine = list(actions(name, p, v, m, g))
        if name != "forward":
            assert mine.pop() == Action(FunctionPhase.UPDATE, 0, 0)
        assert sorted(mine) == sorted(Action(k, c, i) for k in kinds(name) for c in range(v) for i in range(m))
        place = {a: i for i, a in enumerate(mine)}
        for a in mine:
            before = {"B": "F", "W": "B"}.get(a.kind)
            assert before is None or place[Action(before, a.chunk, a.mb)] < place[a]


@pytest.mark.parametrize(("name", "p", "v", "m"), LEGAL)
def test_no_schedule_hangs(name: str, p: int, v: int, m: int) -> None:
    lists = [list(actions(name, p, v, m, g)) for g in range(p)]
    assert find_hang(lists, chain_edges(p, v, name != "forward")) is None


@pytest.mark.parametrize(("name", "p", "v", "m"), LEGAL)
def test_moments_are_found_for_all_that_have_no_chunks(name: str, p: int, v: int, m: int) -> None:
    """And so at once that they do not hang; for chunks, too, but for some whose rounds differ in length."""
    turn = Turn(p, v, m)
    rows = [loops(schedule, g, turn) for g, schedule in enumerate(rolled(name, p, v, m))]
    found = in_time(rows, chain_edges(p, v, name != "forward"), Homes.dealt(p, p * v))
    assert found or v > 1


def test_no_moments_are_found_for_what_hangs() -> None:
    """Too few forwards ahead, a micro-batch that is never sent, a backward before its forward."""

    def row(*texts: tuple[int, int, int]) -> list[ActionLoop]:
        """(kind, first, count) of runs."""
        return [ActionLoop((Action(KINDS[kind], 0, first),), count, 1) for kind, first, count in texts]

    good = row((0, 0, 2), (1, 0, 2))
    assert in_time([good, good], chain_edges(2, 1), Homes.dealt(2, 2))
    late = row((0, 0, 1), (1, 1, 1), (0, 1, 1), (1, 0, 1))
    for rows in ([late, good], [good, late], [row((0, 0, 1)), row((0, 0, 2))], [good, row((1, 0, 2), (0, 0, 2))]):
        assert not in_time(rows, chain_edges(2, 1), Homes.dealt(2, 2))


@pytest.mark.parametrize(("name", "p", "v", "m"), LEGAL)
def test_families_are_few_and_exact(name: str, p: int, v: int, m: int) -> None:
    schedules = rolled(name, p, v, m)
    found = families(schedules)
    assert [g for groups, _ in found for g in groups] == list(range(p))
    assert len(found) <= (1 if m >= 2 * p * v else 3)
    for groups, shared in found:
        for g in groups:
            assert unroll(shared, g, Turn(p, v, m)) == list(actions(name, p, v, m, g))


def test_one_f_one_b_reads_as_in_the_design() -> None:
    ((groups, schedule),) = families(rolled("one_f_one_b", 4, 1, 8))
    assert groups == (0, 1, 2, 3)
    assert schedule == (
        Run(FunctionPhase.FORWARD, 0, Affine(0), Affine(3, -1)),
        For(Affine(5, 1), 1, ((FunctionPhase.FORWARD, 0, Affine(3, -1)), (FunctionPhase.BACKWARD, 0, Affine(0)))),
        Run(FunctionPhase.BACKWARD, 0, Affine(5, 1), Affine(8)),
        Update(),
    )


def in_flight(mine: list[Action], last: str) -> int:
    """Most micro-batches between their F and their `last`."""
    held = most = 0
    for a in mine:
        held += {"F": 1, last: -1}.get(a.kind, 0)
        most = max(most, held)
    return most


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_memory_of_the_schedules(p: int) -> None:
    m = 4 * p
    for g in range(p):
        assert in_flight(list(actions("gpipe", p, 1, m, g)), FunctionPhase.BACKWARD) == m
        assert in_flight(list(actions("one_f_one_b", p, 1, m, g)), FunctionPhase.BACKWARD) == p - g
        assert in_flight(list(actions("zero_bubble", p, 1, m, g)), FunctionPhase.WEIGHTS) == p
        assert in_flight(list(actions("zero_bubble", p, 1, m, g)), FunctionPhase.BACKWARD) == p - g


def steps_of(lists: list[list[Action]], edges: list[Edge]) -> int:
    """Makespan where every action takes one unit of time."""
    n = len(lists)
    needs: dict[tuple[int, str, int], list[tuple[int, str, int]]] = {}
    for e in edges:
        needs.setdefault((e.to % n, e.to_kind, e.to // n), []).append((e.stage % n, e.kind, e.stage // n))
    end: dict[tuple[int, Action], int] = {}
    clock, at = [0] * n, [0] * n
    moved = True
    while moved:
        moved = False
        for g in range(n):
            while at[g] < len(lists[g]):
                a = lists[g][at[g]]
                want = [(o, Action(k, c, a.mb)) for o, k, c in needs.get((g, a.kind, a.chunk), ())]
                if any(w not in end for w in want):
                    break
                clock[g] = max([clock[g], *(end[w] for w in want)]) + 1
                end[g, a] = clock[g]
                at[g] += 1
                moved = True
    return max(clock)


def test_zero_bubble_has_less_bubble_than_1f1b() -> None:
    """B and W of one unit each against a B of two: the bubble shrinks to a third (the paper's ZB-H1)."""
    p, m = 4, 12
    edges = chain_edges(p, 1)
    zb = [[a for a in actions("zero_bubble", p, 1, m, g) if a.kind != "U"] for g in range(p)]
    plain: list[list[Action]] = []
    for g in range(p):
        mine = [a for a in actions("one_f_one_b", p, 1, m, g) if a.kind != "U"]
        plain.append([b for a in mine for b in ([a] if a.kind == "F" else [a, Action(FunctionPhase.WEIGHTS, 0, a.mb)])])
    # In 1F1B the gradient leaves only after both halves: the edge starts at W.
    fused = [Edge(e.stage, FunctionPhase.WEIGHTS, e.to, FunctionPhase.BACKWARD) if e.kind == "B" else e for e in edges]
    assert steps_of(plain, fused) - 3 * m == 3 * (p - 1)
    assert steps_of(zb, edges) - 3 * m == p - 1


def test_interleaving_shrinks_the_bubble() -> None:
    """Chunks of half the work: the bubble, in units of a chunk, is the same number of steps, hence half the time."""
    p, m = 4, 8

    def bubble(v: int) -> int:
        name = "interleaved" if v > 1 else "one_f_one_b"
        lists = [[a for a in actions(name, p, v, m, g) if a.kind != "U"] for g in range(p)]
        return steps_of(lists, chain_edges(p, v)) - 2 * m * v

    assert bubble(1) == bubble(2) == 2 * (p - 1)


def test_towers() -> None:
    """Two towers of 1 and 2 stages meet in a trunk of 1: forwards ahead = stages to the end."""
    depth = (1, 2, 1, 0)
    edges = [
        Edge(0, FunctionPhase.FORWARD, 3, FunctionPhase.FORWARD),
        Edge(1, FunctionPhase.FORWARD, 2, FunctionPhase.FORWARD),
        Edge(2, FunctionPhase.FORWARD, 3, FunctionPhase.FORWARD),
    ]
    edges += [Edge(e.to, FunctionPhase.BACKWARD, e.stage, FunctionPhase.BACKWARD) for e in edges]
    for name, m in product(("gpipe", "one_f_one_b", "zero_bubble"), (1, 2, 3, 9)):
        schedules = rolled(name, 4, 1, m, depth)
        lists = [list(actions(name, 4, 1, m, g, depth)) for g in range(4)]
        assert [unroll(s, g) for g, s in enumerate(schedules)] == lists
        assert find_hang(lists, edges) is None


@pytest.mark.parametrize("m", range(4, 40))
@pytest.mark.parametrize("v", [2, 3])
def test_interleaving_has_the_same_bubble_with_any_number_of_micro_batches(m: int, v: int) -> None:
    """From as many as there are groups on: no round waits for another one."""
    p = 4
    lists = [[a for a in actions("interleaved", p, v, m, g) if a.kind != "U"] for g in range(p)]
    assert steps_of(lists, chain_edges(p, v)) - 2 * m * v == 2 * (p - 1)


@pytest.mark.parametrize(("m", "sizes"), [(8, [4, 4]), (9, [5, 4]), (11, [6, 5]), (3, [3]), (7, [7]), (13, [5, 4, 4])])
def test_rounds_of_interleaving(m: int, sizes: list[int]) -> None:
    turn = Turn(4, 2, m)
    found = unroll((Run(FunctionPhase.FORWARD, -1, Affine(0), Affine(2 * m)),), 0, turn)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    rounds = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    assert [(a.chunk, a.mb) for a in found] == [(c, i) for r in rounds for c in range(2) for i in r]


@pytest.mark.parametrize("arguments", [("one_f_one_bee", 1, 4), ("gpipe", 1, 0), ("gpipe", 2, 4)])
def test_what_the_language_cannot_say(arguments: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match="no schedule"):
        check_schedule(*arguments)


def test_hangs_are_found() -> None:
    F, B = (lambda i: Action(FunctionPhase.FORWARD, 0, i)), (lambda i: Action(FunctionPhase.BACKWARD, 0, i))
    edges = chain_edges(2, 1)
    # Stage 0 wants the gradient of micro-batch 1 before it has sent its activation.
    hang = find_hang([[F(0), B(1), F(1), B(0)], [F(0), B(0), F(1), B(1)]], edges)
    assert hang is not None
    assert hang.waiting == ((0, B(1), 1, B(1)), (1, F(1), 0, F(1)))
    assert "stage 0 waits before B[1] for B[1] of stage 1" in str(hang)
    # A micro-batch that is never sent.
    assert find_hang([[F(0)], [F(0), F(1)]], edges) is not None


def test_rendezvous() -> None:
    edges = chain_edges(3, 1)
    assert find_hang([list(actions("gpipe", 3, 1, 4, g)) for g in range(3)], edges, rendezvous=True) is None
    # Blocking sends in both directions at once: 1F1B needs sends that do not block, as everyone who runs it knows.
    stuck = find_hang([list(actions("one_f_one_b", 3, 1, 4, g)) for g in range(3)], edges, rendezvous=True)
    assert stuck is not None


def test_unify_refuses_what_is_not_affine() -> None:
    a, b, c = ((Run(FunctionPhase.FORWARD, 0, Affine(0), Affine(n)),) for n in (1, 2, 4))
    assert unify((0, 1), (a, b)) == (Run(FunctionPhase.FORWARD, 0, Affine(0), Affine(1, 1)),)
    assert unify((0, 1, 2), (a, b, c)) is None
    assert unify((0, 2), (a, b)) is None
    assert unify((0, 1), (a, (Update(),))) is None


def test_the_text_does_not_grow_with_micro_batches() -> None:
    for name in ("gpipe", "one_f_one_b", "zero_bubble", "interleaved"):
        assert sum(len(s) for _, s in families(rolled(name, 16, 2 if name == "interleaved" else 1, 16 * 10**5))) < 10
