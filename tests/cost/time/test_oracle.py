"""The oracle's engine on cases small enough to compute by hand; every rank against one of each class."""

from __future__ import annotations

import pytest

from tests.cost.time.items import Barrier, Item, Meet, Post, Step, Wait, Work, play


def pipeline(stages: int, micro: int, ranks: int) -> list[list[Item]]:
    """Forward only; in each activation the `ranks` ranks of a stage meet."""
    players: list[list[Item]] = []
    for s in range(stages):
        for r in range(ranks):
            items: list[Item] = []
            for m in range(micro):
                items += [Wait(f"{s - 1}.{r}.{m}")] if s else []
                items += [Work("F", 10 + s), Meet(f"{s}.{m}", ranks, 3)]
                items += [Post(f"{s}.{r}.{m}", 2)] if s < stages - 1 else []
            players.append(items)
    return players


def test_a_pipeline_by_hand() -> None:
    # Stage 0 ends at 13, 26; messages arrive at 15, 28. Stage 1 takes 14: ends at 29, 43.
    played = play(pipeline(2, 2, 1))
    assert played.ends == (26, 43)
    assert played.busy == (20, 22)
    assert played.bubble == pytest.approx(1 - 42 / 86)


def test_a_link_sends_in_order() -> None:
    assert play([[Post("a", 5), Post("b", 5)], [Wait("b"), Work("x", 1)]]).ends == (0, 11)


def test_every_rank_ends_as_its_class() -> None:
    one = play(pipeline(3, 4, 1)).ends
    assert play(pipeline(3, 4, 4)).ends == tuple(e for e in one for _ in range(4))


def test_waiting_for_nothing_is_an_error() -> None:
    with pytest.raises(ValueError):
        play([[Wait("a")]])


def test_streams_run_beside_each_other_and_in_order() -> None:
    # A kernel of 10; a message of 7 beside it; a second message waits for the stream; the kernel after for its result.
    items: list[Item] = [Step(0, 10), Step(1, 7), Step(1, 7), Step(0, 5, (2,)), Barrier()]
    assert play([items], streams=2).ends == (19,)
    items[2] = Step(1, 7, (), True)  # blocking: it starts after the kernel
    assert play([items], streams=2).ends == (22,)


def test_a_message_starts_when_the_last_member_comes() -> None:
    players: list[list[Item]] = [[Step(0, d), Step(1, 3, (0,), key="x", members=3), Barrier()] for d in (5, 9, 1)]
    assert play(players, streams=2).ends == (12, 12, 12)


def test_posts_leave_when_they_are_ready() -> None:
    early: list[Item] = [Work("F", 10), Post("a", 4, early=7)]
    late: list[Item] = [Step(0, 3), Step(0, 7), Barrier(), Post("a", 4, deps=(0,))]
    for sender in (early, late):
        assert play([sender, [Wait("a")]]).ends == (10, 7)
    assert play([[Work("F", 10), Post("a", 4, blocking=True)], [Wait("a")]]).ends == (14, 14)
