"""Devices of one process meet at a hub: a `Network` for tests and proofs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import field
from typing import Any, Generic, TypeVar

from compiler.schedules.turns import Turns
from dsl.data import dataclass
from runtime.backend import Array, Backend, Shape
from runtime.comm.communicator import Done, Wait
from runtime.mesh import Mesh

T = TypeVar("T")


@dataclass
class _Meeting:
    """One call of a collective: what the peers brought; gone when all have taken the result."""

    what: str
    brought: dict[int, Any] = field(default_factory=dict)
    taken: int = 0


class Hub:
    """Where the devices of one process meet. Nothing that is brought here is ever shared: arrays are copied.

    turns: whose tasks are resumed when what they wait for is there.
    """

    def __init__(self, mesh: Mesh, backend: Backend) -> None:
        self.mesh, self.backend = mesh, backend
        self.meetings: dict[Hashable, _Meeting] = {}
        self.mail: dict[Hashable, Array] = {}
        self.turns: Turns[Any, Hashable] = Turns()

    def network(self, group: int, at: Mapping[str, int]) -> HubNetwork:
        """The end of the hub that belongs to the device of a group at these mesh coordinates."""
        return HubNetwork(self, group, dict(at))

    def told(self, key: Any) -> str:
        """What has this key, for people."""
        if key in self.meetings:
            return self.meetings[key].what
        _, _, (name, micro, source, _) = key
        return f"`{name}` of micro-batch {micro} from stage {source}"


class HubNetwork:
    """A device's end of the hub."""

    def __init__(self, hub: Hub, group: int, at: dict[str, int]) -> None:
        self.hub, self.group, self.at = hub, group, at
        self._made: dict[Hashable, HubCommunicator] = {}

    def over(self, axes: Sequence[str]) -> HubCommunicator:
        """The devices of the own group that differ in coordinates on these axes only."""
        key = tuple(axes)
        if key not in self._made:
            rest = tuple(n for a, n in self.at.items() if a not in axes)
            mesh, what = self.hub.mesh, f"over {list(axes)}"
            place = self.group, key, rest
            self._made[key] = HubCommunicator(self.hub, place, what, mesh.piece(axes, self.at), mesh.count(axes))
        return self._made[key]

    def together(self) -> nullcontext[None]:
        """Every call is a message of its own."""
        return nullcontext()

    def between(self, groups: Sequence[int]) -> HubCommunicator:
        """The devices of the same mesh coordinates in these groups."""
        key = tuple(groups)
        if key not in self._made:
            what = f"between groups {list(groups)}"
            place = key, tuple(self.at.values())
            self._made[key] = HubCommunicator(self.hub, place, what, key.index(self.group), len(key))
        return self._made[key]


@dataclass(frozen=True, slots=True)
class _Coming(Generic[T]):
    """A handle: `take` gives the result as soon as `there`."""

    key: Hashable
    there: Callable[[], bool]
    take: Callable[[], T]

    def done(self) -> bool:
        return self.there()

    def wait(self) -> Wait[T]:
        while not self.there():
            yield self.key
        return self.take()


class HubCommunicator:
    """A device among its peers. Calls are paired by their order, messages by tags."""

    def __init__(self, hub: Hub, place: Hashable, peers: str, rank: int, size: int) -> None:
        """`place`: the same for all peers, and for nobody else; `peers`: who they are, for people."""
        self.hub, self.place, self.peers, self.rank, self.size = hub, place, peers, rank, size
        self.calls = 0

    def all_reduce(self, x: Array, fn: str, spare: bool = False) -> _Coming[Array]:
        what = f"all_reduce {fn} {self.peers} of {self._shape(x)}"
        return self._meet(what, self._copy(x), lambda found: self._fold(found, fn))

    def all_gather(self, x: Array) -> _Coming[list[Array]]:
        what = f"all_gather {self.peers} of {self._shape(x)}"
        return self._meet(what, self._copy(x), lambda found: [self._copy(y) for y in found])

    def reduce_scatter(self, parts: Sequence[Array], fn: str) -> _Coming[Array]:
        what = f"reduce_scatter {fn} {self.peers} of {self._shape(parts[0])}"
        mine = [self._copy(p) for p in parts]
        return self._meet(what, mine, lambda found: self._fold([theirs[self.rank] for theirs in found], fn))

    def all_to_all(self, parts: Sequence[Array], shapes: Sequence[Shape]) -> _Coming[list[Array]]:
        def take(found: list[list[Array]]) -> list[Array]:
            got = [self._copy(theirs[self.rank]) for theirs in found]
            if [self._shape(x) for x in got] != list(shapes):
                raise RuntimeError(f"all_to_all {self.peers}: peers send other shapes than {list(shapes)}")
            return got

        return self._meet(f"all_to_all {self.peers}", [self._copy(p) for p in parts], take)

    def send(self, x: Array, to: int, tag: tuple[Any, ...]) -> Done[None]:
        key = self.place, to, tag
        self.hub.mail[key] = self._copy(x)
        self.hub.turns.arrived(key)
        return Done(None)

    def recv(self, source: int, tag: tuple[Any, ...], shape: Shape, dtype: str) -> _Coming[Array]:
        key, mail = (self.place, self.rank, tag), self.hub.mail
        return _Coming(key, lambda: key in mail, lambda: mail.pop(key))

    def _shape(self, x: Array) -> Shape:
        return self.hub.backend.shape(x)

    def _copy(self, x: Array) -> Array:
        return self.hub.backend.copy(x)

    def _fold(self, parts: Sequence[Array], fn: str) -> Array:
        """Sum or max of the parts, in their order; a new array."""
        total = self._copy(parts[0])
        for p in parts[1:]:
            self.hub.backend.accumulate(total, p, fn)
        return total

    def _meet(self, what: str, thing: Any, take: Callable[[list[Any]], T]) -> _Coming[T]:
        """Bring a thing; the result is what `take` makes of everybody's, in the order of peers."""
        self.calls += 1
        key, meetings = (self.place, self.calls), self.hub.meetings
        meeting = meetings.setdefault(key, _Meeting(what))
        if meeting.what != what:
            raise RuntimeError(f"devices that must do the same differ: {meeting.what} and {what}")
        meeting.brought[self.rank] = thing
        if len(meeting.brought) == self.size:
            self.hub.turns.arrived(key)

        def taken() -> T:
            meeting.taken += 1
            if meeting.taken == self.size:
                del meetings[key]
            return take([meeting.brought[i] for i in range(self.size)])

        return _Coming(key, lambda: len(meeting.brought) == self.size, taken)
