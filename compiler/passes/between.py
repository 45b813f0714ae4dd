"""Visits between the stages of a pipeline: where a scope is placed on a stage that comes too late, or too early."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from compiler.graph import Graph, Node, Value
from compiler.homes import Homes
from compiler.ops.repeat import Repeat
from compiler.passes.cuts import CutLoop
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class StageOrder:
    """All stages in the order in which values pass through them. homes: where they are; own: those that the pipeline
    is cut into, by their numbers; the others are visits."""

    homes: Homes
    own: tuple[int, ...]

    @staticmethod
    def of(homes: Homes) -> StageOrder:
        """Of pipelines alone."""
        return StageOrder(homes, tuple(range(len(homes))))

    def with_visit(self, group: int, at: int) -> StageOrder:
        """A visit of a group before the stage `at`."""
        groups = self.homes.groups
        own = tuple(s + (s >= at) for s in self.own)
        return StageOrder(Homes((*groups[:at], group, *groups[at:])), own)

    def with_half(self, at: int) -> StageOrder:
        """The pipeline's stages, `at` of which stands twice, without visits."""
        groups = tuple(self.homes.group(s) for s in self.own)
        return StageOrder.of(Homes((*groups[: at + 1], *groups[at:])))

    def cuts(self, cuts: Sequence[CutLoop]) -> tuple[CutLoop, ...]:
        """Loops among these stages, that are cut among the pipeline's."""
        return tuple(c.moved(len(self.homes), self.own) for c in cuts)

    def stage(self, groups: Collection[int], after: int, until: NeededBy | None) -> int | None:
        """The first stage of some groups that is not before `after`, and where it is needed at the latest."""
        end = len(self.homes) - 1 if until is None else self.own[until.at] - (not until.there)
        return next((s for s in range(after, end + 1) if self.homes.group(s) in groups), None)

    def room(self, after: int | None, until: NeededBy | None) -> int | None:
        """Before which stage a visit can be that reads what `after` makes, and whose results are needed at `until`;
        None: there is no room between them."""
        if after is None:
            return len(self.homes) if until is None else self.own[until.at]
        return after + 1 if until is None or after < self.own[until.at] else None


class NeededBy(NamedTuple):
    """Where a value is needed at the latest: on the pipeline's own stage `at`, if `there`, or before it, since it goes
    through another place on its way there. What is less is earlier."""

    at: int
    there: bool = True


@dataclass(frozen=True, slots=True)
class HalvedStage:
    """The pipeline's stage `at` is two visits of its place: what needs a value that is made elsewhere of what the
    first makes is on the second. behind: names of the values of the forward pass that do."""

    at: int
    behind: frozenset[str]

    def of(self, node: Node, stage: int) -> int:
        """Where a node is that was on a stage when this one was whole."""
        value = node.outputs[0]
        later = value.name in self.behind or value.origin.of in self.behind
        return stage + (stage > self.at or (stage == self.at and later))

    def cuts(self, graphs: Sequence[Graph], cuts: Sequence[CutLoop]) -> tuple[CutLoop, ...]:
        """Loops of the graphs among the stages, of which this is two."""
        nodes = {n.op.label: n for graph in reversed(graphs) for n in graph.nodes if isinstance(n.op, Repeat)}
        found: list[CutLoop] = []
        for c in cuts:
            to = [self.of(nodes[c.label], s) for s in range(len(c.counts))]
            found.append(c.moved(len(c.counts) + 1, to))
        return tuple(found)


def halves(graph: Graph, rounds: Sequence[Graph], at: int, node: Node) -> HalvedStage:
    """Those of a stage between which a node of another place is. rounds: what is made of whole batches before."""
    behind = {v.name for v in node.outputs}
    for g in (*rounds, graph):
        behind.update(v.name for v in g.inputs if v.origin.of in behind)
        for n in g.nodes:
            of = [v.origin.of for v in n.outputs if g is not graph and v.origin.of]  # what it is in the forward pass
            if not behind.isdisjoint([*(v.name for v in (*n.inputs, *n.outputs)), *of]):
                behind.update(v.name for v in n.outputs)
                behind.update(of)
    return HalvedStage(at, frozenset(behind))


def needed_at(
    graph: Graph,
    cuts: Sequence[CutLoop],
    fixed: Callable[[Node], int | None],
    elsewhere: Callable[[Node, int], bool],
    rounds: Sequence[Graph] = (),
) -> Mapping[Value, NeededBy]:
    """Of values where what is made of them is read first in the pipeline; those that it does not read are left out.

    fixed: the stage of a node that is part of the row; elsewhere: whether a node is not to be on a stage; rounds: what
    is made of whole batches before the graph. Who reads what has been made there needs the same of a micro-batch: its
    gradient goes back there.
    """

    def needed(of: Graph, whole: Mapping[str, NeededBy]) -> dict[Value, NeededBy]:
        return _needed(of, cuts, fixed, elsewhere, whole)

    found = needed(graph, {})
    if rounds:
        whole = _by_origin(found, graph.inputs)
        for round in reversed(rounds):
            made = needed(round, whole)
            found = {**made, **found}
            for name, at in _by_origin(made, made).items():
                whole[name] = min(at, whole.get(name, at))
        found |= needed(graph, whole)
    return found


def _by_origin(found: Mapping[Value, NeededBy], values: Iterable[Value]) -> dict[str, NeededBy]:
    """Where values are needed, by the names of those of the forward pass that they are of."""
    return {v.origin.of: found[v] for v in values if v.origin.of and v in found}


def _needed(
    graph: Graph,
    cuts: Sequence[CutLoop],
    fixed: Callable[[Node], int | None],
    elsewhere: Callable[[Node, int], bool],
    whole: Mapping[str, NeededBy],
) -> dict[Value, NeededBy]:
    """whole: where values are needed besides, by their names."""
    of = {c.label: c for c in cuts}
    found: dict[Value, NeededBy] = {}
    for node in reversed(graph.nodes):
        cut = of.get(node.op.label) if isinstance(node.op, Repeat) else None
        own = fixed(node)
        if cut is not None:  # what all its iterations read, too: its gradient goes back to where the loop begins
            own = cut.begin
        if own is not None:
            at: NeededBy | None = NeededBy(own)
        else:
            ends = [at for v in node.outputs for n in (v.name, v.origin.of) if (at := whole.get(n)) is not None]
            at = min((*ends, *(found[v] for v in node.outputs if v in found)), default=None)
            if at is not None and elsewhere(node, at.at):
                at = NeededBy(at.at, there=False)
        for v in node.inputs:
            if at is not None:
                found[v] = min(at, found.get(v, at))
    return found
