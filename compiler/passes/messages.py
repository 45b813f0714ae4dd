"""What stages send each other of a graph, and by which way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from compiler.graph import Graph
from compiler.passes.readers import users_of
from dsl.data import dataclass

if TYPE_CHECKING:
    from compiler.passes.stage import Stage, Staged


@dataclass(frozen=True, slots=True)
class Ways:
    """ways: of each value that other stages read than the one that makes it, the stages that get it, each with the
    one that it gets it from."""

    ways: Mapping[str, Mapping[int, int]]

    def sent_by(self, stage: int) -> dict[str, list[int]]:
        """Values that the stage sends, its own and those that it hands on -> to whom."""
        found = {v: [to for to, source in way.items() if source == stage] for v, way in self.ways.items()}
        return {v: to for v, to in found.items() if to}

    @property
    def edges(self) -> frozenset[tuple[int, int]]:
        """Which stages send something to which."""
        return frozenset((source, to) for way in self.ways.values() for to, source in way.items())

    def source(self, value: str, stage: int) -> int:
        """From whom the stage gets the value."""
        return self.ways[value][stage]


NOTHING = Ways({})


def messages(
    graph: Graph, staged: Staged, where: Mapping[str, Stage], ends: Iterable[tuple[str, frozenset[int]]], forward: bool
) -> Ways:
    """What the stages send each other, but for what the cut loop carries. ends, forward: as in `users_of`."""
    if staged.stages == 1:
        return NOTHING
    users, _ = users_of(graph, staged, where, ends, forward)
    ways: dict[str, Mapping[int, int]] = {}
    for v in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs)):
        place = where.get(v.name)
        if place is not None and place >= 0 and (others := users.get(v.name, frozenset()) - {place}):
            ways[v.name] = _way(staged, place, others)
    return Ways(ways)


def _way(staged: Staged, source: int, targets: frozenset[int]) -> dict[int, int]:
    """Of each target the stage from which it gets a value of `source`.

    In a pipeline one stage hands it to the next, as it does what the loop carries, so that all stages in the middle do
    alike; within a group of devices it goes from chunk to chunk.
    """
    ordered = sorted(targets, key=lambda t: abs(staged.ranks[t] - staged.ranks[source]))
    if not staged.cuts:
        return dict.fromkeys(ordered, source)
    found: dict[int, int] = {}
    here = {staged.homes.group(source): source}
    before = source
    for t in ordered:
        group = staged.homes.group(t)
        found[t] = here.get(group, before)
        if group not in here:
            before = t
        here[group] = t
    return found
