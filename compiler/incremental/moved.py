"""What is kept of one sequence, copied to another's row: of a model whose rows are at positions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import Builder, Dim, Graph, Names, Node, Type, Value
from compiler.model import DataInput, Model
from compiler.ops.index import Scatter, Take
from compiler.ops.repeat import Repeat
from compiler.origin import Origin
from compiler.walk import graph_values
from dsl.source import NOWHERE

SOURCE, TARGET = "source", "target"
"""What the data are called: the numbers of the rows from and to which is copied, `[1]` each."""


def moved(model: Model, rows: str) -> Model:
    """The model of the same states, of which the target's row becomes the source's, and nothing else happens.

    Args:
        model: of new positions, as `by_rows` has it.
        rows: the dim of sequences.

    Its first output is the source.
    """
    size = next(d.size for i in model.inputs for d in i.value.type.dims if d.name == rows)
    names = Names(v.name for v in graph_values(model.graph))
    builder = Builder(names)
    one = Dim(names.fresh("moved"), 1)
    source, target = (Value(names.fresh(n), Type("int32", (one,)), NOWHERE, Origin(n)) for n in (SOURCE, TARGET))
    states = [s.value for s in model.states]
    kept = [s for s in model.states if s.value.type.has(rows)]
    made = dict(zip((s.value for s in kept), _moved(builder, [(s.value, s.loops) for s in kept], rows, source, target)))
    graph = Graph(
        model.graph.name, (source, target, *states), tuple(builder.nodes), (source, *(made.get(v, v) for v in states))
    )
    data = (DataInput(source, 0, size), DataInput(target, 0, size))
    return replace(model, inputs=data, weights=(), outputs=(SOURCE,), graph=graph, stored=())


def _moved(
    builder: Builder, states: Sequence[tuple[Value, tuple[str, ...]]], rows: str, source: Value, target: Value
) -> list[Value]:
    """What becomes of these values, each with the loops that its first dims are of: as in the model, loops stay."""
    found: dict[Value, Value] = {}
    for label in dict.fromkeys(loops[0] for _, loops in states if loops):
        mine = [(v, loops[1:]) for v, loops in states if loops[:1] == (label,)]
        count = mine[0][0].type.size(label)
        inside = Builder(builder.names)
        slices = [
            Value(builder.names.fresh(f"{v.name}.slice"), replace(v.type, dims=v.type.dims[1:]), v.span, v.origin)
            for v, _ in mine
        ]
        given = [replace(v, name=builder.names.fresh(v.name)) for v in (source, target)]
        results = _moved(inside, [(s, loops) for s, (_, loops) in zip(slices, mine)], rows, *given)
        body = Graph(label, (*slices, *given), tuple(inside.nodes), tuple(results))
        op = Repeat(label, count, body, 0, len(mine))
        outputs = tuple(replace(v, name=builder.names.fresh(v.name)) for v, _ in mine)
        builder.nodes.append(Node(op, (*(v for v, _ in mine), source, target), outputs, NOWHERE))
        found.update(zip((v for v, _ in mine), outputs))
    for v in (v for v, loops in states if not loops):
        row = builder.add(Take(rows), v, source, name=f"{v.name}.row")
        found[v] = builder.add(Scatter(rows), v, row, target, name=v.name)
    return [found[v] for v, _ in states]
