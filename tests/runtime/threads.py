"""A second network: one thread per device, mailboxes between them, and calls that block. It never yields.

What a process per device needs of the interpreter is all that is used here: a device knows its own place, and gets its
own weights and data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from queue import Queue
from threading import Lock
from typing import Any

from compiler.program import Program
from runtime.backend import Array, Backend, Shape
from runtime.comm import Done, Wait
from runtime.executor import inputs_of
from runtime.mesh import Mesh
from runtime.rank.initial import OneDevice
from runtime.rank.interpreter import Rank

SECONDS = 60


class Post:
    """Mailboxes, by who sends what to whom."""

    def __init__(self) -> None:
        self._boxes: dict[Any, Queue[Any]] = defaultdict(Queue)
        self._lock = Lock()

    def box(self, key: Any) -> Queue[Any]:
        with self._lock:
            return self._boxes[key]


@dataclass(frozen=True)
class Later:
    """A handle that blocks."""

    get: Callable[[], Any]

    def done(self) -> bool:
        return False

    def wait(self) -> Wait[Any]:
        yield from ()
        return self.get()


class Peers:
    """A communicator. Every exchange is a message to each peer, numbered by the call."""

    def __init__(self, post: Post, place: Any, rank: int, size: int, backend: Backend) -> None:
        self.post, self.place, self.rank, self.size, self.backend, self.calls = post, place, rank, size, backend, 0

    def _exchange(self, parts: Sequence[Array], finish: Callable[[list[Array]], Any]) -> Later:
        self.calls += 1
        call = self.calls
        for to, x in enumerate(parts):
            self.post.box((self.place, call, self.rank, to)).put(self.backend.copy(x))
        boxes = [self.post.box((self.place, call, p, self.rank)) for p in range(self.size)]
        return Later(lambda: finish([b.get(timeout=SECONDS) for b in boxes]))

    def _fold(self, parts: list[Array], fn: str) -> Array:
        for p in parts[1:]:
            self.backend.accumulate(parts[0], p, fn)
        return parts[0]

    def all_reduce(self, x: Array, fn: str, spare: bool = False) -> Later:
        return self._exchange([x] * self.size, lambda found: self._fold(found, fn))

    def all_gather(self, x: Array) -> Later:
        return self._exchange([x] * self.size, lambda found: found)

    def reduce_scatter(self, parts: Sequence[Array], fn: str) -> Later:
        return self._exchange(parts, lambda found: self._fold(found, fn))

    def all_to_all(self, parts: Sequence[Array], shapes: Sequence[Shape]) -> Later:
        return self._exchange(parts, lambda found: found)

    def send(self, x: Array, to: int, tag: tuple[Any, ...]) -> Done[None]:
        self.post.box((self.place, tag, to)).put(self.backend.copy(x))
        return Done(None)

    def recv(self, source: int, tag: tuple[Any, ...], shape: Shape, dtype: str) -> Later:
        return Later(lambda: self.post.box((self.place, tag, self.rank)).get(timeout=SECONDS))


class Threads:
    """A device's network."""

    def __init__(self, post: Post, mesh: Mesh, group: int, at: Mapping[str, int], backend: Backend) -> None:
        self.post, self.mesh, self.group, self.at, self.backend = post, mesh, group, at, backend
        self._made: dict[Any, Peers] = {}

    def over(self, axes: Sequence[str]) -> Peers:
        rest = tuple(n for a, n in self.at.items() if a not in axes)
        key = (self.group, tuple(axes), rest)
        return self._peers(key, self.mesh.piece(axes, self.at), self.mesh.count(axes))

    def together(self) -> nullcontext[None]:
        return nullcontext()

    def between(self, groups: Sequence[int]) -> Peers:
        return self._peers((tuple(groups), tuple(self.at.values())), list(groups).index(self.group), len(groups))

    def _peers(self, key: Any, rank: int, size: int) -> Peers:
        if key not in self._made:
            self._made[key] = Peers(self.post, key, rank, size, self.backend)
        return self._made[key]


def devices(program: Program, backend: Backend, kind: type[Rank] = Rank) -> list[Rank]:
    """All devices, each with its own weights."""
    post, mesh, found = Post(), Mesh.of(program), []
    for cls in program.classes:
        for g in cls.groups:
            for at in mesh.devices:
                device = kind(OneDevice(program, cls, g, at, Threads(post, mesh, g, at, backend), backend))
                device.begin()
                found.append(device)
    return found


def step(found: Sequence[Rank], pieces: Callable[[Rank, str, Any], Sequence[Array]]) -> None:
    """A step of all devices, one thread each. `pieces`: of an input, by name and the value that it becomes."""

    def run(device: Rank) -> None:
        for (name, _), var in inputs_of(device.cls).items():
            device.put_inputs(name, var, pieces(device, name, var))
        for _ in device.step():
            raise AssertionError("a network that blocks has nothing to wait for")

    with ThreadPoolExecutor(len(found)) as pool:
        list(pool.map(run, found))
