"""Visits between the stages of a pipeline: where a scope is placed on a stage that comes too late, or too early."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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

    def cuts(self, cuts: Sequence[CutLoop]) -> tuple[CutLoop, ...]:
        """Loops among these stages, that are cut among the pipeline's."""
        return tuple(c.moved(len(self.homes), self.own) for c in cuts)

    def stage(self, groups: Collection[int], after: int, until: int | None) -> int | None:
        """The first stage of some groups that is not before `after`, and not behind the pipeline's own `until`."""
        end = len(self.homes) - 1 if until is None else self.own[until]
        return next((s for s in range(after, end + 1) if self.homes.group(s) in groups), None)

    def room(self, after: int | None, until: int | None) -> int | None:
        """Before which stage a visit can be that reads what `after` makes, for the pipeline's own `until`; None: there
        is no room between them."""
        if after is None:
            return len(self.homes) if until is None else self.own[until]
        return after + 1 if until is None or after < self.own[until] else None


def needed_at(
    graph: Graph, cuts: Sequence[CutLoop], fixed: Callable[[Node], int | None], rounds: Sequence[Graph] = ()
) -> Mapping[Value, int]:
    """Of values the first stage of the pipeline that reads what is made of them; those that none reads are left out.

    fixed: the stage of a node that is part of the row; rounds: what is made of whole batches before the graph. Who
    reads what has been made there needs the same of a micro-batch: its gradient goes back there.
    """
    found = _needed(graph, cuts, fixed, {})
    if rounds:
        whole = _by_origin(found, graph.inputs)
        for round in reversed(rounds):
            made = _needed(round, cuts, fixed, whole)
            found = {**made, **found}
            for name, at in _by_origin(made, made).items():
                whole[name] = min(at, whole.get(name, at))
        found |= _needed(graph, cuts, fixed, whole)
    return found


def _by_origin(found: Mapping[Value, int], values: Iterable[Value]) -> dict[str, int]:
    """Where values are needed, by the names of those of the forward pass that they are of."""
    return {v.origin.of: found[v] for v in values if v.origin.of and v in found}


def _needed(
    graph: Graph, cuts: Sequence[CutLoop], fixed: Callable[[Node], int | None], whole: Mapping[str, int]
) -> dict[Value, int]:
    """whole: where values are needed besides, by their names."""
    of = {c.label: c for c in cuts}
    found: dict[Value, int] = {}
    for node in reversed(graph.nodes):
        cut = of.get(node.op.label) if isinstance(node.op, Repeat) else None
        at = fixed(node)
        if at is None:
            ends = [at for v in node.outputs for n in (v.name, v.origin.of) if (at := whole.get(n)) is not None]
            at = min((*ends, *(found[v] for v in node.outputs if v in found)), default=None)
        if cut is not None:  # what all its iterations read, too: its gradient goes back to where the loop begins
            at = cut.begin
        for v in node.inputs:
            if at is not None:
                found[v] = min(at, found.get(v, at))
    return found
