"""Devices of one process meet at a hub: a `Communicator` for tests and proofs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.comm.communicator import Wait
from runtime.distribute import Array, Mesh
from runtime.turns import Turns


@dataclass
class _Meeting:
    """One call of a collective: what the peers brought; emptied when all have taken the result."""

    what: str
    brought: dict[int, Any] = field(default_factory=dict)
    taken: int = 0


class Hub:
    """Where the devices of one process meet. Nothing that is brought here is ever shared: arrays are copied.

    turns: whose tasks are resumed when what they wait for is there.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.meetings: dict[Hashable, _Meeting] = {}
        self.mail: dict[Hashable, Array] = {}
        self.turns: Turns[Any] = Turns()

    def communicator(self, group: int, at: Mapping[str, int]) -> LocalCommunicator:
        return LocalCommunicator(self, group, dict(at))

    def told(self, key: Any) -> str:
        """What has this key, for people."""
        if key in self.meetings:
            return self.meetings[key].what
        _, _, name, micro, source, _ = key
        return f"`{name}` of micro-batch {micro} from stage {source}"


class LocalCommunicator:
    """A device's end of the hub."""

    def __init__(self, hub: Hub, group: int, at: dict[str, int]) -> None:
        self.hub, self.group, self.at = hub, group, at
        self.calls: dict[tuple[str, ...], int] = {}

    def _meet(self, place: tuple[Any, ...], me: int, count: int, what: str, thing: Any) -> Wait[list[Any]]:
        """Bring a thing, wait for all peers, and get everybody's in the order of peers."""
        meeting = self.hub.meetings.setdefault(place, _Meeting(what))
        if meeting.what != what:
            raise RuntimeError(f"devices that must do the same differ: {meeting.what} and {what}")
        meeting.brought[me] = thing
        if len(meeting.brought) == count:
            self.hub.turns.arrived(place)
        while len(meeting.brought) < count:
            yield place
        things = [meeting.brought[i] for i in range(count)]
        meeting.taken += 1
        if meeting.taken == count:
            del self.hub.meetings[place]
        return things

    def _exchange(self, axes: Sequence[str], what: str, thing: Any) -> Wait[list[Any]]:
        key = tuple(axes)
        self.calls[key] = self.calls.get(key, 0) + 1
        rest = tuple(n for a, n in self.at.items() if a not in axes)
        place = (self.group, key, rest, self.calls[key])
        me, count = self.hub.mesh.piece(axes, self.at), self.hub.mesh.count(axes)
        return (yield from self._meet(place, me, count, what, thing))

    def all_reduce(self, x: Array, axes: Sequence[str], fn: str) -> Wait[Array]:
        return fold((yield from self._exchange(axes, f"all_reduce {fn} over {list(axes)} of {x.shape}", x.copy())), fn)

    def all_gather(self, x: Array, axes: Sequence[str]) -> Wait[list[Array]]:
        found = yield from self._exchange(axes, f"all_gather over {list(axes)} of {x.shape}", x.copy())
        return [y.copy() for y in found]

    def reduce_scatter(self, parts: Sequence[Array], axes: Sequence[str], fn: str) -> Wait[Array]:
        what = f"reduce_scatter {fn} over {list(axes)} of {parts[0].shape}"
        found = yield from self._exchange(axes, what, [p.copy() for p in parts])
        me = self.hub.mesh.piece(axes, self.at)
        return fold([brought[me] for brought in found], fn)

    def all_to_all(self, parts: Sequence[Array], axes: Sequence[str]) -> Wait[list[Array]]:
        what = f"all_to_all over {list(axes)}"
        found = yield from self._exchange(axes, what, [p.copy() for p in parts])
        me = self.hub.mesh.piece(axes, self.at)
        return [brought[me].copy() for brought in found]

    def send(self, key: tuple[Any, ...], group: int, x: Array) -> Wait[None]:
        place = (group, tuple(self.at.items()), *key)
        self.hub.mail[place] = x.copy()
        self.hub.turns.arrived(place)
        yield from ()  # a generator, like the others

    def recv(self, key: tuple[Any, ...], group: int) -> Wait[Array]:
        place = (self.group, tuple(self.at.items()), *key)
        while place not in self.hub.mail:
            yield place
        return self.hub.mail.pop(place)

    def stage_reduce(self, key: str, groups: Sequence[int], fn: str, x: Array) -> Wait[Array]:
        place = (key, tuple(groups), tuple(self.at.items()))
        what = f"the reduction `{key}` over groups {list(groups)}"
        return fold((yield from self._meet(place, list(groups).index(self.group), len(groups), what, x.copy())), fn)


def fold(parts: Sequence[Array], fn: str) -> Array:
    """Sum or max of the parts, in their order; a new array."""
    total = parts[0].copy()
    for p in parts[1:]:
        total = np.asarray(total + p if fn == "sum" else np.maximum(total, p))
    return total
