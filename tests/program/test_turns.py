"""Tasks that take turns."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.schedules.turns import Turns


def test_tasks_go_on_when_what_they_wait_for_is_there() -> None:
    turns: Turns[str, str] = Turns()
    posted: set[str] = set()
    order: list[str] = []

    def task(name: str, *steps: str) -> Iterator[str]:
        """`+x` posts x, `-x` waits for it."""
        for step in steps:
            if step[0] == "+":
                posted.add(step[1:])
                turns.arrived(step[1:])
            else:
                while step[1:] not in posted:
                    yield step[1:]
            order.append(name + step)

    assert turns.play({"a": task("a", "-x", "+y"), "b": task("b", "+x", "-y"), "c": task("c", "-x")}) == []
    assert order == ["b+x", "c-x", "a-x", "a+y", "b-y"]
    assert turns.play({"a": task("a", "-u", "+v"), "b": task("b", "-v"), "c": task("c", "-x")}) == [
        ("a", "u"),
        ("b", "v"),
    ]
