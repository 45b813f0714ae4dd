"""Tasks that take turns: each goes on until it needs something that is not there yet. Who hangs, and on what."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
K = TypeVar("K", bound=Hashable)


class Turns(Generic[T, K]):
    """Which tasks may go on, and what the others wait for.

    A task is an iterator, `T` stands for it: it yields the key `K` of what it waits for, and looks again when resumed.
    """

    def __init__(self) -> None:
        self._ready: deque[T] = deque()
        self._waiting: dict[K, list[T]] = {}

    def arrived(self, key: K) -> None:
        """What has this key is there: who waits for it may go on."""
        if key in self._waiting:
            self._ready.extend(self._waiting.pop(key))

    def play(self, tasks: Mapping[T, Iterator[K]]) -> list[tuple[T, K]]:
        """Run all tasks to their ends; the first turns are taken in their order.

        Returns:
            The tasks that hang, in that order, each with the key of what it waits for; none if all came to their ends.
        """
        self._ready, self._waiting = deque(tasks), {}
        while self._ready:
            task = self._ready.popleft()
            for key in tasks[task]:
                self._waiting.setdefault(key, []).append(task)
                break
        hanging = {task: key for key, waiting in self._waiting.items() for task in waiting}
        return [(task, hanging[task]) for task in tasks if task in hanging]
