"""Tasks of one process that take turns: each runs until it needs something that is not there yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from dsl.diagnostics import fail

T = TypeVar("T", bound=Hashable)
Waits = Iterator[Hashable]
"""A task: yields the key of what it waits for, and looks again when it is resumed."""

_SHOWN = 8


class Turns(Generic[T]):
    """Which tasks may go on, and what the others wait for. `T` stands for a task."""

    def __init__(self) -> None:
        self._ready: deque[T] = deque()
        self._waiting: dict[Hashable, list[T]] = {}

    def arrived(self, key: Hashable) -> None:
        """What has this key is there: who waits for it may go on."""
        self._ready.extend(self._waiting.pop(key, ()))

    def play(self, tasks: Mapping[T, Waits], who: str, told: Callable[[T, Hashable], str]) -> None:
        """Run all tasks to their ends.

        Args:
            tasks: the first turns are taken in this order.
            who: what runs them, in the error's words: `device group`.
            told: a task and the key of what it waits for, as a sentence.

        Raises:
            ParcError: E0702, no task can go on.
        """
        self._ready, self._waiting = deque(tasks), {}
        while self._ready:
            task = self._ready.popleft()
            for key in tasks[task]:
                self._waiting.setdefault(key, []).append(task)
                break
        stuck = [(task, key) for key, waiting in self._waiting.items() for task in waiting]
        if stuck:
            raise fail(
                "E0702", f"the schedule hangs: no {who} can go on",
                notes=[(told(task, key), None) for task, key in stuck[:_SHOWN]],
                help="every receive needs a send that comes before it in the order of the stage that sends",
            )  # fmt: skip
