"""The batch in pieces by hand: micro-batches, and axes that split it for everything, cut it before they do.

Of each of these parts a device has a piece of its own. So a micro-batch is one of samples that lie together, and pieces
that are gathered are a part of what is split; else either would need the samples of others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from math import prod

from compiler.graph import Dim, Graph, Names, Node, Value
from compiler.implement.written import (
    WrittenAllGather,
    WrittenAllToAll,
    WrittenMessage,
    WrittenPositions,
    WrittenReduceScatter,
    WrittenShard,
    WrittenType,
)
from compiler.model import Model
from compiler.ops.base import majors
from compiler.ops.repeat import Repeat
from compiler.origin import within
from compiler.strategy import Strategy
from compiler.walk import graph_values, walk
from dsl.data import dataclass
from dsl.source import Span

Place = tuple[Value, str]
"""A dim of a value."""

Entered = tuple[Value, Value, Sequence[tuple[str, Sequence[str]]]]
"""A local value, that of the model whose piece it is, and dims with the axes that pieces lie along."""


@dataclass(frozen=True, slots=True)
class PartedBatch:
    """The batch of a local graph, which is in parts before it is in pieces.

    parts: their dim; piece: the name of that of a device's piece of one. micro: how many micro-batches there are, made
    at `span`. places: the dims of local values that the batch goes along.
    """

    dim: str
    parts: Dim
    piece: str
    micro: int
    span: Span
    places: frozenset[Place]


class BatchBefore:
    """What splits the batch of a model before implementations do. graphs: theirs."""

    def __init__(self, model: Model, strategy: Strategy, graphs: Iterable[Graph]) -> None:
        first = next((i.value.type.names[0] for i in model.inputs if i.value.type.dims), "")
        self.dim, self._strategy = strategy.microbatch_dim or first, strategy
        inputs = [(i.value, self.dim) for i in model.inputs if i.value.type.has(self.dim)]
        self._places = along(model.graph, inputs)
        taken = {d for g in (model.graph, *graphs) for v in graph_values(g) for d in v.type.names}
        names = Names(taken | {d for r in strategy.implementations for _, d in r.axes})
        self._parts, self._piece = names.fresh(f"{self.dim}_parts"), names.fresh(f"{self.dim}_piece")

    def inside(self, scope: str, graph: Graph, own: Collection[str], entered: Sequence[Entered]) -> PartedBatch | None:
        """What it is to the implementation of a scope, with axes of its own; None where nothing is cut before, or no
        pieces are taken of it."""
        there = [(v, whole, d) for v, whole, _ in entered for d in v.type.names if (whole, d) in self._places]
        places = along(graph, [(v, d) for v, _, d in there])
        pieces = [(v, d) for v, _, dims in entered for d, axes in dims if axes]
        if not places.intersection((*pieces, *_sent(graph))):
            return None
        (_, whole, dim), micro = there[0], self._strategy.microbatches
        count, most = micro, whole.type.size(dim) // prod(a.size for a in self._strategy.mesh if a.name in own)
        for n in self._degrees(scope, whole, dim, own):
            if most % (count * n) == 0:
                count *= n
        if count == 1:
            return None
        return PartedBatch(
            self.dim, Dim(self._parts, count), self._piece, micro, self._strategy.microbatch_span, places
        )

    def _degrees(self, scope: str, whole: Value, dim: str, own: Collection[str]) -> list[int]:
        """The sizes of the axes, other than its own, by which a value that it is given is split along the dim."""
        found, rules = [], [r for r in self._strategy.splits if within(scope, r.scope) and "activations" in r.classes]
        for axis in self._strategy.mesh:
            named = (d for r in rules if r.axis == axis.name for d in r.dims if whole.type.has(d))
            if axis.name not in own and next(named, None) == dim:
                found.append(axis.size)
        return found


def along(graph: Graph, entered: Iterable[Place]) -> frozenset[Place]:
    """All dims of values of a graph that go along with these ones: an element of one is one of the others.

    In which order pieces of such a dim lie is the same for all of them, else what meets would not belong together.
    """
    same = _Same()
    same.walk(graph)
    first = {same.root(place) for place in entered}
    return frozenset(place for place in same.known() if same.root(place) in first)


def _sent(graph: Graph) -> Iterator[Place]:
    """The dims of which messages put pieces together or take them."""
    for node, _ in walk(graph):
        op = node.op
        if isinstance(op, WrittenAllGather):
            yield node.output, op.into
        elif isinstance(op, WrittenReduceScatter | WrittenShard | WrittenAllToAll):
            yield node.output, op.dim
        if isinstance(op, WrittenAllToAll):
            yield node.output, op.into


class _Same:
    """Dims that go along with one another, as a forest."""

    def __init__(self) -> None:
        self._up: dict[Place, Place] = {}

    def known(self) -> list[Place]:
        return list(self._up)

    def root(self, place: Place) -> Place:
        self._up.setdefault(place, place)
        while self._up[place] != place:
            self._up[place] = place = self._up[self._up[place]]
        return place

    def join(self, one: Place, other: Place) -> None:
        self._up[self.root(one)] = self.root(other)

    def alike(self, one: Value, other: Value) -> None:
        """All dims that both have."""
        for dim in one.type.names:
            if other.type.has(dim):
                self.join((one, dim), (other, dim))

    def walk(self, graph: Graph) -> None:
        for v in (*graph.inputs, *graph.outputs):
            for dim in v.type.names:
                self.root((v, dim))
        for node in graph.nodes:
            op = node.op
            if isinstance(op, Repeat):
                self.walk(op.body)
                for pair in zip(node.inputs, op.body.inputs):
                    self.alike(*pair)
                for pair in zip(op.body.outputs, node.outputs):
                    self.alike(*pair)
                for pair in zip(op.body.outputs, op.body.inputs[: op.carries]):
                    self.alike(*pair)
                continue
            if isinstance(op, WrittenAllGather):
                self.join((node.inputs[0], op.dim), (node.output, op.into))
            if isinstance(op, WrittenMessage | WrittenType):
                for v in node.inputs:
                    self.alike(v, node.output)
            elif isinstance(op, WrittenPositions):
                self.root((node.output, op.dim.name))
            else:
                self._local(node)

    def _local(self, node: Node) -> None:
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        for k, loop in enumerate(loops):
            if loop.kind == "minor" and any(loops[m].size > 1 for m in majors(loops, k)):
                continue  # a part of a dim behind others is no place in it
            sides = (*zip(node.inputs, loop.ins), *zip(node.outputs, loop.outs))
            places = [(v, name) for v, name in sides if name is not None]
            for place in places:
                self.join(places[0], place)
