"""How a device reaches the others: interfaces that a process with a single device can implement.

A call starts something and gives a handle at once; who reads the result waits for it there. What is given to a call may
be freed as soon as the call is over, and changed once the result is there. All peers make the same calls in the same
order; messages go by tags.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from dsl.data import dataclass
from runtime.backend import Array, Shape

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)
Wait = Generator[Hashable, None, T]
"""Yields the key of what is waited for (`compiler.schedules.turns`); an engine whose calls block never yields."""


class Handle(Protocol[T_co]):
    """Something that was started."""

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        ...

    def wait(self) -> Wait[T_co]:
        """The result, once it is there; called once: `x = yield from handle.wait()`."""
        ...


class Communicator(Protocol):
    """A device among its peers. `rank`: its number among them; `size`: how many they are, with itself."""

    rank: int
    size: int

    def all_reduce(self, x: Array, fn: str, spare: bool = False) -> Handle[Array]:
        """Sum or max over the peers. spare: nobody needs `x` any more, whose memory the result may take."""
        ...

    def all_gather(self, x: Array) -> Handle[list[Array]]:
        """Every peer's array, in the order of peers; their shapes are equal."""
        ...

    def reduce_scatter(self, parts: Sequence[Array], fn: str) -> Handle[Array]:
        """`parts[p]` goes to peer p, which gets the reduction of what all peers have for it; shapes are equal."""
        ...

    def all_to_all(self, parts: Sequence[Array], shapes: Sequence[Shape]) -> Handle[list[Array]]:
        """`parts[p]` goes to peer p; the result holds what each peer sent here, of these shapes."""
        ...

    def send(self, x: Array, to: int, tag: tuple[Any, ...]) -> Handle[None]:
        """Send to a peer, oneself included. Peers need not make calls of this kind in the same order."""
        ...

    def recv(self, source: int, tag: tuple[Any, ...], shape: Shape, dtype: str) -> Handle[Array]:
        """Receive what that peer sends under the tag."""
        ...


class Network(Protocol):
    """What connects one device with all others. The same arguments give the same communicator."""

    def over(self, axes: Sequence[str]) -> Communicator:
        """The devices of the own group that differ from this one on these axes only, of which the first is major."""
        ...

    def between(self, groups: Sequence[int]) -> Communicator:
        """The devices of the same mesh coordinates in these groups, in this order; the own group is among them."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Calls of one kind that are made inside may travel as one message; nothing is waited for inside."""
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A handle of what is there already."""

    value: T

    def done(self) -> bool:
        return True

    def wait(self) -> Wait[T]:
        yield from ()
        return self.value


@dataclass(frozen=True, slots=True)
class Then(Generic[T, U]):
    """A handle of what `finish` makes of another one's result."""

    first: Handle[T]
    finish: Callable[[T], U]

    def done(self) -> bool:
        return self.first.done()

    def wait(self) -> Wait[U]:
        return self.finish((yield from self.first.wait()))
