"""An implementation takes the place of what its scope computes, in the model's graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Names, Node, Value
from compiler.implement.batch import BatchBefore
from compiler.implement.logical import DeviceDim, Dims, Together
from compiler.model import Model
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat
from compiler.origin import within
from compiler.passes.prune import prune
from compiler.strategy import Strategy
from compiler.walk import graph_values
from dsl.data import dataclass
from dsl.source import Span


@dataclass(frozen=True, slots=True, eq=False)
class Implementation:
    """A local graph that computes what a scope of the model does, and is right as far as types see.

    inputs: what each of the graph's inputs is (an argument of the scope's function, by name, or a weight, by path), and
    the pieces in which it enters. results: the pieces of each result. devices: the axes with their dims. lies: of each
    input, then of each result, the dims whose pieces lie in zig-zag order.
    """

    scope: str
    graph: Graph
    inputs: tuple[tuple[str, Dims], ...]
    results: tuple[Dims, ...]
    devices: tuple[DeviceDim, ...]
    span: Span
    lies: tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]] = ((), ())

    def has(self, path: str) -> bool:
        """Whether a scope or a tensor in it has this path."""
        return any(within(v.origin.path, path) for v in graph_values(self.graph)) and within(path, self.scope)


@dataclass(frozen=True, slots=True, eq=False)
class ReplacedScope:
    """Where a scope's function was called: what it was given, by name of an argument or path of a weight, and what it
    gave, as the graph (the model's, or the body of a loop) has it in which the call stands."""

    given: Mapping[str, Value]
    results: tuple[Value, ...]


def replaced(model: Model, found: Sequence[tuple[Implementation, ReplacedScope]], strategy: Strategy) -> Model:
    """The model with implementations in the place of scopes. strategy: which has split the batch before they do."""
    batch, graph = BatchBefore(model, strategy, [i.graph for i, _ in found]), model.graph
    crossing: dict[str, Dims] = {}
    for implementation, place in found:
        graph = _Replacing(graph, implementation, place, batch, crossing).graph()
    return replace(model, graph=graph, crossing=crossing)


class _Replacing:
    """One scope of a graph, in which the call stands or the body of a loop."""

    def __init__(
        self,
        whole: Graph,
        what: Implementation,
        place: ReplacedScope,
        batch: BatchBefore,
        crossing: dict[str, Dims],
    ) -> None:
        self.whole, self.what, self.place, self.batch, self.crossing = whole, what, place, batch, crossing
        self.results = set(place.results)

    def graph(self) -> Graph:
        """With the implementation. Its values may be called as those that are gone."""
        without = self._in(self.whole, self._without)
        kept = (*graph_values(prune(without)), *self.results, *self.place.given.values())
        names = Names(v.name for v in kept)
        made = logical(self.what, self.place, names, self.batch, self.crossing)
        return prune(self._in(without, lambda g: self._with(g, made)))

    def _in(self, graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
        """The graph with a change of that in which the results are used."""
        if self._stands_in(graph):
            return change(graph)
        nodes = []
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                body = self._in(node.op.body, change)
                if body is not node.op.body:
                    node = replace(node, op=replace(node.op, body=body))
            nodes.append(node)
        return graph if all(a is b for a, b in zip(nodes, graph.nodes)) else replace(graph, nodes=tuple(nodes))

    def _stands_in(self, graph: Graph) -> bool:
        read = {v for n in graph.nodes for v in (*n.inputs, *n.outputs)}
        return not self.results.isdisjoint((*read, *graph.outputs))

    def _without(self, graph: Graph) -> Graph:
        """Nobody makes the results; what the scope computed for them alone is dead."""
        return replace(graph, nodes=tuple(self._other(n) for n in graph.nodes))

    def _other(self, node: Node) -> Node:
        if self.results.isdisjoint(node.outputs):
            return node
        return replace(node, outputs=tuple(replace(v) if v in self.results else v for v in node.outputs))

    def _with(self, graph: Graph, made: Sequence[Node]) -> Graph:
        """What makes the results stands before the first node that reads one of them."""
        nodes, results = graph.nodes, self.results
        at = next((i for i, n in enumerate(nodes) if not results.isdisjoint(n.inputs)), len(nodes))
        return replace(graph, nodes=(*nodes[:at], *made, *nodes[at:]))


def logical(
    what: Implementation, place: ReplacedScope, names: Names, batch: BatchBefore, crossing: dict[str, Dims]
) -> list[Node]:
    """The implementation's nodes, which make the values that the scope's own made. crossing: see `Model`."""
    inputs = zip(what.graph.inputs, what.inputs, strict=True)
    entered_as = [(param, place.given[name], dims) for param, (name, dims) in inputs]
    left_as = zip(what.graph.outputs, place.results, what.results, strict=True)
    own = [d.axis for d in what.devices]
    before = batch.inside(what.scope, what.graph, own, [*entered_as, *left_as])
    together = Together(names, what.devices, before)
    for (param, whole, dims), lies in zip(entered_as, what.lies[0], strict=True):
        together.pieces(whole, param, dims, lies, what.span)
    entered = set(together.env.values())
    together.run(what.graph.nodes)
    env: dict[Value, Value] = {}
    rows = zip(what.graph.outputs, what.results, what.lies[1], place.results, strict=True)
    for v, dims, lies, result in rows:
        x = together.whole(v, dims, result.type.names, lies, what.span)
        if x in entered or x in env:  # it is given back as it is, or twice
            x = together.add(Cast(result.type.dtype), x, of=result, span=what.span)
        env[x] = result

    def named(node: Node) -> Node:
        return Node(
            node.op, tuple(env.get(v, v) for v in node.inputs), tuple(env.get(v, v) for v in node.outputs), node.span
        )

    crossing.update((env.get(v, v).name, dims) for v, dims in together.crossing.items())
    return [named(n) for n in together.nodes]
