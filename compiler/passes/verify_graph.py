"""Is a graph legal? A table of rules, each a function that yields what is wrong. Cheap enough to be left on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.base import OpError
from compiler.ops.repeat import Repeat
from compiler.walk import graph_values


class GraphError(Exception):
    """A pass made an illegal graph: a bug of ours, not of the user's. `problems` lists everything found."""

    def __init__(self, graph: str, problems: Sequence[str]) -> None:
        super().__init__(f"graph {graph}:\n  " + "\n  ".join(problems))
        self.problems = tuple(problems)


def bodies(graph: Graph) -> Iterator[Graph]:
    """The graph and the bodies of all loops in it."""
    yield graph
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            yield from bodies(node.op.body)


def names_unique(graph: Graph) -> Iterator[str]:
    """No two values of a graph, its loops' bodies included, have the same name; none is defined twice."""
    seen: set[str] = set()
    for v in graph_values(graph):
        if v.name in seen:
            yield f"%{v.name} is defined twice"
        seen.add(v.name)


def defined_before_use(graph: Graph) -> Iterator[str]:
    """Operands are inputs or results of earlier nodes of the same graph: bodies see their parameters only."""
    for g in bodies(graph):
        known: set[Value] = set(g.inputs)
        for node in g.nodes:
            yield from (f"{_at(node)} uses %{v.name} before its definition" for v in node.inputs if v not in known)
            known.update(node.outputs)
        yield from (f"{g.name} puts out %{v.name}, which is not defined" for v in g.outputs if v not in known)


def dims_distinct(graph: Graph) -> Iterator[str]:
    """No tensor has a dim twice; sizes are positive."""
    for v in graph_values(graph):
        if len(set(v.type.names)) != len(v.type.dims) or any(d.size < 1 for d in v.type.dims):
            yield f"{v} is not a tensor"


def types_inferred(graph: Graph) -> Iterator[str]:
    """Every op accepts its operands' types and gives the types that its results state."""
    for g in bodies(graph):
        for node in g.nodes:
            try:
                types = node.op.infer(*(v.type for v in node.inputs))
            except OpError as error:
                yield f"{_at(node)}: {error.message}"
                continue
            if types != tuple(v.type for v in node.outputs):
                stated = ", ".join(str(v.type) for v in node.outputs)
                yield f"{_at(node)} states {stated}, its op gives {', '.join(map(str, types))}"


def loops_fit(graph: Graph) -> Iterator[str]:
    """Numbers of carries, stacks, parameters and results of loops agree."""
    for g in bodies(graph):
        for node in g.nodes:
            op = node.op
            if not isinstance(op, Repeat):
                continue
            if op.count < 1:
                yield f"{_at(node)} runs {op.count} times"
            if op.carries + op.stacks > len(node.inputs) or op.carries > len(op.body.outputs):
                yield f"{_at(node)} has {op.carries} carries and {op.stacks} stacks, but {len(node.inputs)} operands"
            if len(op.body.outputs) != len(node.outputs):
                yield f"{_at(node)} has {len(node.outputs)} results, its body {len(op.body.outputs)}"


def _at(node: Node) -> str:
    names = ", ".join(f"%{v.name}" for v in node.outputs)
    return f"{names} = {node.op.mnemonic}"


RULES: tuple[Callable[[Graph], Iterator[str]], ...] = (
    names_unique,
    dims_distinct,
    defined_before_use,
    loops_fit,
    types_inferred,
)


def verify_graph(graph: Graph) -> None:
    """Raise GraphError with all violations of the first rule that is broken."""
    for rule in RULES:
        problems = list(rule(graph))
        if problems:
            raise GraphError(graph.name, problems)


def verify_names(*graphs: Graph) -> None:
    """Across the graphs, one name means one value."""
    known: dict[str, Value] = {}
    for graph in graphs:
        clashes = [v.name for v in graph_values(graph) if known.setdefault(v.name, v) is not v]
        if clashes:
            raise GraphError(graph.name, [f"%{n} is another value in another graph" for n in clashes])
