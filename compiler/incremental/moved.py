"""What is kept of one sequence, copied to another's row: of a model whose rows are at positions of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Renew = Callable[[Builder, Value, Sequence[Value]], Value]
"""What becomes of a state, of which loops have been gone into, with the values that all states share."""


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

    def copied(inside: Builder, v: Value, given: Sequence[Value]) -> Value:
        row = inside.add(Take(rows), v, given[0], name=f"{v.name}.row")
        return inside.add(Scatter(rows), v, row, given[1], name=v.name)

    data = (DataInput(source, 0, size), DataInput(target, 0, size))
    return renewing(model, rows, builder, data, (source, target), copied)


def renewing(
    model: Model, rows: str, builder: Builder, data: Sequence[DataInput], given: Sequence[Value], renew: Renew
) -> Model:
    """The model of the same states that renews those of which there is something for each sequence, and does nothing
    else. builder: has what is computed of the data already; given: what `renew` is given. Its first output is the first
    data."""
    states = [s.value for s in model.states]
    kept = [s for s in model.states if s.value.type.has(rows)]
    made = dict(zip((s.value for s in kept), _renewed(builder, [(s.value, s.loops) for s in kept], given, renew)))
    inputs = tuple(i.value for i in data)
    results = (inputs[0], *(made.get(v, v) for v in states))
    graph = Graph(model.graph.name, (*inputs, *states), tuple(builder.nodes), results)
    outputs = (inputs[0].name,)
    return replace(model, inputs=tuple(data), weights=(), outputs=outputs, graph=graph, stored=())


def _renewed(
    builder: Builder, states: Sequence[tuple[Value, tuple[str, ...]]], given: Sequence[Value], renew: Renew
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
        shared = [replace(v, name=builder.names.fresh(v.name)) for v in given]
        results = _renewed(inside, [(s, loops) for s, (_, loops) in zip(slices, mine)], shared, renew)
        body = Graph(label, (*slices, *shared), tuple(inside.nodes), tuple(results))
        op = Repeat(label, count, body, 0, len(mine))
        outputs = tuple(replace(v, name=builder.names.fresh(v.name)) for v, _ in mine)
        builder.nodes.append(Node(op, (*(v for v, _ in mine), *given), outputs, NOWHERE))
        found.update(zip((v for v, _ in mine), outputs))
    found.update((v, renew(builder, v, given)) for v, loops in states if not loops)
    return [found[v] for v, _ in states]
