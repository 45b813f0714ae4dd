"""The engine on cases small enough to compute by hand; every rank against one of each class."""

from __future__ import annotations

import pytest

from compiler.cost.engine import Item, Meet, Post, Wait, Work, play


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
