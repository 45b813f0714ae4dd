"""How a device reaches the others.

Every method is a generator: it yields where it must wait, and returns its result (`y = yield from comm.all_gather(…)`).
An engine whose calls block never yields. All devices that differ only in the coordinates on `axes` take part; they must
make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any, Protocol, TypeVar

from runtime.distribute import Array

T = TypeVar("T")
Wait = Generator[Hashable, None, T]
"""Yields the key of what is waited for (`runtime.turns`)."""


class Communicator(Protocol):
    """Peers are numbered by their coordinates on `axes`, the first axis major."""

    def all_reduce(self, x: Array, axes: Sequence[str], fn: str) -> Wait[Array]:
        """Sum or max over the peers."""
        ...

    def all_gather(self, x: Array, axes: Sequence[str]) -> Wait[list[Array]]:
        """Every peer's array, in the order of peers."""
        ...

    def reduce_scatter(self, parts: Sequence[Array], axes: Sequence[str], fn: str) -> Wait[Array]:
        """`parts[p]` goes to peer p, which gets the reduction of what all peers have for it."""
        ...

    def all_to_all(self, parts: Sequence[Array], axes: Sequence[str]) -> Wait[list[Array]]:
        """`parts[p]` goes to peer p; the result holds what each peer sent here. Parts may differ in size."""
        ...

    def send(self, key: tuple[Any, ...], group: int, x: Array) -> Wait[None]:
        """Send to the device of the same mesh coordinates in another group."""
        ...

    def recv(self, key: tuple[Any, ...], group: int) -> Wait[Array]:
        """Receive what that device sent under the key."""
        ...

    def stage_reduce(self, key: str, groups: Sequence[int], fn: str, x: Array) -> Wait[Array]:
        """All-reduce over the devices of the same mesh coordinates in these groups."""
        ...
